"use strict";
// Draws the charts of the report: choose a view, hide a method, drag to zoom, hover to read.
const data = JSON.parse(document.getElementById("data").textContent);
const hidden = new Set();
const DASHES = ["", "7 4", "2 3"];
const BOX = { left: 46, right: 10, top: 22, bottom: 34 };

// Eight hues, then the same ones dashed; what cannot learn is grey.
function look(method) {
  if (data.methods[method] === data.control) return { colour: "var(--null)", dash: "2 3" };
  return { colour: `var(--m${method % 8})`, dash: DASHES[Math.floor(method / 8) % 3] };
}

function node(name, attributes, parent) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (parent) parent.append(made);
  return made;
}

function show(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 10000 || size < 0.001) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

function ticks(low, high, log) {
  // Within a decade round numbers are read more easily than powers.
  if (log && high - low < 1) return ticks(10 ** low, 10 ** high, false).map(Math.log10);
  if (log) {
    const marks = [];
    for (let e = Math.floor(low); e <= Math.ceil(high); e++)
      for (const k of [1, 2, 5]) marks.push(e + Math.log10(k));
    return marks.filter((m) => m >= low && m <= high);
  }
  const raw = (high - low) / 5;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * unit).find((s) => s >= raw);
  const marks = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) marks.push(i * step);
  return marks;
}

function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const v of values) { if (v < low) low = v; if (v > high) high = v; }
  if (low === Infinity) return [0, 1];
  const pad = (high - low || Math.abs(high) || 1) * 0.04;
  return [low - pad, high + pad];
}

class Chart {
  constructor(frame, chart) {
    this.frame = frame;
    this.chart = chart;
    this.plot = frame.querySelector(".plot");
    this.reset = frame.querySelector(".reset");
    this.select = frame.querySelector("select");
    this.zoom = null;
    if (this.select) this.select.addEventListener("change", () => this.unzoom());
    this.reset.addEventListener("click", () => this.unzoom());
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.hidden = true;
    frame.append(this.tip);
    this.draw();
  }

  unzoom() { this.zoom = null; this.draw(); }

  get view() { return this.chart.views[this.select ? Number(this.select.value) : 0]; }

  y(value) { return this.view.log ? (value > 0 ? Math.log10(value) : null) : value; }

  // What is visible, in drawing order: best of n first, methods above it.
  lines() {
    const extra = (this.view.extra || []).map((line) => ({
      ...line, name: line.label, colour: "var(--ink)", dash: "1 4",
    }));
    const series = this.view.series.filter((s) => !hidden.has(s.method));
    return [...extra, ...series.map((s) => ({
      ...s, name: data.methods[s.method], ...look(s.method),
    }))];
  }

  range(lines) {
    if (this.zoom) return this.zoom;
    const curves = lines.flatMap((line) => [line.mean, ...(line.runs || [])]);
    const ys = curves.flatMap((c) => c.y.map((v) => this.y(v))).filter((v) => v !== null);
    return { x: extent(curves.flatMap((c) => c.x)), y: extent(ys) };
  }

  draw() {
    const width = Math.max(260, this.plot.clientWidth || 380);
    const height = Math.round(Math.min(330, width * 0.66));
    const lines = this.lines();
    const range = this.range(lines);
    this.reset.hidden = !this.zoom;
    this.size = { width, height };
    this.scale = {
      x: (v) => BOX.left + ((v - range.x[0]) / (range.x[1] - range.x[0])) * (width - BOX.left - BOX.right),
      y: (v) => height - BOX.bottom - ((v - range.y[0]) / (range.y[1] - range.y[0])) * (height - BOX.top - BOX.bottom),
    };
    const svg = node("svg", {
      viewBox: `0 0 ${width} ${height}`, height, role: "img",
      "aria-label": `${this.chart.title} ${this.view.name}`,
    });
    this.axes(svg, range, width, height);
    const clip = `clip-${this.chart.id}`;
    node("rect", {
      x: BOX.left, y: BOX.top, width: width - BOX.left - BOX.right, height: height - BOX.top - BOX.bottom,
    }, node("clipPath", { id: clip }, node("defs", {}, svg)));
    const area = node("g", { "clip-path": `url(#${clip})` }, svg);
    for (const line of lines) this.runs(area, line);
    for (const line of lines) this.mean(area, line);
    this.listen(svg, lines, range);
    this.plot.replaceChildren(svg);
    this.fits(lines);
  }

