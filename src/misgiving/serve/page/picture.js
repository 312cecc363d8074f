// The image of the selected case: the original or the model's input, enlarged, with important regions.

import { ask } from "./api.js";
import { at } from "./dom.js";
import { selectedCase, state } from "./state.js";
import { isMissing, lookAgain } from "./thumbnails.js";

const ZOOMS = [1, 2, 4, 8];
const unshown = new Set(); // cases whose original the browser cannot show

let zoom = 1;

export function renderPicture(one) {
  const image = at("case-image"), gone = isMissing(one);
  const original = one.image_kept && !unshown.has(one.id) && at("heat").hidden;
  at("layers").hidden = gone;
  at("no-image").hidden = !gone;
  for (const id of ["saliency", "zoom-in", "zoom-out"]) at(id).disabled = gone;
  image.alt = gone ? "" : `Image of this case${one.blind ? "" : `, predicted class ${one.predicted_class}`}`;
  at("saliency").hidden = Boolean(one.blind);
  const source = gone ? null : `cases/${one.id}/${original ? "image" : "thumbnail"}`;
  if (image.getAttribute("src") === source) return; // it would be loaded again
  at("picture-says").textContent = "";
  if (gone) image.removeAttribute("src");
  else image.src = source;
}

export function listenToPicture(on) {
  on("case-image", "load", describe);
  on("case-image", "error", onError);
  on("zoom-in", "click", () => enlarge(1));
  on("zoom-out", "click", () => enlarge(-1));
  on("saliency", "click", toggleHeat);
  for (const name of LIGHT) on(name, "input", applyLight);
  on("stack", "dblclick", (event) => enlarge(zoom === 1 ? 2 : -ZOOMS.length, event));
  on("stack", "wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    enlarge(event.deltaY < 0 ? 1 : -1, event);
  });
  on("stack", "pointermove", (event) => {
    if (event.buttons !== 1 || event.pointerType !== "mouse") return;
    at("stack").scrollBy(-event.movementX, -event.movementY);
  });
}

function describe() {
  const one = selectedCase(), { naturalWidth: width, naturalHeight: height, src } = at("case-image");
  if (!one || !src) return;
  const why = unshown.has(one.id) ? "the browser cannot show the original"
    : one.image_kept ? "important regions are those of this input" : "the original is not kept";
  at("picture-says").textContent = src.endsWith("/image")
    ? `Original, ${width} × ${height} pixels.` : `The model's ${width}-pixel input: ${why}.`;
}

async function onError() {
  const one = selectedCase();
  if (!one) return;
  if (at("case-image").src.endsWith("/image")) unshown.add(one.id);
  else await lookAgain(one);
  if (one.id !== state.selected) return;
  at("case-image").removeAttribute("src");
  renderPicture(one);
}

// The middle of the visible part stays in the middle, or the point of the pointer in its place.
export function enlarge(steps, event) {
  const stack = at("stack"), before = zoom;
  const index = Math.min(ZOOMS.length - 1, Math.max(0, ZOOMS.indexOf(zoom) + steps));
  const box = stack.getBoundingClientRect();
  const x = event ? event.clientX - box.left : box.width / 2, y = event ? event.clientY - box.top : box.height / 2;
  const left = stack.scrollLeft + x, top = stack.scrollTop + y;
  zoom = ZOOMS[index];
  at("layers").style.width = at("layers").style.height = `${100 * zoom}%`;
  at("zoom").textContent = `${zoom}×`;
  stack.classList.toggle("enlarged", zoom > 1);
  stack.scrollTo(left * zoom / before - x, top * zoom / before - y);
}

const LIGHT = ["brightness", "contrast"];
const applyLight = () => {
  at("case-image").style.filter = LIGHT.map((name) => `${name}(${at(name).value}%)`).join(" ");
};

export function resetPicture() {
  enlarge(-ZOOMS.length);
  for (const name of LIGHT) at(name).value = 100;
  applyLight();
  hideHeat();
}

function hideHeat() {
  at("heat").hidden = true;
  at("saliency").setAttribute("aria-pressed", "false");
  at("saliency-says").textContent = "";
}

// Regions of the image that the predicted class depends on.
export async function toggleHeat() {
  const one = selectedCase();
  if (!one || one.blind || at("saliency").disabled) return;
  if (!at("heat").hidden) {
    hideHeat();
    renderPicture(one);
    return;
  }
  at("saliency-says").textContent = "Covering one region after another …";
  try {
    const found = await ask(`cases/${one.id}/saliency`);
    if (state.selected !== one.id) return;
    drawHeat(found);
    renderPicture(one);
  } catch (error) {
    if (state.selected === one.id) at("saliency-says").textContent = error.message;
  }
}

function drawHeat({ drops, predicted_class: name }) {
  const size = drops.length, most = Math.max(...drops.flat());
  const cells = new OffscreenCanvas(size, size), pen = cells.getContext("2d");
  drops.forEach((row, y) => row.forEach((drop, x) => {
    const strength = most > 0 ? Math.max(0, drop) / most : 0;
    pen.fillStyle = `hsl(${50 - 50 * strength} 100% 50% / ${strength})`;
    pen.fillRect(x, y, 1, 1);
  }));
  const heat = at("heat");
  heat.width = heat.height = 256;
  const paint = heat.getContext("2d");
  paint.imageSmoothingQuality = "high";
  paint.drawImage(cells, 0, 0, 256, 256);
  heat.hidden = false;
  at("saliency").setAttribute("aria-pressed", "true");
  at("saliency-says").textContent = most > 0.005
    ? `Covering the reddest region lowers the probability of ${name} by ${(100 * most).toFixed(1)} `
      + "percentage points."
    : "No single region matters: covering any of them changes little.";
}
