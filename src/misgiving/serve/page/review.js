// Saves reviews, moves on to the next case, and undoes.

import { ask, waitFor } from "./api.js";
import { lookForAudit } from "./audit.js";
import { askAgain, renderCase, renderReviews, select } from "./case_panel.js";
import { loadMore, countReviews } from "./cases.js";
import { verdictOn, wordsOf } from "./choices.js";
import { at, complain, isNarrow, say } from "./dom.js";
import { isAccepted, isShown } from "./outcomes.js";
import { emit, on, see, selectedCase, state, take } from "./state.js";
import { draft, draftOf, local } from "./storage.js";
import { markedCases, renderAll, renderBatch, setLayout } from "./worklist.js";

const WINDOW = 31_000; // milliseconds; after 30 seconds the service settles a blind answer
const SHOWN_FOR = 20_000; // milliseconds; the key undoes later, too

const done = []; // cases that were reviewed together, in this visit, for undo
let cameFrom = null; // the case that was open when undo was pressed

on("choice", review);

// Of the selected case, or of all that are selected in the grid.
export async function review(choice) {
  const grid = state.layout === "grid", cases = grid ? markedCases() : [selectedCase()].filter(Boolean);
  if (state.model?.role === "operate") say("A key to operate signs no reading.");
  else if (state.saving) say("The previous review is still being saved.");
  else if (!cases.length) say(grid ? "Select cases first, with a click or the space key." : "Select a case first.");
  else if (!grid && isLoading()) complain({ message: "The image is still being loaded: nothing is saved." });
  else if (canAnswer(cases, choice) && await isMeant(cases, choice)) await saveAll(cases, choice, grid);
}

// One key answers many cases only after a question that states their number.
async function isMeant(cases, choice) {
  if (cases.length < 2) return true;
  const words = choice.verdict === "agree" ? "the model's class of each" : wordsOf({ final_class: choice.class, ...choice });
  const dialog = at("bulk");
  at("bulk-question").textContent = `Review ${cases.length} cases together as ${words}?`;
  at("bulk-yes").textContent = `Review ${cases.length} cases`;
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((done) => { dialog.addEventListener("close", done, { once: true }); });
  return dialog.returnValue === "yes";
}

const isLoading = () => !at("layers").hidden && !(at("case-image").complete && at("case-image").naturalWidth);

async function saveAll(cases, choice, grid) {
  askName();
  const isBlind = cases[0].blind, here = state.shown.findIndex((other) => other.id === cases[0].id);
  const following = state.shown[here + 1]?.id; // a blind case gets its own place in the order
  const written = (one) => (grid ? [draftOf(one.id), null] : [at("note").value, at("why").value || null]);
  const saved = await sendEach(cases, choice, written);
  if (saved.length) showSaved(saved);
  if (saved.length && !grid) {
    if (saved[0].blind) awaitDecision(saved[0].id);
    else if (isBlind && saved[0].review.verdict !== "agree") showAnswer(saved[0].id);
    else afterReview(cases[0].id, here, following);
  }
}

// One after the other. Where someone else was first, that stands at the case, and the others are sent.
async function sendEach(cases, choice, written) {
  const sent = [];
  try {
    for (const [value, one] of cases.entries()) {
      state.saving = { value, max: cases.length };
      renderBatch();
      const saved = await save(one, choice, ...written(one)).catch(noteConflict(one));
      if (saved) sent.push(saved);
    }
  } catch (error) {
    complain(error);
  }
  state.saving = null;
  renderAll();
  lookForAudit();
  loadMore();
  countReviews().catch(complain);
  return sent;
}

const noteConflict = ({ id }) => async (error) => {
  if (error.status !== 409) throw error;
  state.conflicts.set(id, error.message);
  await askAgain(id);
};

// A case that is not accepted takes a class, so that its reader does not follow the model; a blind one also a name.
function canAnswer(cases, choice) {
  if (choice.verdict === "agree" && !cases.every(isAccepted)) say("Only an accepted answer is agreed with: choose a class.");
  else if (!cases.some((one) => one.blind) || at("reviewer").value.trim()) return true;
  else {
    at("ask-name").hidden = false;
    at("reviewer").focus();
  }
  return false;
}