  axes(svg, range, width, height) {
    for (const tick of ticks(range.x[0], range.x[1], false)) {
      const x = this.scale.x(tick);
      node("line", { x1: x, x2: x, y1: BOX.top, y2: height - BOX.bottom, class: "grid" }, svg);
      node("text", { x, y: height - BOX.bottom + 14, "text-anchor": "middle" }, svg).textContent = show(tick);
    }
    for (const tick of ticks(range.y[0], range.y[1], this.view.log)) {
      const y = this.scale.y(tick);
      const zero = !this.view.log && Math.abs(tick) < 1e-12;
      node("line", { x1: BOX.left, x2: width - BOX.right, y1: y, y2: y, class: zero ? "zero" : "grid" }, svg);
      const text = show(this.view.log ? 10 ** tick : tick);
      node("text", { x: BOX.left - 5, y: y + 4, "text-anchor": "end" }, svg).textContent = text;
    }
    const middle = (BOX.left + width - BOX.right) / 2;
    node("text", { x: middle, y: height - 4, "text-anchor": "middle" }, svg).textContent = this.view.x;
    node("text", { x: 4, y: 13 }, svg).textContent = this.view.y;
  }

  path(curve) {
    let out = "", pen = "M";
    curve.x.forEach((x, i) => {
      const y = this.y(curve.y[i]);
      if (y === null) { pen = "M"; return; }
      out += `${pen}${this.scale.x(x).toFixed(1)} ${this.scale.y(y).toFixed(1)}`;
      pen = "L";
    });
    return out;
  }

  runs(area, line) {
    for (const run of line.runs || [])
      node("path", { d: this.path(run), class: "run", style: `stroke:${line.colour}` }, area);
    if (!line.band) return;
    // A bound below zero has no logarithm: it ends at the lowest mean instead.
    const least = Math.min(...line.mean.y.filter((v) => v > 0));
    const bound = (v) => this.scale.y(this.y(this.view.log ? Math.max(v, least / 10) : v));
    const { x, low, high } = line.band;
    const top = x.map((v, i) => `${this.scale.x(v).toFixed(1)} ${bound(high[i]).toFixed(1)}`);
    const under = x.map((v, i) => `${this.scale.x(v).toFixed(1)} ${bound(low[i]).toFixed(1)}`);
    node("path", {
      d: `M${[...top, ...under.reverse()].join("L")}Z`, class: "band", style: `fill:${line.colour}`,
    }, area);
  }

  mean(area, line) {
    const style = `stroke:${line.colour};stroke-dasharray:${line.dash || "none"}`;
    node("path", { d: this.path(line.mean), class: "mean", style, "data-name": line.name }, area);
    if (line.dots)
      line.mean.x.forEach((x, i) => node("circle", {
        cx: this.scale.x(x), cy: this.scale.y(this.y(line.mean.y[i])), r: 2.5, style: `fill:${line.colour}`,
      }, area));
    if (line.fit)
      node("path", { d: this.path(line.fit), class: "fit", style: `stroke:${line.colour}` }, area);
    if (line.stop && line.stop[1] !== null)
      node("rect", {
        x: this.scale.x(line.stop[0]) - 4, y: this.scale.y(this.y(line.stop[1])) - 4, width: 8, height: 8,
        style: `fill:${line.colour};stroke:var(--card)`,
      }, area);
  }

  fits(lines) {
    this.frame.querySelector(".fits").replaceChildren(...lines.filter((l) => l.fit).map((line) => {
      const made = document.createElement("span");
      made.textContent = `${line.name}: ${line.fit.text}`;
      made.style.color = line.colour;
      return made;
    }));
  }

