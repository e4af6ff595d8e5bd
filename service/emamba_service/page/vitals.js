// Asks the service how it fares, once a second, and shows it. What is not measured is not shown.

import { ask } from "./stream.js";

const EVERY_MS = 1000;
const GROUPS = { pl_core: "accelerator", pl: "PL", ps: "PS" };
const NAMES = { board: "board (FPGA)", emulator: "emulator (no board)", native: "native (this CPU)", mirror: "mirror (reference)" };
const $ = (id) => document.getElementById(id);

export class Vitals {
  // `model()` names the model shown; `told(vitals or null)` gets each answer, null for none.
  constructor(model, told) {
    this.model = model;
    this.told = told;
    this.history = [];
    this.poll();
  }

  async poll() {
    let vitals = null;
    if (!document.hidden) {
      try {
        vitals = await ask("v1/vitals");
        this.show(vitals);
      } catch (error) {
        this.forget();
        // In front of several boards there is nothing to say of one.
        if (error.status === 403) tell("one of a fleet", "ready", "");
        else tell("no answer", "failed", "The service does not answer.");
      }
      this.told(vitals);
    }
    setTimeout(() => this.poll(), EVERY_MS);
  }

  // What was true is not known any more.
  forget() {
    this.history = [];
    for (const row of ["power", "energy", "temperature", "unmeasured"]) $(`${row}-row`).hidden = true;
    $("shadow").classList.remove("bad");
    $("shadow").textContent = $("total").textContent = "–";
  }

  show(vitals) {
    const one = vitals.models.find(({ model }) => model === this.model()) ?? vitals.models[0];
    if (one) engine(one);
    $("total").textContent = sum(vitals).toLocaleString("en");
    shadow(vitals.shadow);
    measured("power", vitals.power_w, ([group, watts]) => `${GROUPS[group] ?? group} ${watts.toFixed(2)} W`);
    measured("temperature", vitals.temperature_c, ([sensor, value]) => `${sensor} ${value.toFixed(1)} °C`);
    $("unmeasured-row").hidden = Boolean(vitals.power_w || vitals.temperature_c);
    this.energy(vitals);
  }

  // Energy of the accelerator's rails over the last seconds, idle times included, by frame.
  energy(vitals) {
    this.history = [...this.history.slice(-5), vitals];
    const before = this.history[0];
    const frames = sum(vitals) - sum(before);
    const joules = vitals.energy_j?.pl_core - before.energy_j?.pl_core;
    const known = frames > 0 && joules >= 0;
    $("energy-row").hidden = !known;
    if (known) $("energy").textContent = `${((1000 * joules) / frames).toFixed(3)} mJ, idle included`;
  }
}

const sum = ({ models }) => models.reduce((total, { frames }) => total + frames, 0);

function engine({ engine, state, reason }) {
  const name = NAMES[engine] ?? engine;
  tell(name, state, state === "ready" ? "" : `Engine ${name} is ${state}${reason ? `: ${reason}` : ""}`);
}

function tell(name, state, alarm) {
  $("engine").textContent = `engine: ${name}`;
  $("engine").dataset.state = state;
  // Written only when it changes: it is read aloud.
  if ($("alarm").textContent !== alarm) $("alarm").textContent = alarm;
  $("alarm").hidden = !alarm;
}

function shadow(counts) {
  const cell = $("shadow");
  cell.classList.toggle("bad", counts?.mismatches > 0);
  cell.textContent = !counts ? "off" : counts.mismatches
    ? `${counts.mismatches} MISMATCHES, ${counts.matches} match`
    : `${counts.matches.toLocaleString("en")} match, none differ`;
}

function measured(name, values, text) {
  $(`${name}-row`).hidden = !values;
  if (values) $(name).textContent = Object.entries(values).map(text).join(", ");
}
