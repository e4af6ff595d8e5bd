// Keeps what is shown, and gives it as a file of JSON lines: the form that this page, the client
// and `emamba-client live --record` share.

const MOST_FRAMES = 36000;

export class Recording {
  constructor() {
    this.lines = [];
    this.started_ms = performance.now();
  }

  get isFull() {
    return this.lines.length >= MOST_FRAMES;
  }

  add({ sequence, joints, points, labels, engine, timing_us }) {
    const time_s = (performance.now() - this.started_ms) / 1000;
    const latency_us = timing_us?.total;
    this.lines.push(JSON.stringify({ number: sequence, time_s, points, joints, labels, latency_us, engine }));
  }

  save() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([`${this.lines.join("\n")}\n`], { type: "application/jsonl" }));
    link.download = "pose.jsonl";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
}