  listen(svg, lines, range) {
    let start = null, box = null;
    const at = (event) => {
      const frame = svg.getBoundingClientRect();
      return {
        x: ((event.clientX - frame.left) / frame.width) * this.size.width,
        y: ((event.clientY - frame.top) / frame.height) * this.size.height,
      };
    };
    svg.addEventListener("pointerdown", (event) => { start = at(event); });
    svg.addEventListener("pointermove", (event) => {
      const now = at(event);
      if (!start) { this.hover(now, lines); return; }
      if (!box && Math.hypot(now.x - start.x, now.y - start.y) > 6) {
        box = node("rect", { class: "pick" }, svg);
        svg.setPointerCapture(event.pointerId);
      }
      if (!box) return;
      box.setAttribute("x", Math.min(start.x, now.x));
      box.setAttribute("y", Math.min(start.y, now.y));
      box.setAttribute("width", Math.abs(now.x - start.x));
      box.setAttribute("height", Math.abs(now.y - start.y));
    });
    const stop = (event) => {
      if (box && event.type === "pointerup") this.zoomTo(start, at(event), range);
      start = box = null;
    };
    svg.addEventListener("pointerup", stop);
    svg.addEventListener("pointercancel", stop);
    svg.addEventListener("pointerleave", () => { this.tip.hidden = true; });
    svg.addEventListener("dblclick", () => this.unzoom());
  }

  // A drag that is nearly horizontal (a thumb's) zooms along x only.
  zoomTo(a, b, range) {
    const { width, height } = this.size;
    const x = (p) => range.x[0] + ((p - BOX.left) / (width - BOX.left - BOX.right)) * (range.x[1] - range.x[0]);
    const y = (p) => range.y[0] + ((height - BOX.bottom - p) / (height - BOX.top - BOX.bottom)) * (range.y[1] - range.y[0]);
    const flat = Math.abs(a.y - b.y) < 20, tall = Math.abs(a.x - b.x) < 20;
    if (flat && tall) { this.draw(); return; }
    const order = (p, q) => (p < q ? [p, q] : [q, p]);
    this.zoom = {
      x: tall ? range.x : order(x(a.x), x(b.x)),
      y: flat ? range.y : order(y(a.y), y(b.y)),
    };
    this.draw();
  }

  hover(point, lines) {
    let best = null;
    for (const line of lines)
      line.mean.x.forEach((x, i) => {
        const y = this.y(line.mean.y[i]);
        if (y === null) return;
        const px = this.scale.x(x), py = this.scale.y(y);
        const distance = Math.hypot(px - point.x, py - point.y);
        if (!best || distance < best.distance) best = { distance, px, py, line, x, y: line.mean.y[i] };
      });
    this.tip.hidden = !best || best.distance > 40;
    if (this.tip.hidden) return;
    this.tip.textContent = `${best.line.name}: ${show(best.y)} at ${show(best.x)}`;
    const ratio = this.plot.clientWidth / this.size.width;
    const left = this.plot.offsetLeft + best.px * ratio + 10;
    this.tip.style.left = `${Math.max(0, Math.min(left, this.frame.clientWidth - this.tip.offsetWidth - 4))}px`;
    this.tip.style.top = `${this.plot.offsetTop + best.py * ratio - 30}px`;
  }
}

const drawn = data.charts.map((chart) => new Chart(document.getElementById(chart.id), chart));

for (const chip of document.querySelectorAll("[data-toggle]")) {
  const method = Number(chip.dataset.toggle);
  const { colour, dash } = look(method);
  const stroke = chip.querySelector("line");
  for (const [key, value] of Object.entries({ x1: 0, x2: 26, y1: 5, y2: 5 })) stroke.setAttribute(key, value);
  stroke.setAttribute("style", `stroke:${colour};stroke-width:3;stroke-dasharray:${dash || "none"}`);
  chip.addEventListener("click", () => {
    const off = !hidden.delete(method) && hidden.add(method);
    chip.setAttribute("aria-pressed", String(!off));
    for (const cell of document.querySelectorAll(`[data-method="${method}"]`))
      cell.classList.toggle("off", Boolean(off));
    for (const chart of drawn) chart.draw();
  });
}

let wide = window.innerWidth;
window.addEventListener("resize", () => {
  // Phones fire this when their address bar hides; only a new width needs new charts.
  if (window.innerWidth === wide) return;
  wide = window.innerWidth;
  for (const chart of drawn) chart.draw();
});
