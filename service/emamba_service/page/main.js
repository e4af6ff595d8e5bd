// The page: one source at a time, what it shows, and the controls.

import { JOINTS, between, errorCm } from "./body.js";
import { Camera } from "./camera.js";
import { LatencyCharts } from "./charts.js";
import { readFrames } from "./files.js";
import { Images } from "./images.js";
import { Recording } from "./record.js";
import { Scene, colours } from "./scene.js";
import { Player, Watcher } from "./sources.js";
import { ask, route, saveToken } from "./stream.js";
import { Vitals } from "./vitals.js";

const $ = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const RATE_S = 3;
const SAY_MS = 5000;
const FIRST = { subject: 2, movement: 6 }; // A squat: more points and motion than any other.

// What is shown now, and when its newest frame was first drawn; tests and benchmarks read it too.
export const shown = { frame: null, state: "loading", drawings: 0, drawn_ms: 0 };

const camera = new Camera(() => { stale = true; });
const scenes = [new Scene($("skeleton"), camera), new Scene($("cloud"), camera)];
const charts = new LatencyCharts($("bar"), $("stages"), $("spark"), $("latency"));
const images = new Images();
let palette = colours();
let stale = true; // Whether something changed since the last drawing.
let source = null;
let choice = 0; // Counts choices of a source: a file that comes after a later choice is dropped.
let recording = null;
let model = null;
let runs = [];
let before = null; // What was on the screen when the newest frame came.
let arrivals = [];
let errors = { sum: 0, count: 0 };

// What sources tell.

const on = {
  hello(document) {
    model = document.model;
  },
  state(state, detail) {
    if (state === "closed") return;
    shown.state = state;
    stale = true;
    if (state === "connecting") say(shown.frame ? "Connecting again…" : "Connecting…");
    else if (state === "open") say(source instanceof Watcher && !shown.frame ? "Connected; no frame has come yet." : "");
    else lost(detail);
  },
  problem(sentence) {
    say(sentence, "error");
  },
  frame(frame) {
    before = bodies(performance.now());
    shown.frame = frame;
    const now = performance.now();
    arrivals = [...arrivals.filter((at) => now - at < 1000 * RATE_S), now];
    if (frame.timing_us) charts.add(frame.timing_us);
    if (frame.labels) {
      errors.sum += errorCm(frame.joints, frame.labels);
      errors.count += 1;
    }
    recording?.add(frame);
    if (recording?.isFull) record(false);
    if ($("notice").textContent) say("");
    draw();
    shown.drawn_ms = performance.timeOrigin + performance.now();
  },
};

async function lost({ seconds, reason, refused }) {
  say(`${reason || "The connection is lost"}. Trying again in ${seconds.toFixed(1)} s.`, "error");
  if (!refused) return;
  // A refused handshake tells a page nothing; a request does.
  const status = await ask("v1/pose", { method: "POST", body: "{}" }).catch((error) => error.status);
  $("token").hidden = status !== 401;
}

function say(sentence, kind = "") {
  $("notice").textContent = sentence;
  $("notice").dataset.kind = kind;
  $("notice").hidden = !sentence;
}

// Drawing.

// The joints and labels to draw now: on their way from the last frame's to the newest's, unless
// motion is to be reduced or the source is paused.
function bodies(now) {
  const { frame } = shown;
  if (!frame) return {};
  const last = arrivals.at(-1);
  const spacing = arrivals.length > 1 ? (last - arrivals[0]) / (arrivals.length - 1) : 100;
  const part = calm.matches || !source?.playing ? 1 : (now - last) / Math.min(250, Math.max(1, spacing));
  return {
    joints: between(before?.joints, frame.joints, part),
    labels: frame.labels && between(before?.labels, frame.labels, part),
  };
}

function draw() {
  const { frame, state } = shown;
  const faded = state !== "open";
  scenes[0].draw({ ...bodies(performance.now()), faded }, palette);
  scenes[1].draw({ points: frame?.points, faded }, palette);
  shown.drawings += 1;
}

