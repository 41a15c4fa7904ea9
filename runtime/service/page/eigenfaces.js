/** How many eigenfaces are active, and with what probability each is. */

import { Chart, element } from "./chart.js";

const Y = { name: "probability", from: 0, to: 1, ticks: [0, 0.5, 1].map((p) => [p, String(p)]) };
const axes = (k) => ({
  x: {
    name: "eigenface, the leading first",
    from: 0,
    to: k,
    ticks: [0, 0.25, 0.5, 0.75, 1].map((share) => [share * k, String(Math.max(1, Math.round(share * k)))]),
  },
  y: Y,
});
const chart = new Chart(document.getElementById("probabilities"), axes(1));
const line = document.getElementById("active");

/** The largest face's probabilities, and the counts of all. */
export function showEigenfaces(faces, k, mutation) {
  chart.setAxes(axes(k));
  const [first] = faces;
  if (!first || first.active === null) {
    line.textContent = first ? "not purified" : "no face in view";
    chart.draw();
    return;
  }
  const each = faces.map((face, index) => `face ${index + 1}: ${face.active.toFixed(mutation === "expected" ? 1 : 0)}`);
  line.textContent = `${each.join(", ")} of ${k}`;
  const bars = first.probabilities;
  const points = [[0, 0]];
  bars.forEach((p, index) => points.push([(index / bars.length) * k, p], [((index + 1) / bars.length) * k, p]));
  points.push([k, 0]);
  const drawn = [element("path", { class: "area", d: `${chart.path(points)}Z` })];
  if (mutation === "threshold") drawn.push(chart.horizontal(0.5, "half"));
  chart.draw(...drawn);
}
