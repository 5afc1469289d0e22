// A line chart: axes, lines, a cursor that reads values, and a choice between a linear and a logarithmic scale.

const HEIGHT = 230, LEFT = 58, RIGHT = 14, TOP = 10, BOTTOM = 38;
const MARKED = 60; // a curve of fewer points shows each of them
const charts = [];

class Chart {
  /**
   * @param {string} title
   * @param {{x: string, xs?: [number, number], smooth?: boolean}} axes  name of x, its range where it is fixed, and
   *     whether the page's smoothing applies
   * @param {{name: string, color: string, points: number[][], dashed?: boolean}[]} series
   * @param {{name: string, color: string, y: number}[]} levels  horizontal lines
   */
  constructor(title, axes, series, levels = []) {
    Object.assign(this, { title, axes, series, levels, log: false, weight: 0, cursor: null });
    const highest = Math.max(extent(series.flatMap(valuesOf))[1], ...levels.map(({ y }) => y));
    this.xs = axes.xs ?? extent(series.flatMap(({ points }) => points.map(([x]) => x)));
    this.longest = series.reduce((one, other) => (other.points.length > one.points.length ? other : one));
    this.plot = element("div", {
      class: "plot", tabindex: 0, role: "group", "aria-label": `${this.summary()} Arrow keys read values.`,
      onpointermove: (event) => this.pointAt(event.clientX), onpointerleave: () => this.point(null),
      onkeydown: (event) => this.key(event), onblur: () => this.point(null),
    });
    this.readout = element("div", { class: "readout", "aria-live": "polite" });
    this.scales = ["linear", "log"].map((scale) => element("button", {
      type: "button", "aria-pressed": String(scale === "linear"), disabled: scale === "log" && highest <= 0,
      onclick: () => this.choose(scale),
    }, scale));
    const scales = element("div", { class: "choice", role: "group", "aria-label": `Scale of ${title}` }, ...this.scales);
    this.figure = element("figure", { class: "chart" },
      element("figcaption", {}, element("span", { class: "chart-title" }, title), scales), this.plot, this.legend());
    charts.push(this);
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  summary() {
    const parts = this.series.slice(0, 12).map(({ name, points }) =>
      `${name}: from ${format(points[0][1])} to ${format(points[points.length - 1][1])}`);
    return `${this.title} by ${this.axes.x}. ${parts.join("; ")}.`;
  }

  legend() {
    const entries = [...this.series, ...this.levels];
    if (entries.length < 2) return "";
    return element("ul", { class: "legend" }, ...entries.map(({ name, color, dashed, y }) => {
      const mark = element("span", { class: dashed || y !== undefined ? "mark dashed" : "mark" });
      mark.style.color = color;
      return element("li", {}, mark, name);
    }));
  }

  choose(scale) {
    this.log = scale === "log";
    this.scales.forEach((button) => button.setAttribute("aria-pressed", String(button.textContent === scale)));
    this.draw();
  }

  /** Decides which points are drawn. A logarithmic scale has no place for zero and less. */
  prepare() {
    const fits = this.log ? ([, y]) => y > 0 : () => true;
    for (const each of this.series) {
      const after = this.axes.smooth && this.weight > 0 && each.points.length > 2;
      each.smoothed = after ? smoothed(each.points, this.weight) : null;
      each.line = (each.smoothed ?? each.points).filter(fits);
      // Behind many lines the raw ones would hide everything.
      each.raw = after && this.series.length < 3 ? each.points.filter(fits) : [];
    }
    this.drawnLevels = this.levels.filter(({ y }) => fits([0, y]));
    const drawn = this.series.flatMap(({ line, raw }) => [...line, ...raw]);
    return extent([...drawn.map(([, y]) => y), ...this.drawnLevels.map(({ y }) => y)]);
  }

  /** Sets up the mapping from values to pixels. */
  measure() {
    this.width = Math.max(this.plot.clientWidth, 160);
    const turn = this.log ? Math.log10 : (y) => y;
    const [least, most] = this.prepare();
    let [low, high] = [turn(least), turn(most)];
    const room = (high - low || Math.abs(high) || 1) * 0.06;
    [low, high] = [low - room, high + room];
    if (!this.log && least >= 0) low = Math.max(low, 0);
    const [first, last] = this.xs[0] === this.xs[1] ? [this.xs[0] - 1, this.xs[1] + 1] : this.xs;
    const wide = this.width - LEFT - RIGHT, tall = HEIGHT - TOP - BOTTOM;
    this.x = (value) => LEFT + ((value - first) / (last - first)) * wide;
    this.y = (value) => TOP + (1 - (turn(value) - low) / (high - low)) * tall;
    this.valueAt = (pixel) => first + ((pixel - LEFT) / wide) * (last - first);
    const back = this.log ? (y) => 10 ** y : (y) => y;
    this.yTicks = (this.log ? logTicks : linearTicks)(back(low), back(high), 5);
    this.xTicks = linearTicks(first, last, Math.max(2, Math.floor(this.width / 90)));
  }

  draw() {
    this.measure();
    const lines = this.series.flatMap((each) => this.lines(each));
    const levels = this.drawnLevels.map(({ y, color }) => colored(color, shape("line", {
      class: "level", x1: LEFT, x2: this.width - RIGHT, y1: this.y(y), y2: this.y(y),
    })));
    this.mark = shape("g", { class: "cursor" });
    this.plot.replaceChildren(shape("svg", {
      width: this.width, height: HEIGHT, viewBox: `0 0 ${this.width} ${HEIGHT}`, "aria-hidden": "true",
    }, ...this.grid(), ...levels, ...lines, this.mark), this.readout);
    if (this.cursor !== null) this.point(this.cursor);
  }

  grid() {
    const bottom = HEIGHT - BOTTOM;
    const rows = this.yTicks.flatMap((tick) => [
      shape("line", { class: "grid", x1: LEFT, x2: this.width - RIGHT, y1: this.y(tick), y2: this.y(tick) }),
      shape("text", { class: "tick", x: LEFT - 8, y: this.y(tick) + 4, "text-anchor": "end" }, format(tick)),
    ]);
    const columns = this.xTicks.map((tick) =>
      shape("text", { class: "tick", x: this.x(tick), y: bottom + 16, "text-anchor": "middle" }, position(tick)));
    const name = shape("text", { class: "tick", x: this.width - RIGHT, y: HEIGHT - 4, "text-anchor": "end" }, this.axes.x);
    return [...rows, ...columns, name];
  }

  lines({ line, raw, color, dashed, smoothed: after }) {
    const column = (x) => Math.round(this.x(x));
    const path = (points, kind) => colored(color, shape("path", {
      class: dashed ? `${kind} dashed` : kind,
      d: thinned(points, column).map(([x, y], place) =>
        `${place ? "L" : "M"}${this.x(x).toFixed(1)} ${this.y(y).toFixed(1)}`).join(""),
    }));
    const marked = !after && line.length < MARKED && this.series.length < 7 ? line : [];
    const dots = marked.map(([x, y]) =>
      colored(color, shape("circle", { class: "dot", cx: this.x(x), cy: this.y(y), r: 2.5 })));
    return [...(raw.length ? [path(raw, "raw")] : []), path(line, "line"), ...dots];
  }

  pointAt(clientX) {
    const pixel = clientX - this.plot.getBoundingClientRect().left;
    this.point(nearest(this.longest.points, this.valueAt(pixel)));
  }

  key(event) {
    const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const last = this.longest.points.length - 1;
    this.point(Math.min(last, Math.max(0, (this.cursor ?? (moves[event.key] > 0 ? -1 : last + 1)) + moves[event.key])));
  }

  /** Reads the values at a point of the longest series; at none if it is null. */
  point(place) {
    this.cursor = place;
    this.mark?.replaceChildren();
    this.readout.hidden = place === null;
    if (place === null || !this.mark) return;
    const x = this.longest.points[place][0];
    const rows = this.series.map(({ name, color, points, smoothed: after }) => {
      const near = nearest(points, x), [nearX, y] = points[near];
      const drawn = after ? after[near][1] : y;
      if (!this.log || drawn > 0) {
        this.mark.append(colored(color, shape("circle", { class: "dot", cx: this.x(nearX), cy: this.y(drawn), r: 3.5 })));
      }
      const value = after ? `${format(drawn)} (${format(y)})` : format(y);
      return element("li", {}, colored(color, element("span", { class: "mark" })), `${name} `, element("b", {}, value));
    });
    this.mark.prepend(shape("line", { class: "hair", x1: this.x(x), x2: this.x(x), y1: TOP, y2: HEIGHT - BOTTOM }));
    this.readout.replaceChildren(element("p", {}, `${this.axes.x} ${position(x)}`), element("ul", {}, ...rows));
    const left = this.x(x) > this.width / 2;
    this.readout.style.left = left ? "auto" : `${this.x(x) + 10}px`;
    this.readout.style.right = left ? `${this.width - this.x(x) + 10}px` : "auto";
  }
}

function valuesOf({ points }) {
  return points.map(([, y]) => y);
}

/** Returns how a value of x is written: steps are counted, a sigma is measured. */
function position(x) {
  return Number.isInteger(x) ? grouped(x) : format(x);
}

function colored(color, node) {
  node.style.color = color;
  return node;
}

function smoothCharts(weight) {
  for (const chart of charts) {
    if (!chart.axes.smooth) continue;
    chart.weight = weight;
    if (chart.plot.isConnected) chart.draw();
  }
}

/** Colors of `count` series: a ramp where they are in an order, such as bins of sigma, else distinct ones. */
function colors(count, ordered) {
  const share = (place) => (count > 1 ? Math.round((100 * place) / (count - 1)) : 100);
  return Array.from({ length: count }, (_, place) => ordered
    ? `color-mix(in oklab, var(--ramp-start), var(--ramp-end) ${share(place)}%)` : `var(--series-${place % 6})`);
}

/** Groups names that share what is before their first "/"; order is kept. */
function groups(names) {
  const found = new Map();
  for (const name of names) {
    const [group, ...rest] = name.split("/");
    if (!found.has(group)) found.set(group, []);
    found.get(group).push({ name, short: rest.join("/") || group });
  }
  return found;
}

function isOrdered(entries) {
  return entries.length > 2 && entries.every(({ short }) => /^[\d.]/.test(short));
}