function animate() {
  const moving = performance.now() - (arrivals.at(-1) ?? -1e4) < 300;
  if ((moving || stale) && !$("pose").hidden) {
    stale = false;
    draw();
  }
  requestAnimationFrame(animate);
}

function tellNumbers() {
  const { frame } = shown;
  const now = performance.now();
  const recent = arrivals.filter((at) => now - at < 1000 * RATE_S);
  const span_s = (recent.at(-1) - recent[0]) / 1000;
  $("rate").textContent = recent.length > 1 ? ((recent.length - 1) / span_s).toFixed(1) : "0";
  $("trip").textContent = frame?.trip_ms ? `${frame.trip_ms.toFixed(1)} ms` : "–";
  $("error-row").hidden = $("key-labels").hidden = !frame?.labels;
  if (frame?.labels) {
    $("error").textContent = `${errorCm(frame.joints, frame.labels).toFixed(1)} cm, mean ${(errors.sum / errors.count).toFixed(1)} cm`;
  }
  charts.draw(palette);
  if ($("numbers").open && frame) tellJoints(frame.joints);
}

function tellJoints(joints) {
  $("joints").replaceChildren(...joints.map((joint, j) => {
    const row = document.createElement("tr");
    const name = Object.assign(document.createElement("th"), { scope: "row", textContent: JOINTS[j] });
    row.append(name, ...joint.map((value) => Object.assign(document.createElement("td"), { textContent: value.toFixed(3) })));
    return row;
  }));
}

// For those who do not see the drawing: the state, in a sentence.
function tellState() {
  const what = $("source").selectedOptions[0].textContent.toLowerCase();
  const error = errors.count ? `, mean error ${(errors.sum / errors.count).toFixed(1)} cm` : "";
  const playing = source?.playing ? "playing" : "paused";
  const state = { open: playing, idle: "nothing to show" }[shown.state] ?? "no connection";
  $("summary").textContent = `${what}: ${state}, ${$("rate").textContent} frames/s${error}, ${$("engine").textContent}.`;
}

// Sources.

function start(made) {
  source?.close();
  before = shown.frame = null;
  arrivals = [];
  errors = { sum: 0, count: 0 };
  stale = true;
  source = made;
  if (!source) shown.state = "idle";
  else {
    source.speed = Number($("speed").value);
    source.play($("play").getAttribute("aria-pressed") === "true");
  }
}

async function startReplay() {
  const mine = ++choice;
  const run = runs.find((one) => one.subject === Number($("subject").value) && one.movement === Number($("movement").value));
  say("Loading the replay…");
  const answer = await fetch(route(`page/replay/${run.file}`));
  const frames = await readFrames(run.file, await answer.blob());
  if (mine === choice) start(new Player(frames, on));
}

async function startFile(file) {
  show("file");
  const mine = ++choice;
  start(null);
  try {
    const frames = await readFrames(file.name, file);
    if (mine === choice) start(new Player(frames, on));
  } catch (error) {
    say(error.message, "error");
  }
}

function startLive() {
  const name = $("stream").value;
  start(name ? new Watcher(name, on) : null);
  if (!name) say("No stream is published now. Connect a radar or any source with: emamba-client live --publish NAME");
}

function show(kind) {
  $("source").value = kind;
  for (const part of document.querySelectorAll("[data-for]")) part.hidden = part.dataset.for !== kind;
  $("step").hidden = $("speed").parentElement.hidden = kind === "live";
}

async function choose() {
  const kind = $("source").value;
  choice += 1;
  show(kind);
  try {
    if (kind === "replay") await startReplay();
    else if (kind === "live") await listStreams().then(startLive);
    else {
      start(null);
      say("Choose a recording, or drop one anywhere on this page: .npz, .npy, .json, .jsonl or .csv.");
    }
  } catch (error) {
    start(null);
    say(`${error.message}. Choose a source to try again.`, "error");
  }
}

