/** What the gate would say at the slider's threshold, and how often it would err there. */

import { Chart, element } from "./chart.js";

const FLOOR = 1e-4; // of the chart; what is rarer, or was never seen, lies on it
const AGED_S = 3;
const WORDS = {
  granted: "would be granted",
  denied: "would be denied",
  "no-face": "no face in view",
  "low-quality": "face too poor to decide",
  "suspected-attack": "attack suspected",
  none: "waiting for a face",
};

const $ = (id) => document.getElementById(id);
const write = (id, text) => {
  if ($(id).textContent !== text) $(id).textContent = text;
};
const slider = $("threshold");
const percent = (rate) => `${Number((100 * rate).toPrecision(2))} %`;
const number = (count) => count.toLocaleString("en");

let gate = null;
let threshold = 0; // the gate's own is exact, the slider's are steps
let moved = false;
let newest = null;
let chart = null;

/** Show how the gate is set; null where there is none. The slider stays where a person has put it. */
export function setGate(found) {
  gate = found;
  $("gate-none").hidden = gate !== null;
  $("gate").hidden = gate === null;
  if (gate === null) return;
  const lowest = gate.threshold < 0 ? -1 : 0; // below 0 no recogniser's threshold is of use, but one may have it
  slider.min = lowest;
  if (!moved) setThreshold(gate.threshold ?? 0.5);
  const own = gate.threshold === null ? "has no threshold yet, and decides nothing" : `decides at ${gate.threshold.toFixed(4)}`;
  const how = gate.by_hand ? ", which was given when the service was started" : "";
  write("gate-threshold", `; the gate ${own}${how}`);
  $("threshold-reset").disabled = gate.threshold === null;
  $("curve").toggleAttribute("hidden", gate.rates === null);
  if (gate.rates !== null && chart === null) {
    const tick = (share) => [lowest + share * (1 - lowest), String(lowest + share * (1 - lowest))];
    chart = new Chart($("curve"), {
      x: { name: "threshold (cosine)", from: lowest, to: 1, ticks: [0, 0.25, 0.5, 0.75, 1].map(tick) },
      y: {
        name: "error rate",
        from: FLOOR,
        to: 1,
        log: true,
        ticks: [[1e-4, "0.01 %"], [1e-3, "0.1 %"], [1e-2, "1 %"], [0.1, "10 %"], [1, "100 %"]],
      },
    });
    chart.changed = drawCurve;
  }
  showRates();
}

/** Take the newest preview, and the last decision that a client asked for. */
export function showGate(state) {
  if (gate === null) return;
  newest = state.preview;
  showVerdict();
  const last = state.decision;
  const record = last && last.seq !== null ? `, record ${last.seq}` : "";
  const who = last?.candidate ? ` (nearest ${last.candidate}${last.score === null ? "" : ` ${last.score.toFixed(3)}`})` : "";
  write(
    "last-decision",
    last ? `Last decision asked for: ${last.event}${who}, ${last.age_s.toFixed(0)} s ago${record}.` : "",
  );
}

/** No frames come, so nothing can be said. */
export function noPreview() {
  newest = null;
  if (gate !== null) showVerdict();
}

function setThreshold(value) {
  threshold = value;
  slider.value = value;
  const exact = gate !== null && value === gate.threshold;
  $("threshold-value").textContent = value.toFixed(exact ? 4 : 2);
  slider.setAttribute("aria-valuetext", value.toFixed(exact ? 4 : 2));
}

function showVerdict() {
  const said = newest !== null && newest.age_s < AGED_S ? newest : null;
  let event = said === null ? "none" : said.event;
  // The comparison with the threshold is all that the slider changes; the rest stays the gate's.
  if (event === "granted" || event === "denied") event = said.score !== null && said.score >= threshold ? "granted" : "denied";
  if ($("verdict").dataset.event !== event) $("verdict").dataset.event = event;
  write("verdict-word", WORDS[event]);
  const near = said?.candidate ? `nearest ${said.candidate}, score ${said.score.toFixed(3)}` : "";
  const why = said && said.reasons.length ? said.reasons.join("; ") : "";
  write("verdict-why", [near, why].filter(Boolean).join(" – ") || "\u00a0");
  drawCurve();
}

function showRates() {
  const { rates, people } = gate;
  if (rates === null) {
    const why = gate.threshold === null || gate.by_hand ? "It is not calibrated" : "Its calibration kept no rates";
    write("fmr", `Error rates are not known. ${why}: run “immunecam gate calibrate” with faces from this camera.`);
    write("fnmr", "");
    write("rates-of", "");
    return;
  }
  // Between two measured thresholds the worse of both counts.
  const place = (threshold + 1) * 100;
  const fmr = rates.fmr[Math.max(0, Math.floor(place + 1e-6))];
  const fnmr = rates.fnmr[Math.min(200, Math.ceil(place - 1e-6))];
  const most = 3 / rates.independent;
  const seldom = fmr > 0 ? percent(fmr) : `none seen, below ${percent(Math.min(1, most))} (95 %)`;
  const any = fmr > 0 && people > 1 ? `, of one of ${number(people)} enrolled ${percent(1 - (1 - fmr) ** people)}` : "";
  write("fmr", `False matches (FMR): ${seldom}${any}`);
  write("fnmr", `False non-matches (FNMR): ${fnmr > 0 ? percent(fnmr) : `none of ${number(rates.genuine)} seen`}`);
  write(
    "rates-of",
    `By the gate’s calibration: ${number(rates.comparisons)} comparisons of different people ` +
      `(${number(rates.independent)} independent), ${number(rates.genuine)} of one person.`,
  );
  drawCurve();
}

function drawCurve() {
  if (chart === null || gate?.rates == null) return;
  const { from } = chart.axes.x;
  const points = (values) => values.map((rate, index) => [index / 100 - 1, rate]).filter(([at]) => at >= from);
  const drawn = [
    element("path", { class: "line", d: chart.path(points(gate.rates.fmr)) }),
    element("path", { class: "line other", d: chart.path(points(gate.rates.fnmr)) }),
    chart.vertical(threshold, "mark"),
    // At the end of its line each: there one is high and the other low, whatever the recogniser.
    element("text", { class: "tag", x: chart.x(1) - 2, y: chart.y(FLOOR) - 6, "text-anchor": "end" }, "FMR"),
    element("text", { class: "tag", x: chart.x(1) - 2, y: chart.y(1) + 16, "text-anchor": "end" }, "FNMR"),
  ];
  if (newest?.score != null) {
    const [x, y] = [chart.x(Math.max(from, newest.score)), chart.y(FLOOR)];
    const [side, anchor] = newest.score < threshold ? [-9, "end"] : [9, "start"]; // away from the threshold
    drawn.push(element("path", { class: "pointer", d: `M${x} ${y - 11}l6 11h-12z` }));
    drawn.push(element("text", { class: "tag", x: x + side, y: y - 3, "text-anchor": anchor }, "score"));
  }
  chart.draw(...drawn);
}

slider.addEventListener("input", () => {
  moved = true;
  setThreshold(Number(slider.value));
  showVerdict();
  showRates();
});

$("threshold-reset").addEventListener("click", () => {
  moved = false;
  setThreshold(gate.threshold);
  showVerdict();
  showRates();
});
