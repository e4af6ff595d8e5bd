// Draws the room on a canvas: floor, radar, skeletons, points.

import { BONES, side } from "./body.js";

const FLOOR_M = -0.95;
const FASTEST_M_S = 2;

export class Scene {
  constructor(canvas, camera) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.camera = camera;
  }

  // `what`: {joints, labels, points, faded}, each of them or none.
  draw(what, colours) {
    const { context } = this;
    const [width, height] = this.fit();
    this.project = this.camera.projection(width, height);
    context.clearRect(0, 0, width, height);
    this.floor(colours);
    context.globalAlpha = what.faded ? 0.35 : 1;
    if (what.points) this.points(what.points, colours);
    if (what.labels) this.skeleton(what.labels, () => colours.labels, 0.014);
    if (what.joints) this.skeleton(what.joints, (joint) => colours[side(joint)], 0.03);
    context.globalAlpha = 1;
  }

  // Match the drawing to the element's size on the screen; its size in CSS pixels.
  fit() {
    const { canvas } = this;
    const ratio = Math.min(2, devicePixelRatio || 1);
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const [across, down] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== across || canvas.height !== down) {
      [canvas.width, canvas.height] = [across, down];
    }
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    return [width, height];
  }

  floor(colours) {
    for (let at = -1.5; at <= 1.5; at += 0.5) {
      this.line([at, 0.4, FLOOR_M], [at, 3.4, FLOOR_M], colours.grid, 1);
      this.line([-1.5, 1.9 + at, FLOOR_M], [1.5, 1.9 + at, FLOOR_M], colours.grid, 1);
    }
    this.line([0, 0, FLOOR_M], [0, 0, 0], colours.grid, 2);
    const [x, y, scale] = this.project([0, 0, 0]);
    this.context.fillStyle = colours.quiet;
    this.context.fillRect(x - 0.05 * scale, y - 0.05 * scale, 0.1 * scale, 0.1 * scale);
  }

  skeleton(joints, colour, thickness) {
    for (const [from, to] of BONES) {
      const scale = this.project(joints[to])[2];
      this.line(joints[from], joints[to], colour(to), Math.max(1.5, thickness * scale));
    }
    joints.forEach((joint, j) => this.dot(joint, colour(j), thickness * 0.85));
  }

  // Coloured by Doppler, larger where the echo is stronger.
  points(points, colours) {
    for (const [x, y, z, doppler, intensity] of points) {
      const part = Math.min(1, Math.abs(doppler) / FASTEST_M_S);
      const moving = doppler < 0 ? colours.toward : colours.away;
      this.dot([x, y, z], blend(colours.still, moving, part), 0.012 + 0.006 * Math.log10(1 + intensity));
    }
  }

  line(from, to, colour, thickness) {
    const { context } = this;
    const [[x0, y0], [x1, y1]] = [this.project(from), this.project(to)];
    context.strokeStyle = colour;
    context.lineWidth = thickness;
    context.lineCap = "round";
    context.beginPath();
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
    context.stroke();
  }

  dot(point, colour, radius) {
    const { context } = this;
    const [x, y, scale] = this.project(point);
    context.fillStyle = colour;
    context.beginPath();
    context.arc(x, y, Math.max(1.5, radius * scale), 0, 2 * Math.PI);
    context.fill();
  }
}

// The style sheet's colours, for canvases.
export function colours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["left", "right", "spine", "labels", "grid", "quiet", "accent", "toward", "still", "away"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

// Two #rrggbb colours, mixed.
function blend(one, other, part) {
  const channel = (colour, at) => parseInt(colour.slice(at, at + 2), 16);
  const mixed = [1, 3, 5].map((at) => Math.round(channel(one, at) * (1 - part) + channel(other, at) * part));
  return `rgb(${mixed.join(" ")})`;
}
