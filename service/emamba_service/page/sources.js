// Where frames come from. Each source tells `on`:
//   frame({sequence, joints, points, labels, engine, timing_us, trip_ms}), state(name, detail),
//   problem(sentence), hello(document).

import { Stream, socketRoute } from "./stream.js";

const LONGEST_GAP_S = 1;
const USUAL_GAP_S = 0.1;

// Sends a recording's frames to the service, in its own pace times `speed`, over and over.
export class Player {
  constructor(frames, on) {
    this.frames = frames;
    this.next = 0;
    this.sequence = 0;
    this.speed = 1;
    this.playing = true;
    this.sent = new Map();
    this.on = on;
    const query = "timing=true&when_full=drop";
    this.stream = new Stream(() => socketRoute(`v1/pose/stream?${query}`), {
      hello: (document) => {
        this.sent.clear();
        this.sequence = 0;
        on.hello(document);
      },
      state: on.state,
      message: (document) => this.answered(document),
    });
  }

  play(playing) {
    this.playing = playing;
    clearTimeout(this.timer);
    this.due_ms = performance.now();
    if (playing) this.tick();
  }

  tick() {
    this.step();
    this.due_ms = Math.max(performance.now(), this.due_ms + (1000 * this.gap()) / this.speed);
    this.timer = setTimeout(() => this.tick(), this.due_ms - performance.now());
  }

  // Time from the frame sent last to the next one.
  gap() {
    const gap = this.frames[this.next].time_s - this.frames.at(this.next - 1).time_s;
    return gap > 0 ? Math.min(LONGEST_GAP_S, gap) : USUAL_GAP_S;
  }

  // Send one frame, if there is a connection to send it on.
  step() {
    const frame = this.frames[this.next];
    const sequence = this.sequence + 1;
    const what = frame.features ? { features: frame.features } : { points: frame.points };
    if (!this.stream.send({ sequence, ...what })) return;
    this.sent.set(sequence, { frame, at_ms: performance.now() });
    this.sequence = sequence;
    this.next = (this.next + 1) % this.frames.length;
  }

  answered(document) {
    const { sequence } = document;
    const sent = this.sent.get(sequence);
    for (const key of this.sent.keys()) if (key <= sequence) this.sent.delete(key);
    if (document.problem) this.on.problem(document.problem.detail);
    else if (document.joints) {
      const { points, labels } = sent.frame;
      this.on.frame({ ...document, points, labels, trip_ms: performance.now() - sent.at_ms });
    }
  }

  close() {
    this.play(false);
    this.stream.close();
  }
}

// Watches what a radar or another client publishes under a name.
export class Watcher {
  constructor(name, on) {
    this.playing = true;
    const path = `v1/pose/watch/${encodeURIComponent(name)}?points=true&labels=true&timing=true`;
    this.stream = new Stream(() => socketRoute(path), {
      hello: on.hello,
      state: on.state,
      message: (document) => this.playing && on.frame(document),
    });
  }

  play(playing) {
    this.playing = playing;
  }

  close() {
    this.stream.close();
  }
}
