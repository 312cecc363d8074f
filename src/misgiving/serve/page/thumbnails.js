// Which images the service still has.

import { waitFor } from "./api.js";

const BUSY = [429, 503];
const LATER = 5000; // milliseconds

const missing = new Set();
let forgotten = ""; // the newest case whose image has left the service's memory
const back = new Set(); // sent again since then
const attempts = new Map();

// The service drops the oldest images first, so older ones need not be requested. A missing file
// says nothing about other files.
export const isForgotten = (one) =>
  missing.has(one.id) || (!one.image_kept && one.id <= forgotten && !back.has(one.id));

// The service has an image again that was sent again.
export function isBack(id) {
  missing.delete(id);
  back.add(id);
  attempts.set(id, (attempts.get(id) ?? 0) + 1);
}

// Changes when the image must be drawn again.
export const drawingOf = (one) => (isForgotten(one) ? "gone" : attempts.get(one.id) ?? 0);

// An image element does not tell why it failed. A missing image is not requested again; if the
// service was busy or not reachable, it is, after a while.
export async function lookAgain(one) {
  const response = await fetch(`cases/${one.id}/thumbnail`).catch(() => null);
  if (response && !response.ok && !BUSY.includes(response.status)) {
    missing.add(one.id);
    back.delete(one.id);
    if (response.status === 404 && !one.image_kept && one.id > forgotten) forgotten = one.id;
    return;
  }
  await waitFor(LATER);
  attempts.set(one.id, (attempts.get(one.id) ?? 0) + 1);
}
