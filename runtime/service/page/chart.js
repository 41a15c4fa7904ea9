/** A chart in SVG: axes with names and units, and lines over them. */

const SVG = "http://www.w3.org/2000/svg";
const EDGE = { right: 10, top: 10, bottom: 38 };
const LETTER = 7; // pixels of one in the ticks' texts, about

export function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Round numbers from 0 to at least `most`, four or five of them. */
export function niceTicks(most) {
  const rough = Math.max(most, 1e-9) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((one) => one >= rough * 0.999);
  return Array.from({ length: Math.ceil(most / step - 1e-6) + 1 }, (_, index) => index * step);
}

export class Chart {
  /** `axes` is {x, y}, each {name, from, to, ticks: [[value, text]]} and, for y, `log`. */
  constructor(svg, axes) {
    this.svg = svg;
    this.back = svg.appendChild(element("g", {}));
    this.front = svg.appendChild(element("g", {}));
    this.changed = () => {};
    this.setAxes(axes);
    new ResizeObserver(() => this.setAxes(this.axes, true)).observe(svg);
  }

  setAxes(axes, resized = false) {
    const key = JSON.stringify(axes);
    if (key === this.key && !resized) return;
    [this.key, this.axes] = [key, axes];
    const { width, height } = this.svg.getBoundingClientRect();
    [this.width, this.height] = [Math.max(width, 120), Math.max(height, 80)];
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.left = 32 + LETTER * Math.max(...axes.y.ticks.map(([, text]) => text.length));
    this.back.replaceChildren(...this.#grid());
    this.changed();
  }

  x(value) {
    const { from, to } = this.axes.x;
    return this.left + ((value - from) / (to - from)) * (this.width - this.left - EDGE.right);
  }

  y(value) {
    const { from, to, log } = this.axes.y;
    const level = (one) => (log ? Math.log10(Math.max(one, from)) : one);
    const share = (level(value) - level(from)) / (level(to) - level(from));
    return this.height - EDGE.bottom - Math.min(1, Math.max(0, share)) * (this.height - EDGE.top - EDGE.bottom);
  }

  /** SVG path of points [x, y]; null breaks the line. */
  path(points) {
    let pen = "M";
    let path = "";
    for (const point of points) {
      if (point !== null) path += `${pen}${this.x(point[0]).toFixed(1)} ${this.y(point[1]).toFixed(1)}`;
      pen = point === null ? "M" : "L";
    }
    return path;
  }

  /** What stands over the axes, in place of what stood there. */
  draw(...elements) {
    this.front.replaceChildren(...elements);
  }

  vertical(value, style) {
    const x = this.x(value).toFixed(1);
    return element("line", { class: style, x1: x, x2: x, y1: EDGE.top, y2: this.height - EDGE.bottom });
  }

  horizontal(value, style) {
    const y = this.y(value).toFixed(1);
    return element("line", { class: style, y1: y, y2: y, x1: this.left, x2: this.width - EDGE.right });
  }

  #grid() {
    const { x, y } = this.axes;
    const [right, bottom] = [this.width - EDGE.right, this.height - EDGE.bottom];
    const drawn = [];
    for (const [value, text] of y.ticks) {
      drawn.push(this.horizontal(value, "grid"));
      drawn.push(element("text", { x: this.left - 6, y: this.y(value) + 4, "text-anchor": "end" }, text));
    }
    for (const [value, text] of x.ticks) {
      const anchor = this.x(value) > right - 12 ? "end" : "middle";
      drawn.push(element("text", { x: this.x(value), y: bottom + 16, "text-anchor": anchor }, text));
    }
    drawn.push(element("line", { class: "axis", x1: this.left, x2: right, y1: bottom, y2: bottom }));
    const middle = (EDGE.top + bottom) / 2;
    drawn.push(element("text", { x: (this.left + right) / 2, y: this.height - 4, "text-anchor": "middle" }, x.name));
    const turned = `translate(11 ${middle}) rotate(-90)`;
    drawn.push(element("text", { transform: turned, "text-anchor": "middle" }, y.name));
    return drawn;
  }
}
