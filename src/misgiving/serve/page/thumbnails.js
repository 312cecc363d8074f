// Which images the service still has.

import { waitFor } from "./api.js";

const BUSY = [429, 503];
const LATER = 5000; // milliseconds

const missing = new Set(); // says nothing about other images, which this instance may have
const attempts = new Map();

export const isMissing = (one) => missing.has(one.id);

// The service has an image again that was sent again.
export function isBack(id) {
  missing.delete(id);
  attempts.set(id, (attempts.get(id) ?? 0) + 1);
}

// Changes when the image must be drawn again.
export const drawingOf = (one) => (isMissing(one) ? "gone" : attempts.get(one.id) ?? 0);

// An image element does not tell why it failed. A missing image is not requested again; if the
// service was busy or not reachable, it is, after a while.
export async function lookAgain(one) {
  const response = await fetch(`cases/${one.id}/thumbnail`).catch(() => null);
  if (response && !response.ok && !BUSY.includes(response.status)) {
    missing.add(one.id);
    return;
  }
  await waitFor(LATER);
  attempts.set(one.id, (attempts.get(one.id) ?? 0) + 1);
}
