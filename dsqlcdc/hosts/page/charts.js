// Small charts by hand: lines over time with a legend that tells the values, sparks, and a strip of all shards.

import { clock, minutes } from "./words.js";

const NS = "http://www.w3.org/2000/svg";

export function h(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || value === null || value === false) continue;
    if (name in made && name !== "list" && name !== "role") made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export function s(tag, given = {}, ...children) {
  const made = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(given)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// The next of 1, 2, 5, 10, 20 … at or above.
export function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= value * 0.999);
}

const STEPS = 3, TOP = 8, BOTTOM = 18, LEFT = 38, RIGHT = 4, HEIGHT = 132, GAP = 4;

export class Chart {
  // `series`: [{name, mark}]; `say` puts a value into words, `axis` shorter ones; `least` is the least the axis reaches to.
  constructor(title, series, say, axis, least) {
    Object.assign(this, { title, series, say, axis, least, width: 320, at: null });
    this.values = series.map(() => h("b", { textContent: "–" }));
    this.when = h("span", { className: "when" });
    const legend = h("ul", { className: "legend" }, series.map((one, n) =>
      h("li", {}, h("i", { className: `mark ${one.mark}`, "aria-hidden": "true" }), `${one.name} `, this.values[n])));
    this.svg = s("svg", { role: "img", height: HEIGHT, width: "100%" });
    this.empty = h("p", { className: "none", textContent: "No data yet" });
    this.element = h("figure", { className: "chart" }, h("figcaption", {}, h("h3", { textContent: title }), this.when, legend), this.svg, this.empty);
    this.svg.addEventListener("pointermove", (event) => { this.at = event.offsetX; this.draw(); });
    this.svg.addEventListener("pointerleave", () => { this.at = null; this.draw(); });
    new ResizeObserver(([entry]) => {
      const width = Math.floor(entry.contentRect.width);
      if (width && width !== this.width) { this.width = width; this.draw(); }
    }).observe(this.element);
  }

  // `times` in seconds; `lines`: values for each series; the axis ends at `now`.
  update(times, lines, now, step) {
    this.data = { times, lines, now, step };
    this.draw();
  }

  draw() {
    const { times = [], lines, now, step } = this.data ?? {};
    this.empty.hidden = times.length > 1;
    this.svg.style.display = times.length > 1 ? "" : "none";
    if (times.length < 2) return;
    const length = Math.min(1800, Math.max(120, now - times[0])), from = now - length;
    const shown = lines.map((values) => values.filter((_, n) => times[n] >= from));
    const top = nice(Math.max(this.least, ...shown.flat()));
    const width = this.width - LEFT - RIGHT, height = HEIGHT - TOP - BOTTOM;
    const x = (at) => LEFT + Math.max(0, (at - from) / length) * width;
    const y = (value) => TOP + height - (value / top) * height;
    const parts = [];
    for (let n = 0; n <= STEPS - 1; n++) {
      const value = (top * n) / (STEPS - 1);
      parts.push(s("line", { class: n ? "grid" : "ground", x1: LEFT, x2: LEFT + width, y1: y(value), y2: y(value) }));
      parts.push(s("text", { class: "tick", x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, this.axis(value)));
    }
    parts.push(s("text", { class: "tick", x: LEFT, y: HEIGHT - 4 }, `${minutes(length)} ago`));
    parts.push(s("text", { class: "tick", x: LEFT + width, y: HEIGHT - 4, "text-anchor": "end" }, "now"));
    lines.forEach((values, n) => parts.push(...this.#line(values, times, this.series[n].mark, x, y, from, step)));
    const chosen = this.#chosen(times, x, from);
    if (this.at !== null) parts.push(s("line", { class: "here", x1: x(times[chosen]), x2: x(times[chosen]), y1: TOP, y2: TOP + height }));
    this.svg.replaceChildren(...parts);
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    this.when.textContent = this.at === null ? "" : clock(times[chosen]);
    this.values.forEach((value, n) => { value.textContent = this.say(lines[n][chosen]); });
    this.svg.setAttribute("aria-label", `${this.title} over ${minutes(length)}: ` + this.series.map((one, n) =>
      `${one.name} now ${this.say(lines[n].at(-1))}, highest ${this.say(Math.max(...shown[n]))}, lowest ${this.say(Math.min(...shown[n]))}`).join("; "));
  }

  #chosen(times, x, from) {
    if (this.at === null) return times.length - 1;
    let best = times.length - 1;
    times.forEach((at, n) => { if (at >= from && Math.abs(x(at) - this.at) < Math.abs(x(times[best]) - this.at)) best = n; });
    return best;
  }

  // A line, broken where nothing was heard for some steps, and a soft ground below it. Of several points in two pixels the highest stands.
  #line(every, all, mark, x, y, from, step) {
    const times = [], values = [], thin = ((all.at(-1) - from) * 2) / this.width;
    all.forEach((at, n) => {
      const cell = Math.floor(at / thin);
      if (times.length && Math.floor(times.at(-1) / thin) === cell) values[values.length - 1] = Math.max(values.at(-1), every[n]);
      else if (at >= from) { times.push(at); values.push(every[n]); }
    });
    step = Math.max(step, thin);
    let line = "", area = "", begun = null, last = null;
    const close = () => { if (begun !== null) area += `L${x(last).toFixed(1)},${y(0)}L${x(begun).toFixed(1)},${y(0)}Z`; };
    times.forEach((at, n) => {
      if (at < from) return;
      const point = `${x(at).toFixed(1)},${y(values[n]).toFixed(1)}`;
      if (last === null || at - last > GAP * step) { close(); line += `M${point}`; area += `M${point}`; begun = at; }
      else { line += `L${point}`; area += `L${point}`; }
      last = at;
    });
    close();
    return [s("path", { class: `area ${mark}`, d: area }), s("path", { class: `line ${mark}`, d: line })];
  }
}

// The last minutes of a shard, in 90 by 20.
export function spark(values, mark) {
  const made = s("svg", { class: "spark", viewBox: "0 0 90 20", width: 90, height: 20, "aria-hidden": "true" });
  if (!values || values.length < 2) return made;
  const top = Math.max(1, ...values);
  const points = values.map((value, n) => `${((n + 60 - values.length) * 90 / 59).toFixed(1)},${(18.5 - (value / top) * 17).toFixed(1)}`);
  made.append(s("polyline", { class: `line ${mark}`, points: points.join(" ") }));
  return made;
}

// Every shard a cell, in the order of their names: 0 at the tip, up to 3 far behind.
export function strip(classes, words) {
  const made = s("svg", { class: "strip", viewBox: `0 0 ${Math.max(classes.length, 8)} 1`, preserveAspectRatio: "none", role: "img", "aria-label": words });
  [...classes].forEach((level, n) => made.append(s("rect", { class: `late${level}`, x: n + 0.06, y: 0, width: 0.88, height: 1 })));
  return made;
}
