/** The live page: asks for one frame after the other, and shows what came. */

import { showEigenfaces } from "./eigenfaces.js";
import { noPreview, setGate, showGate } from "./gate.js";
import { addFrame, showRates } from "./latency.js";
import { drawPictures, markOld } from "./pictures.js";
import {
  Refused,
  TokenWanted,
  Unreachable,
  forgetToken,
  hasToken,
  keepToken,
  nextFrame,
  switchCamera,
  view,
} from "./service.js";

const SILENT_S = 2; // without an answer, the service is said to be silent
const LOOK_MS = 250;
const AGAIN_MS = 1000;
const VIEW_S = 10; // how often the gate's settings are read anew
const PROBLEM_S = 8;
const OLD_S = 3; // a machine that takes longer for a frame shows what was, and has to say so

const $ = (id) => document.getElementById(id);
const now = () => performance.now() / 1000;
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

let about = null; // answer of /v1/view, and when it came
let aboutAt = -Infinity;
let after = 0;
let pending = null; // gives up the request that waits
let answered = now();
let pictureAt = null;
let pictureOf; // which camera
let switching = false; // while the service has not heard yet which camera was chosen
let failed = false; // the last request did not reach the service
let problem = ["", 0]; // what is to be read for some seconds, and until when

// -- state -------------------------------------------------------------------------------------------------------

function showState(state, word, why) {
  if (why === "" && now() < problem[1]) [why] = problem;
  if ($("state").dataset.state !== state) $("state").dataset.state = state;
  if ($("state-word").textContent !== word) $("state-word").textContent = word;
  $("notice").hidden = why === "";
  if ($("notice").textContent !== why) $("notice").textContent = why;
  if (state !== "connected") noPreview();
  else if (pictureAt !== null && now() - pictureAt < OLD_S) return markOld("");
  markOld(pictureAt === null ? "no picture yet" : `old picture: ${(now() - pictureAt).toFixed(0)} s ago`);
}

function showCamera(camera) {
  if (camera === undefined) {
    return showState("none", "no camera", "The service was started without a camera: start it with --camera NAME=SOURCE.");
  }
  const { state, since_s: since, why } = camera.status;
  const reason = why && state !== "connected" ? `: ${why}` : "";
  showState(state, state, state === "connected" ? "" : `${camera.name} is ${state} for ${since.toFixed(0)} s${reason}`);
}

function showCameras(cameras) {
  const select = $("camera");
  const names = cameras.map((camera) => camera.name);
  if ([...select.options].map((option) => option.value).join("\n") !== names.join("\n")) {
    select.replaceChildren(...names.map((name) => new Option(name, name)));
    select.disabled = names.length < 2;
  }
  const active = cameras.find((camera) => camera.active);
  if (active && !switching && select.value !== active.name) select.value = active.name; // somebody else chose
  return active;
}

function showAbout() {
  const { bundle, k, provider, version, mutation, modes, gain } = about;
  $("about").textContent = `Bundle ${bundle}, ${k} eigenfaces, on ${provider}; ImmuneCam ${version}`;
  $("service-mode").textContent = ` (mutation ${mutation})`;
  $("noise-gain").textContent = `× ${gain}`;
  for (const radio of radios()) {
    radio.disabled = !modes.includes(radio.value);
    radio.closest("label").classList.toggle("off", radio.disabled);
  }
  if (chosen() === null) radios().find((radio) => radio.value === mutation).checked = true;
  setGate(about.gate);
}

// -- settings of this view ---------------------------------------------------------------------------------------

const radios = () => [...document.querySelectorAll("input[name=mutation]")];
const chosen = () => radios().find((radio) => radio.checked)?.value ?? null;

function settingsChanged() {
  const on = $("purify").checked;
  $("purify-word").textContent = on ? "on" : "off";
  $("mutation").disabled = !on;
  $("after-note").textContent = on ? "purified faces in place" : "purifier off, in this view only";
  after = 0; // the same frame, seen in another way
  pending?.abort();
}

$("purify").addEventListener("change", settingsChanged);
$("mutation").addEventListener("change", settingsChanged);
$("camera").addEventListener("change", async ({ target }) => {
  switching = true;
  try {
    await switchCamera(target.value);
  } catch (error) {
    problem = [`The camera was not switched: ${error.message}`, now() + PROBLEM_S];
  }
  switching = false;
  pending?.abort();
});

// -- the token ---------------------------------------------------------------------------------------------------

function tokenGiven(problem) {
  $("ask-error").textContent = problem;
  $("token").value = "";
  return new Promise((done) => {
    const open = () => {
      $("ask").showModal();
      $("token").focus();
    };
    const given = (event) => {
      event.preventDefault();
      keepToken($("token").value.trim());
      $("token").value = "";
      $("forget").hidden = false;
      $("ask").removeEventListener("close", open);
      $("ask").close();
      done();
    };
    $("ask").addEventListener("close", open); // by Escape: but nothing works without a token
    $("ask-form").addEventListener("submit", given, { once: true });
    open();
  });
}

$("forget").hidden = !hasToken();
$("forget").addEventListener("click", () => {
  forgetToken();
  location.reload(); // with all that was shown
});

// -- the loop ----------------------------------------------------------------------------------------------------

async function step() {
  if (about === null || now() - aboutAt > VIEW_S) {
    about = await view();
    aboutAt = now();
    showAbout();
  }
  pending = new AbortController();
  const mutation = chosen();
  const { state, pictures } = await nextFrame({ after, purify: $("purify").checked, mutation }, pending.signal);
  answered = now();
  const camera = showCameras(state.cameras);
  const { frame } = state;
  if (camera?.name !== pictureOf) [pictureOf, pictureAt] = [camera?.name, null]; // the old one's is none of the new one
  if (frame !== null && frame.camera === camera?.name) {
    after = frame.number;
    pictureAt = answered;
    drawPictures(frame, pictures);
    addFrame(answered, frame);
    showEigenfaces(frame.faces, about.k, mutation);
  }
  showGate(state);
  showCamera(camera);
  showRates(answered, camera);
}

async function run() {
  for (;;) {
    if (document.hidden) {
      await new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }));
      answered = now();
      continue;
    }
    try {
      await step();
      failed = false;
    } catch (error) {
      if (pending?.signal.aborted) {
        pending = null; // a setting was changed
        continue;
      }
      if (error instanceof TokenWanted) {
        const problem = hasToken() ? "That is not the token of this service." : "";
        forgetToken();
        await tokenGiven(problem);
        answered = now();
      } else if (error instanceof Refused) {
        answered = now();
        showState("refused", "refused", error.message);
        await sleep(1000 * error.afterS);
      } else if (error instanceof Unreachable) {
        failed = true;
        showState("unreachable", "no answer", "The service does not answer: is it running, and the network there?");
        await sleep(AGAIN_MS);
      } else {
        failed = true; // of the page itself, which must not pass for the network's
        console.error(error);
        showState("failed", "page failed", `This page has failed (${error.message}): load it again, and report it.`);
        await sleep(AGAIN_MS);
      }
    }
  }
}

setInterval(() => {
  if (document.hidden || failed || $("ask").open) return;
  if (now() - answered > SILENT_S) {
    showState("unreachable", "no answer", `The service has not answered for ${(now() - answered).toFixed(0)} s.`);
  }
}, LOOK_MS);

run();