// Once: a review without a name tells nobody whose judgement it was.
function askName() {
  if (at("reviewer").value || local("misgiving-reviewer-asked")) return;
  local("misgiving-reviewer-asked", "yes");
  at("ask-name").hidden = false;
}

async function save(one, choice, note, reason) {
  const remark = { ...verdictOn(one, choice), note, reviewer: at("reviewer").value.trim(), override_reason: reason,
    seen: state.seen.get(one.id) };
  const saved = await ask(`cases/${one.id}/review`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(remark),
  });
  const earlier = state.cases.get(one.id)?.reviews;
  if (earlier && saved.review) saved.reviews = [...earlier, saved.review];
  take(saved);
  see(saved);
  state.mine.add(one.id);
  state.conflicts.delete(one.id);
  state.marked.delete(one.id);
  if (draftOf(one.id) === note) draft(one.id, "");
  return saved;
}

// Move on to the next case, even if the filter hides the reviewed one; but a reviewer who has moved
// elsewhere in the meantime, or is writing, is not interrupted.
function afterReview(id, position, following) {
  renderAll();
  if (id !== state.selected) return;
  if (document.activeElement.matches("#note, #reviewer")) {
    renderReviews(selectedCase());
    return;
  }
  const next = state.cases.get(cameFrom) ?? (position < 0 ? null
    : state.cases.get(following) ?? state.shown.filter((other) => other.id !== id).at(-1));
  cameFrom = null;
  const open = document.body.dataset.view === "case"; // on a phone, scroll to the top of the next case
  focusList();
  if (next && next.id !== id) select(next.id, { open });
  else renderCase();
}

// The reviewer sees what the model said, and may answer again.
function showAnswer(id) {
  renderAll();
  if (id !== state.selected) return;
  renderCase();
  focusList();
  say(at("blind-answer").textContent);
}

// The reader stays: to open another case ends the time for corrections.
async function awaitDecision(id) {
  showAnswer(id);
  const answer = state.cases.get(id).answer.reviewed_at;
  do await waitFor(WINDOW);
  while (state.selected === id && state.cases.get(id)?.answer?.reviewed_at === answer && await askAgain(id));
}

// Unless another control has the focus.
function focusList() {
  const mine = document.activeElement.matches("body, #detail *, #undo");
  if (mine && !isNarrow()) at("list").focus({ preventScroll: true });
}

let hiding = 0;
function showSaved(saved) {
  const [{ name, answer, review: last = answer }] = saved;
  const text = saved.length > 1 ? `Saved: ${saved.length} reviews.` : `Saved: ${wordsOf(last)} for ${name}.`;
  done.push({ saved, until: Date.now() + WINDOW });
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

// Take back what was reviewed last, all of it; the history keeps it. Later, or after a blind answer,
// only return to it: a new review replaces the old one.
export async function undo() {
  if (state.saving) return say("The reviews are still being saved.");
  const last = done.pop();
  if (!last) return say("There is no review to undo.");
  const { saved, until } = last, alone = saved.length === 1;
  at("saved").hidden = true;
  if (alone) cameFrom ??= state.selected;
  for (const { id, review, answer } of saved) if (!draftOf(id)) draft(id, (review ?? answer).note);
  const isOpen = Date.now() < until && saved.every(({ blind, review }) => !blind && !review.blind);
  const back = isOpen ? await sendEach(saved, { verdict: "withdraw" }, () => ["", null]) : saved;
  saved.forEach(take); // those that have left the list
  const cases = back.map(({ id }) => state.cases.get(id));
  cases.forEach(see);
  state.marked = new Set(alone ? [] : cases.map(({ id }) => id));
  setLayout(alone ? "list" : "grid");
  if (!alone && !cases.every(isShown)) {
    state.reviewed = at("reviewed").value = "all";
    emit("filters");
  }
  renderAll();
  if (alone) {
    select(saved[0].id, { open: true });
    renderCase();
  }
  focusList();
  if (!back.length) return say("Somebody else has answered meanwhile: nothing is taken back.");
  const words = alone ? saved[0].name : `${back.length} of ${saved.length} cases`;
  return say(`Back to ${words}: ${isOpen ? "the review is taken back" : "a new review replaces the last one"}.`);
}
