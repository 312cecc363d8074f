// What a person says of a case, and going back to it.

import { askAgain, renderCase, renderReviews, select, showClasses } from "./detail.js";
import { loadMore } from "./loading.js";
import { notes } from "./remembering.js";
import { ask, at, complain, isNarrow, say, selectedCase, state, take } from "./shared.js";
import { renderAll } from "./worklist.js";

const SHOWN_FOR = 20_000; // milliseconds; the key undoes also later

const done = []; // the reviews of this visit, to be undone from the last one on
let sending = false;
export const isSending = () => sending;
let cameFrom = null; // where undoing was asked for

// Notes that were not sent, by case: a tab keeps them when it is loaded again.
const drafts = new Map(Object.entries(notes()));
export const draftOf = (id) => drafts.get(id) ?? "";
export function draft(id, note) {
  if (note) drafts.set(id, note);
  else drafts.delete(id);
  notes(Object.fromEntries(drafts));
}

export async function review(verdict) {
  const one = selectedCase();
  if (!one) return;
  if (sending) {
    say("The review before this one is still being sent.");
    return;
  }
  const here = state.shown.findIndex((other) => other.id === one.id);
  const remark = { ...verdict, note: at("note").value, reviewer: at("reviewer").value,
    seen: one.review?.reviewed_at ?? null };
  sending = true;
  try {
    const saved = await ask(`cases/${one.id}/review`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(remark),
    });
    take(saved);
    if (draftOf(one.id) === remark.note) draft(one.id, "");
    tell(saved);
    afterReview(one.id, here);
    loadMore();
  } catch (error) {
    complain(error);
    if (error.status === 409) askAgain(one.id); // another person was first
  }
  sending = false;
}

// On to the next one, also where the filter takes away what was just reviewed; but who has gone to
// another case meanwhile, or writes, is left there.
function afterReview(id, position) {
  renderAll();
  if (id !== state.selected) return;
  if (document.activeElement.matches("#note, #reviewer")) {
    renderReviews(selectedCase());
    return;
  }
  goOn(id, position);
}

function goOn(id, position) {
  const stays = state.shown.some((one) => one.id === id);
  const next = state.cases.get(cameFrom) ?? (position < 0 ? null
    : state.shown[position + (stays ? 1 : 0)] ?? state.shown.at(-1));
  cameFrom = null;
  showClasses(false);
  const open = document.body.dataset.view === "case"; // on a phone, at its top: look before agreeing
  if (next && next.id !== id) select(next.id, { open });
  else renderCase();
  toList();
}

// Unless another control has the focus, which it keeps.
function toList() {
  const mine = document.activeElement.matches("body, #detail *, #undo");
  if (mine && !isNarrow()) at("list").focus({ preventScroll: true });
}

let hiding = 0;
function tell(saved) {
  const text = `${saved.review.final_class} is saved for ${saved.name}.`;
  done.push(saved);
  say(text);
  at("saved-text").textContent = text;
  at("saved").hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(hideSaved, SHOWN_FOR);
}

function hideSaved() {
  if (at("saved").matches(":hover, :focus-within")) hiding = setTimeout(hideSaved, SHOWN_FOR);
  else at("saved").hidden = true;
}

// Back to the case that was reviewed last: what is said then counts, and the history keeps both.
export function undo() {
  const last = done.pop();
  if (!last) {
    say("There is no review to undo.");
    return;
  }
  cameFrom ??= state.selected;
  at("saved").hidden = true;
  select(last.id, { open: true });
  if (!draftOf(last.id)) draft(last.id, last.review.note);
  renderCase();
  toList();
  say(`Back at ${last.name}: what you say now counts.`);
}