async function listStreams(wanted = $("stream").value) {
  const { streams } = await ask("v1/streams");
  const names = [...new Set([...streams.map(({ name }) => name), ...(wanted ? [wanted] : [])])];
  $("stream").replaceChildren(...names.map((name) => new Option(name)));
  if (wanted) $("stream").value = wanted;
}

// Look again while there is none to watch.
async function refreshStreams() {
  if ($("source").value !== "live" || source) return;
  await listStreams().catch(() => {});
  if ($("stream").value) startLive();
}

function listMovements() {
  const kept = $("movement").value;
  const here = runs.filter(({ subject }) => subject === Number($("subject").value));
  $("movement").replaceChildren(...here.map((run) => new Option(`${run.movement} ${run.name}`, run.movement)));
  if (here.some(({ movement }) => String(movement) === kept)) $("movement").value = kept;
}

// Controls.

function play(playing) {
  $("play").setAttribute("aria-pressed", playing);
  $("play").textContent = playing ? "Pause" : "Play";
  source?.play(playing);
}

function step() {
  play(false);
  source?.step?.();
}

function record(wanted) {
  if (!wanted && recording?.lines.length) recording.save();
  recording = wanted ? new Recording() : null;
  $("record").setAttribute("aria-pressed", wanted);
  $("record").textContent = wanted ? "Stop and save" : "Record";
}

function tab(name) {
  for (const one of ["pose", "images"]) {
    $(one).hidden = one !== name;
    $(`tab-${one}`).setAttribute("aria-selected", one === name);
    $(`tab-${one}`).tabIndex = one === name ? 0 : -1;
  }
  if (name === "images") images.enter();
  stale = true;
}

function listen() {
  scenes.forEach(({ canvas }) => camera.listen(canvas));
  $("source").onchange = choose;
  $("subject").onchange = () => { listMovements(); choose(); };
  $("movement").onchange = choose;
  $("stream").onchange = startLive;
  $("file").onchange = ({ target }) => target.files[0] && startFile(target.files[0]);
  $("play").onclick = () => play($("play").getAttribute("aria-pressed") !== "true");
  $("step").onclick = step;
  $("speed").onchange = () => { if (source) source.speed = Number($("speed").value); };
  $("record").onclick = () => record(!recording);
  $("reset").onclick = () => camera.reset();
  $("token").onsubmit = (event) => {
    event.preventDefault();
    saveToken($("token-text").value.trim());
    $("token").hidden = true;
    choose();
  };
  for (const name of ["pose", "images"]) {
    $(`tab-${name}`).onclick = () => tab(name);
    $(`tab-${name}`).onkeydown = ({ key }) => {
      if (key !== "ArrowLeft" && key !== "ArrowRight") return;
      const other = name === "pose" ? "images" : "pose";
      tab(other);
      $(`tab-${other}`).focus();
    };
  }
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("button, select, input, summary, a") || $("pose").hidden) return;
    if (event.key === " ") play(!source?.playing);
    else if (event.key === ".") step();
    else return;
    event.preventDefault();
  });
  listenForFiles();
  addEventListener("resize", () => { stale = true; });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { palette = colours(); stale = true; });
}

function listenForFiles() {
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", ({ relatedTarget }) => {
    if (!relatedTarget) document.body.classList.remove("dropping");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    const [file] = event.dataTransfer.files;
    if (!file) return;
    if ($("pose").hidden) images.open(file);
    else startFile(file);
  });
}

async function main() {
  listen();
  animate();
  new Vitals(() => model, refreshStreams);
  setInterval(tellNumbers, 250);
  setInterval(tellState, SAY_MS);
  ({ runs } = await (await fetch(route("page/replay/runs.json"))).json());
  $("subject").replaceChildren(...[...new Set(runs.map(({ subject }) => subject))].map((one) => new Option(one)));
  $("subject").value = FIRST.subject;
  listMovements();
  $("movement").value = FIRST.movement;
  const watched = new URLSearchParams(location.hash.slice(1)).get("watch");
  if (watched) {
    show("live");
    $("stream").replaceChildren(new Option(watched));
    startLive();
  } else await choose();
}

main();
