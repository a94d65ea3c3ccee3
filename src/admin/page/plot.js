// Traffic over time: bytes by where they came from, and the hit ratio below. Drawn in pixels, redrawn when resized.

import { bytes, clockOf, el, percent, plural, put, setText } from "./dom.js";

const HEIGHT = { bytes: 140, gap: 20, ratio: 44, axis: 20 };
const LEFT = 62;
const RATIO_TOP = HEIGHT.bytes + HEIGHT.gap;
const BOTTOM = RATIO_TOP + HEIGHT.ratio;

function svg(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text != null) element.textContent = text;
  return element;
}

/** The end of an axis from 0: 1, 2 or 5 times a power of 2^10, so that labels are round. */
function roundUp(value) {
  const unit = 1024 ** Math.max(0, Math.floor(Math.log2(Math.max(value, 1)) / 10));
  for (let step = 1; ; step *= 10) {
    for (const factor of [1, 2, 5]) if (factor * step * unit >= value) return factor * step * unit;
  }
}

export class Plot {
  #series = null;
  #at = 0;

  constructor(container) {
    this.frame = el("div", { class: "plot", tabindex: 0, role: "slider", "aria-label": "Traffic over time" });
    this.readout = el("p", { class: "readout muted", "aria-hidden": "true" });
    const key = (name, label) => el("span", { class: "key" }, el("i", { class: name }), label);
    const legend = [key("saved", "from the cache"), key("fetched", "from upstream"), key("ratio", "hit ratio"), this.readout];
    put(container, this.frame, el("div", { class: "legend" }, legend));
    new ResizeObserver(() => this.#draw()).observe(this.frame);
    this.frame.addEventListener("keydown", (event) => this.#move(event));
    this.frame.addEventListener("pointermove", (event) => {
      const x = event.clientX - this.frame.getBoundingClientRect().left;
      const nearest = (best, point, index, all) => (Math.abs(this.#x(point.at) - x) < Math.abs(this.#x(all[best].at) - x) ? index : best);
      if (this.#series?.points.length) this.#select(this.#series.points.reduce(nearest, 0));
    });
  }

  show(series) {
    const same = this.#series?.window === series.window && this.#at < this.#series.points.length - 1;
    const kept = same ? this.#series.points[this.#at]?.at : null;
    this.#series = series;
    const found = series.points.findIndex((point) => point.at === kept);
    this.#at = found < 0 ? series.points.length - 1 : found;
    this.#draw();
  }

  #x(at) {
    const { from, to } = this.#series;
    const [start, end] = [new Date(from).getTime(), new Date(to).getTime()];
    return LEFT + ((new Date(at).getTime() - start) / (end - start)) * (this.width - LEFT);
  }

  #draw() {
    this.width = this.frame.clientWidth;
    if (!this.#series || this.width < LEFT * 2) return;
    const { points, step_seconds: step, from, to } = this.#series;
    const top = roundUp(Math.max(1, ...points.map((point) => Math.max(point.served_bytes, point.fetched_bytes))));
    const y = (value) => HEIGHT.bytes - (value / top) * (HEIGHT.bytes - 10);
    const drawn = svg("svg", { width: this.width, height: BOTTOM + HEIGHT.axis, "aria-hidden": "true" });
    for (const value of [0, top / 2, top]) drawn.append(...rule(y(value), this.width, bytes(value)));
    for (const value of [0, 1]) drawn.append(...rule(BOTTOM - value * HEIGHT.ratio, this.width, `${value * 100} %`));
    const span = new Date(to) - new Date(from);
    const columns = Math.max(2, Math.min(6, Math.floor(this.width / 110)));
    for (let i = 0; i <= columns; i += 1) {
      const at = new Date(from).getTime() + (span * i) / columns;
      const anchor = i === 0 ? "start" : i === columns ? "end" : "middle";
      drawn.append(svg("text", { x: this.#x(at), y: BOTTOM + HEIGHT.axis - 4, "text-anchor": anchor }, clockOf(at)));
    }
    const wide = ((this.width - LEFT) * step * 1000) / span;
    const bar = (name, at, low, high) =>
      svg("rect", { class: name, x: this.#x(at), width: Math.max(1, wide - 1), y: y(high), height: Math.max(0, y(low) - y(high)) });
    for (const { at, fetched_bytes: fetched, served_bytes: served } of points) {
      drawn.append(bar("fetched", at, 0, fetched));
      if (served > fetched) drawn.append(bar("saved", at, fetched, served));
    }
    drawn.append(svg("path", { class: "ratio", d: this.#ratioPath(wide, step) }));
    this.cursor = svg("rect", { class: "cursor", y: 0, width: Math.max(1, wide - 1), height: BOTTOM });
    drawn.append(this.cursor);
    put(this.frame, drawn);
    this.#select(this.#at);
  }

  /** A line through the middle of each step; broken where there were no requests or no gateway. */
  #ratioPath(wide, step) {
    let [path, last] = ["", null];
    for (const { at, requests, hits } of this.#series.points) {
      const time = new Date(at).getTime();
      if (requests === 0) continue;
      const joined = last != null && time - last < step * 1500;
      const [x, y] = [this.#x(at) + wide / 2, BOTTOM - (hits / requests) * HEIGHT.ratio];
      path += `${joined ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}${joined ? "" : "h.1"}`;
      last = time;
    }
    return path;
  }

  #move(event) {
    const last = (this.#series?.points.length ?? 0) - 1;
    const to = { ArrowLeft: this.#at - 1, ArrowRight: this.#at + 1, Home: 0, End: last }[event.key];
    if (to == null) return;
    event.preventDefault();
    this.#select(Math.max(0, Math.min(last, to)));
  }

  #select(index) {
    const point = this.#series.points[index];
    this.#at = index;
    if (!point) {
      this.frame.ariaValueText = "No traffic yet";
      return;
    }
    this.cursor?.setAttribute("x", this.#x(point.at));
    const saved = Math.max(0, point.served_bytes - point.fetched_bytes);
    const words = [clockOf(point.at), `${bytes(saved)} from the cache`, `${bytes(point.fetched_bytes)} from upstream`,
      plural(point.requests, "request"), `${percent(point.requests ? point.hits / point.requests : null)} hits`,
      point.errors > 0 && plural(point.errors, "error"), point.denials > 0 && plural(point.denials, "denial")].filter(Boolean).join(" · ");
    setText(this.readout, words);
    const last = String(this.#series.points.length - 1);
    Object.assign(this.frame, { ariaValueMin: "0", ariaValueMax: last, ariaValueNow: String(index), ariaValueText: words });
  }
}

const rule = (y, width, label) => [
  svg("line", { x1: LEFT, x2: width, y1: y, y2: y }),
  svg("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" }, label),
];
