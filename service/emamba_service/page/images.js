// The image tab: draw, choose or drop an image; classes, probabilities and time come back.

import { ask, route } from "./stream.js";

const $ = (id) => document.getElementById(id);
const PEN_PX = 22;

export class Images {
  constructor() {
    this.pad = $("pad");
    this.context = this.pad.getContext("2d");
    // The number of the newest request: only its answer is shown.
    this.asked = 0;
    this.clear();
    this.draws();
    $("clear").onclick = () => this.clear();
    $("image").onchange = ({ target }) => target.files[0] && this.open(target.files[0]);
  }

  // Look which image models there are; called whenever the tab is shown, and again while more come.
  async enter() {
    clearTimeout(this.again);
    try {
      const { models, loading } = await ask("v1/models");
      if (loading.length) this.again = setTimeout(() => this.enter(), 1000);
      const ours = models.filter(({ task }) => task.kind === "image-classes").map(({ name }) => name);
      const names = [...new Set(ours)];
      if (this.ready && names.join() === this.names) return;
      this.names = names.join();
      const chosen = $("image-model").value;
      $("image-model").replaceChildren(...names.map((name) => new Option(name)));
      if (names.includes(chosen)) $("image-model").value = chosen;
      this.ready = names.length > 0;
      this.say(this.ready ? "Draw something, or choose or drop an image."
        : loading.length ? "Models are being loaded: the first start of a machine compiles them."
        : "No image model is installed. Put a package of kind image-classes into the service's models folder and start it again.");
    } catch (error) {
      this.names = "";
      this.say(error.status ? error.message : "The service does not answer. Come back to this tab once it does.");
    }
  }

  say(sentence) {
    $("image-notice").textContent = sentence;
  }

  clear() {
    this.asked += 1;
    this.context.fillStyle = "#000";
    this.context.fillRect(0, 0, this.pad.width, this.pad.height);
    $("classes").replaceChildren();
    $("image-time").textContent = "";
  }

  draws() {
    const at = (event) => [event.offsetX, event.offsetY].map((value) => (value * this.pad.width) / this.pad.clientWidth);
    this.pad.addEventListener("pointerdown", (event) => {
      this.pad.setPointerCapture(event.pointerId);
      this.from = at(event);
    });
    this.pad.addEventListener("pointermove", (event) => {
      if (!this.from) return;
      const to = at(event);
      Object.assign(this.context, { strokeStyle: "#fff", lineWidth: PEN_PX, lineCap: "round" });
      this.context.beginPath();
      this.context.moveTo(...this.from);
      this.context.lineTo(...to);
      this.context.stroke();
      this.from = to;
    });
    this.pad.addEventListener("pointerup", () => {
      this.from = null;
      const number = ++this.asked;
      this.pad.toBlob((blob) => this.classify(blob, number), "image/png");
    });
    this.pad.addEventListener("pointercancel", () => {
      this.from = null;
    });
  }

  // Show a file on the pad, as much of its middle as fits, and send the file itself.
  async open(file) {
    this.clear();
    const number = ++this.asked;
    try {
      const picture = await createImageBitmap(file);
      const edge = Math.min(picture.width, picture.height);
      const corner = [(picture.width - edge) / 2, (picture.height - edge) / 2];
      this.context.drawImage(picture, ...corner, edge, edge, 0, 0, this.pad.width, this.pad.height);
    } catch {
      // The service may read what this browser cannot, or says in its own words why not.
    }
    await this.classify(file, number);
  }

  async classify(blob, number) {
    if (!this.ready || number !== this.asked) return;
    const begun = performance.now();
    const url = route("v1/classify");
    url.searchParams.set("model", $("image-model").value);
    try {
      const answer = await ask(url, { method: "POST", body: blob, headers: { "content-type": blob.type } });
      if (number === this.asked) this.show(answer, performance.now() - begun);
    } catch (error) {
      if (number !== this.asked) return;
      $("classes").replaceChildren();
      this.say(error.message);
    }
  }

  show({ predictions, timing_us, engine, model, version }, trip_ms) {
    this.say(`${model} ${version} on ${engine}`);
    $("image-time").textContent =
      `${timing_us.total.toFixed(0)} µs in the service, ${timing_us.engine.toFixed(0)} µs of them in the engine; round trip ${trip_ms.toFixed(1)} ms`;
    $("classes").replaceChildren(...predictions[0].top.map((one) => {
      const item = document.createElement("li");
      const meter = Object.assign(document.createElement("meter"), { value: one.probability });
      meter.setAttribute("aria-label", one.class);
      item.append(one.class, meter, `${(100 * one.probability).toFixed(1)} %`);
      return item;
    }));
  }
}
