// Regions of the image that the predicted class depends on.

import { ask } from "./api.js";
import { at } from "./dom.js";
import { selectedCase, state } from "./state.js";

export function hideHeat() {
  at("heat").hidden = true;
  at("saliency").setAttribute("aria-pressed", "false");
  at("saliency-says").textContent = "";
}

export async function toggleHeat() {
  const one = selectedCase();
  if (!one || at("saliency").disabled) return;
  if (!at("heat").hidden) return hideHeat();
  at("saliency-says").textContent = "Covering one region after another …";
  try {
    const found = await ask(`cases/${one.id}/saliency`);
    if (state.selected === one.id) drawHeat(found);
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
