// Saves reviews, moves on to the next case, and undoes.

import { ask } from "./api.js";
import { askAgain, renderCase, renderReviews, select, showClasses } from "./case_panel.js";
import { loadMore } from "./cases.js";
import { at, complain, isNarrow, say } from "./dom.js";
import { on, selectedCase, state, take } from "./state.js";
import { draft, draftOf } from "./storage.js";
import { renderAll } from "./worklist.js";

const SHOWN_FOR = 20_000; // milliseconds; the key undoes later, too

const done = []; // reviews of this visit, for undo
let cameFrom = null; // the case that was open when undo was pressed

on("verdict", review);

export async function review(verdict) {
  const one = selectedCase();
  if (!one) return;
  if (state.saving) {
    say("The previous review is still being saved.");
    return;
  }
  const here = state.shown.findIndex((other) => other.id === one.id);
  const remark = { ...verdict, note: at("note").value, reviewer: at("reviewer").value,
    seen: one.review?.reviewed_at ?? null };
  state.saving = true;
  try {
    const saved = await ask(`cases/${one.id}/review`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(remark),
    });
    take(saved);
    if (draftOf(one.id) === remark.note) draft(one.id, "");
    showSaved(saved);
    afterReview(one.id, here);
    loadMore();
  } catch (error) {
    complain(error);
    if (error.status === 409) askAgain(one.id); // someone else was first
  }
  state.saving = false;
}

// Move on to the next case, even if the filter hides the reviewed one; but a reviewer who has moved
// elsewhere in the meantime, or is writing, is not interrupted.
function afterReview(id, position) {
  renderAll();
  if (id !== state.selected) return;
  if (document.activeElement.matches("#note, #reviewer")) {
    renderReviews(selectedCase());
    return;
  }
  const stays = state.shown.some((one) => one.id === id);
  const next = state.cases.get(cameFrom) ?? (position < 0 ? null
    : state.shown[position + (stays ? 1 : 0)] ?? state.shown.at(-1));
  cameFrom = null;
  showClasses(false);
  const open = document.body.dataset.view === "case"; // on a phone, scroll to the top of the next case
  if (next && next.id !== id) select(next.id, { open });
  else renderCase();
  focusList();
}

// Unless another control has the focus.
function focusList() {
  const mine = document.activeElement.matches("body, #detail *, #undo");
  if (mine && !isNarrow()) at("list").focus({ preventScroll: true });
}

let hiding = 0;
function showSaved(saved) {
  const text = `Saved: ${saved.review.final_class} for ${saved.name}.`;
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

// Return to the last reviewed case. A new review replaces the old one; the history keeps both.
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
  focusList();
  say(`Back to ${last.name}: a new review replaces the last one.`);
}
