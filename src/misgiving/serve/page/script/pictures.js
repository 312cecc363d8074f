// Which pictures the service still has.

import { waitFor } from "./shared.js";

const BUSY = [429, 503];
const LATER = 5000; // milliseconds

const missing = new Set();
let forgotten = ""; // the newest case whose picture has left the service's memory
const attempts = new Map();

// The oldest pictures leave the service's memory first: what is older need not be asked for. A
// picture that was to be kept says nothing of others where it is missing.
export const isForgotten = (one) =>
  missing.has(one.id) || (!one.image_kept && one.id <= forgotten);

// Where it is another one, the picture is to be drawn anew.
export const drawingOf = (one) => (isForgotten(one) ? "gone" : attempts.get(one.id) ?? 0);

// An element does not say why a picture has not come. What the service no longer has is not asked
// for again; where it could not be reached, that is so for a while.
export async function lookAgain(one) {
  const answer = await fetch(`cases/${one.id}/thumbnail`).catch(() => null);
  if (answer && !answer.ok && !BUSY.includes(answer.status)) {
    missing.add(one.id);
    if (answer.status === 404 && !one.image_kept && one.id > forgotten) forgotten = one.id;
    return;
  }
  await waitFor(LATER);
  attempts.set(one.id, (attempts.get(one.id) ?? 0) + 1);
}
