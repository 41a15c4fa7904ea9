/** The three pictures, with the faces' boxes drawn over them. */

const LABELS = { before: "Before purification", after: "After purification", noise: "Noise that was removed" };

const canvases = Object.fromEntries(Object.keys(LABELS).map((name) => [name, document.getElementById(name)]));

/** Draw a frame; what was not purified has one picture for both sides, and no noise. */
export function drawPictures(frame, pictures) {
  const count = frame.faces.length === 1 ? "1 face" : `${frame.faces.length} faces`;
  for (const [name, canvas] of Object.entries(canvases)) {
    const picture = pictures[name] ?? (name === "after" ? pictures.before : null);
    const { width, height } = pictures.before;
    // Setting a size, even the same one, empties a canvas.
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    if (picture) {
      context.drawImage(picture, 0, 0);
    } else {
      context.fillStyle = "rgb(128 128 128)";
      context.fillRect(0, 0, width, height);
    }
    drawBoxes(context, frame);
    const label = `${LABELS[name]}, ${count}`;
    if (canvas.getAttribute("aria-label") !== label) canvas.setAttribute("aria-label", label);
  }
  for (const picture of Object.values(pictures)) picture.close();
}

/** Say over the pictures that they are not of now; an empty text says that they are. */
export function markOld(text) {
  for (const canvas of Object.values(canvases)) {
    canvas.parentElement.classList.toggle("old", text !== "");
    canvas.parentElement.dataset.old = text;
  }
}

function drawBoxes(context, frame) {
  const { canvas } = context;
  const scale = canvas.width / frame.width;
  const pixel = canvas.width / Math.max(1, canvas.clientWidth); // of the screen, in the canvas's
  frame.faces.forEach((face, index) => {
    const [x, y, w, h] = face.box.map((value) => value * scale);
    for (const [style, line] of [["rgb(0 0 0 / 70%)", 4], ["#fff", 2]]) {
      context.strokeStyle = style;
      context.lineWidth = line * pixel;
      context.strokeRect(x, y, w, h);
    }
    const text = String(index + 1);
    context.font = `600 ${13 * pixel}px system-ui, sans-serif`;
    const side = 18 * pixel;
    const width = Math.max(side, context.measureText(text).width + 8 * pixel);
    context.fillStyle = "#fff";
    context.fillRect(x - pixel, y - pixel, width, side);
    context.fillStyle = "#000";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(text, x - pixel + width / 2, y - pixel + side / 2);
  });
}
