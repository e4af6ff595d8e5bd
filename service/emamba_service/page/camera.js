// A camera that circles the person. The room: x to the radar's right, y away from it, z up; metres.

const CENTRE = [0, 1.9, -0.15];
const START = { azimuth: -0.45, elevation: 0.2, distance: 3.4 };
const KEYS = {
  ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1],
};

export class Camera {
  constructor(changed) {
    this.changed = changed;
    Object.assign(this, START);
  }

  reset() {
    Object.assign(this, START);
    this.changed();
  }

  turn(azimuth, elevation) {
    this.azimuth += azimuth;
    this.elevation = Math.min(1.5, Math.max(-0.3, this.elevation + elevation));
    this.changed();
  }

  zoom(factor) {
    this.distance = Math.min(9, Math.max(1.2, this.distance * factor));
    this.changed();
  }

  // A function from a point of the room to [x, y, pixels per metre there], y downwards.
  projection(width, height) {
    const [ca, sa] = [Math.cos(this.azimuth), Math.sin(this.azimuth)];
    const [ce, se] = [Math.cos(this.elevation), Math.sin(this.elevation)];
    const focal = 1.55 * Math.min(width * 1.25, height);
    return ([px, py, pz]) => {
      const [x, y, z] = [px - CENTRE[0], py - CENTRE[1], pz - CENTRE[2]];
      const [right, ahead] = [x * ca - y * sa, x * sa + y * ca];
      const scale = focal / Math.max(0.2, this.distance + ahead * ce - z * se);
      return [width / 2 + right * scale, height / 2 - (z * ce + ahead * se) * scale, scale];
    };
  }

  // Turns and zooms with pointer, fingers, wheel and keys on `canvas`.
  listen(canvas) {
    const pointers = new Map();
    canvas.addEventListener("pointerdown", (event) => {
      pointers.set(event.pointerId, event);
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      if (pointers.size === 2) {
        const other = [...pointers.values()].find((one) => one.pointerId !== event.pointerId);
        this.zoom(distance(before, other) / Math.max(1, distance(event, other)));
      } else {
        this.turn((event.clientX - before.clientX) / 150, (event.clientY - before.clientY) / 150);
      }
      pointers.set(event.pointerId, event);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => pointers.delete(event.pointerId));
    }
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(event.deltaY / 600));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      if (event.key in KEYS) this.turn(...KEYS[event.key]);
      else if (event.key === "+" || event.key === "=") this.zoom(0.9);
      else if (event.key === "-") this.zoom(1 / 0.9);
      else if (event.key === "Home") this.reset();
      else return;
      event.preventDefault();
    });
  }
}

const distance = (a, b) => Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
