/** How long frames took over the last minute, and how often they come. */

import { Chart, element, niceTicks } from "./chart.js";

const SPAN_S = 60;
const GAP_S = 2; // without a frame, the line is broken
const RATE_S = 3;
const TEXT_S = 0.5;

const text = (id, content) => {
  const found = document.getElementById(id);
  if (found.textContent !== content) found.textContent = content;
};
const X = { name: "seconds ago", from: -SPAN_S, to: 0, ticks: [60, 45, 30, 15, 0].map((s) => [-s, String(s)]) };
const axes = (most) => {
  const ticks = niceTicks(most);
  return { x: X, y: { name: "milliseconds", from: 0, to: ticks.at(-1), ticks: ticks.map((v) => [v, String(v)]) } };
};
const chart = new Chart(document.getElementById("latency"), axes(100));

let samples = []; // [seconds, milliseconds]
let counts = []; // [seconds, frames of the camera], of one connection of one camera
let source = "";
let told = 0;

/** A frame came. */
export function addFrame(now, frame) {
  samples.push([now, frame.latency_ms]);
  samples = samples.filter(([when]) => when > now - SPAN_S);
  const slowest = Math.max(...samples.map(([, ms]) => ms));
  chart.setAxes(axes(slowest));
  const points = [];
  samples.forEach(([when, ms], index) => {
    if (index && when - samples[index - 1][0] > GAP_S) points.push(null);
    points.push([when - now, ms]);
  });
  chart.draw(element("path", { class: "line", d: chart.path(points) }));
  if (now - told < TEXT_S) return;
  told = now;
  const sorted = samples.map(([, ms]) => ms).sort((a, b) => a - b);
  const quantile = (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))].toFixed(0);
  text("latency-text", `${frame.latency_ms.toFixed(0)} ms now; median ${quantile(0.5)}, 95 % within ${quantile(0.95)} ms`);
  const { picture, ...stages } = frame.timings_ms;
  const parts = Object.entries(stages).map(([stage, ms]) => `${stage} ${ms.toFixed(1)}`);
  text("stages", `${parts.join(" · ")} ms; and for this page ${picture.toFixed(1)} ms`);
}

/** Frames a second, of the camera by its own count, and on this page. */
export function showRates(now, camera) {
  const status = camera?.status;
  const name = `${camera?.name} ${status?.reconnections}`;
  if (name !== source || (counts.length && status && status.frames < counts.at(-1)[1])) counts = [];
  source = name;
  if (status) counts.push([now, status.frames]);
  counts = counts.filter(([when]) => when > now - RATE_S);
  const [first, last] = [counts[0], counts.at(-1)];
  const rate = last && last[0] - first[0] > 0.8 ? (last[1] - first[1]) / (last[0] - first[0]) : null;
  const recent = samples.filter(([when]) => when > now - RATE_S);
  const span = recent.length ? Math.max(1, Math.min(RATE_S, now - recent[0][0])) : RATE_S;
  text("camera-rate", rate === null ? "–" : rate.toFixed(1));
  text("shown-rate", (recent.length / span).toFixed(1));
}
