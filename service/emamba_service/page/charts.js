// Two small pictures of latency: stages side by side, and the last frames as a line.

const STAGES = ["preprocess", "queue", "quantise", "engine", "postprocess"];
const LAST = 120;

export class LatencyCharts {
  constructor(bar, list, spark, title) {
    Object.assign(this, { bar, list, spark, title });
    this.mean = {};
    this.totals = [];
    this.parts = Object.fromEntries(STAGES.map((stage, i) => [stage, this.part(stage, i)]));
  }

  part(stage, number) {
    const segment = this.bar.appendChild(document.createElement("i"));
    const item = this.list.appendChild(document.createElement("li"));
    const colour = `var(--s${number})`;
    segment.style.background = colour;
    item.style.setProperty("--colour", colour);
    item.append(Object.assign(document.createElement("b"), { textContent: stage }), "–");
    return { segment, value: item.lastChild };
  }

  // One frame's times; means follow slowly, for a bar that can be read.
  add(timing_us) {
    for (const stage of STAGES) {
      const before = this.mean[stage] ?? timing_us[stage];
      this.mean[stage] = before + (timing_us[stage] - before) * 0.1;
    }
    this.totals.push(timing_us.total);
    if (this.totals.length > LAST) this.totals.shift();
  }

  draw(colours) {
    if (!this.totals.length) return;
    const all = STAGES.reduce((sum, stage) => sum + this.mean[stage], 0);
    for (const stage of STAGES) {
      const { segment, value } = this.parts[stage];
      segment.style.flexGrow = this.mean[stage] / all;
      value.textContent = `${this.mean[stage].toFixed(0)} µs`;
    }
    const sorted = [...this.totals].sort((a, b) => a - b);
    const median = sorted[sorted.length >> 1];
    this.title.textContent = `in the service, median ${median.toFixed(0)} µs`;
    const said = STAGES.map((stage) => `${stage} ${this.mean[stage].toFixed(0)}`);
    this.bar.setAttribute("aria-label", `Latency by stage in microseconds: ${said.join(", ")}`);
    this.line(sorted.at(-1), colours);
  }

  line(most, colours) {
    const { spark } = this;
    const context = spark.getContext("2d");
    const [width, height] = [(spark.width = spark.clientWidth), (spark.height = spark.clientHeight)];
    context.strokeStyle = colours.accent;
    context.lineWidth = 1.5;
    context.beginPath();
    this.totals.forEach((total, i) => {
      context.lineTo(((i + LAST - this.totals.length) / (LAST - 1)) * width, height - 2 - (total / most) * (height - 16));
    });
    context.stroke();
    context.fillStyle = colours.quiet;
    context.font = "11px system-ui, sans-serif";
    context.fillText(`${most.toFixed(0)} µs at most`, 2, 10);
  }
}
