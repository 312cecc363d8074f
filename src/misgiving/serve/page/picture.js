// The image of the selected case: the original or the model's input, enlarged.

import { at } from "./dom.js";
import { selectedCase, state } from "./state.js";
import { isMissing, lookAgain } from "./thumbnails.js";

const ZOOMS = [1, 2, 4, 8];
const unshown = new Set(); // cases whose original the browser cannot show

let zoom = 1;

export function renderPicture(one) {
  const image = at("case-image"), gone = isMissing(one);
  const original = one.image_kept && !unshown.has(one.id);
  at("layers").hidden = gone;
  at("no-image").hidden = !gone;
  for (const id of ["zoom-in", "zoom-out"]) at(id).disabled = gone;
  image.alt = gone ? "" : `Image of this case${one.blind ? "" : `, predicted class ${one.predicted_class}`}`;
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
  const why = unshown.has(one.id) ? "the browser cannot show the original" : "the original is not kept";
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
}
