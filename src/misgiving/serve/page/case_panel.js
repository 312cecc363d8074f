// The selected case: image, risk, the choices of a review, and earlier reviews.

import { ask } from "./api.js";
import { classButtons, classesOf, longOf, otherButtons, wordsOf } from "./choices.js";
import { renderContext, showGroup } from "./context.js";
import { at, element, isNarrow, percent, say, terms } from "./dom.js";
import { answerOf, answerShares, badgeOf, classOf, isAccepted, labelOf, lastWordOf, outcome, reasonOf, riskOf, wasPredicted } from "./outcomes.js";
import { renderPicture, resetPicture } from "./picture.js";
import { emit, on, see, selectedCase, state, take } from "./state.js";
import { draftOf, remember } from "./storage.js";
import { renderRows, scrollTo } from "./worklist.js";

const DELAY = 100; // milliseconds, so that cases that are only passed are not requested
let asking = 0;

export function select(id, { reveal = true, open = false } = {}) {
  const changed = id !== state.selected;
  state.selected = id;
  if (reveal) scrollTo(state.shown.findIndex((one) => one.id === id));
  renderRows();
  if (changed) renderCase();
  if (open) {
    document.body.dataset.view = "case";
    if (isNarrow()) {
      scroll(0, 0);
      at("detail").focus({ preventScroll: true });
    }
  }
  remember();
}

export function move(step) {
  if (!state.shown.length) return;
  const here = state.shown.findIndex((one) => one.id === state.selected);
  const next = Math.min(state.shown.length - 1, Math.max(0, here + step));
  select(state.shown[next].id);
}

export function renderCase() {
  const one = selectedCase();
  at("placeholder").hidden = Boolean(one);
  at("case").hidden = !one;
  resetPicture();
  if (!one) return;
  see(one);
  at("case-name").textContent = one.name;
  at("case-remark").textContent = one.remark ? `Number ${one.place} of the list: ${one.remark}` : "";
  at("case-remark").hidden = !one.remark;
  at("note").value = draftOf(one.id);
  const reason = at("why"); // of this case, and not before a blind answer
  reason.value = "";
  at("agree").hidden = !isAccepted(one);
  for (const part of [at("case-scores"), reason, ...reason.labels]) part.hidden = Boolean(one.blind);
  at("agree").replaceChildren(`Agree: ${answerOf(one)} `, element("kbd", "", "a"));
  at("case").scrollTop = 0;
  renderOutcome(one);
  renderPicture(one);
  renderFacts(one);
  renderContext(one);
  renderReviews(one);
  clearTimeout(asking);
  asking = setTimeout(() => askAgain(one.id), DELAY);
}

function renderOutcome(one) {
  const now = outcome(one), badge = at("case-decision");
  badge.className = `badge ${badgeOf(one)}`;
  badge.textContent = now === one.decision
    ? labelOf(badgeOf(one)) : `${labelOf(now)} in this preview (was ${labelOf(one.decision)})`;
  at("case-risk").textContent = riskOf(one);
  at("case-risk").title = one.blind ? "" : one.error_probability == null
    ? "Share of the calibration cases of which the model is less certain"
    : `Estimated probability that ${one.answer ?? one.predicted_class} is wrong`;
  at("case-reason").textContent = reasonOf(one);
}

on("target", () => {
  const one = selectedCase();
  if (one) requestAnimationFrame(() => renderOutcome(one));
});

function renderFacts(one) {
  if (one.blind) return;
  const shares = answerShares(one), name = one.answer ?? one.predicted_class;
  const [likeliest, most] = Object.entries(shares).reduce((a, b) => (b[1] > a[1] ? b : a));
  at("shares-note").hidden = !(most > shares[name]);
  at("shares-note").textContent = `${name} is predicted, although ${likeliest} is more `
    + "probable: the exact reason below says why.";
  at("case-exact").textContent = one.reason;
  const facts = {
    "error probability": one.error_probability == null ? null : percent(one.error_probability),
    "expected cost": one.expected_cost?.toPrecision(3),
    "expected loss": one.expected_loss == null ? null : `${one.expected_loss.toFixed(2)} nats`,
    "familiarity (p-value)": one.ood_p_value?.toPrecision(2),
    "acceptance score": one.acceptance_score?.toPrecision(3),
    "received": new Date(one.received).toLocaleString(),
  };
  at("case-facts").replaceChildren(...terms(Object.entries(facts).filter(([, value]) => value != null)));
}

// Others may have reviewed the case since it was loaded.
export async function askAgain(id, { opens = true } = {}) {
  const found = await ask(`cases/${id}`).catch(() => null);
  if (!found) return false;
  while (found.cursor) { // of a long history
    const { reviews, cursor } = await ask(`cases/${id}?cursor=${found.cursor}`).catch(() => ({ reviews: [] }));
    Object.assign(found, { reviews: [...reviews, ...found.reviews], cursor });
  }
  const appears = state.cases.get(id)?.blind && !found.blind;
  const isNewer = found.review && found.review.reviewed_at > (state.cases.get(id)?.review?.reviewed_at ?? "");
  take(found);
  if (opens) showGroup(state.cases.get(id));
  if (opens) see(state.cases.get(id));
  if (state.selected === id) renderReviews(selectedCase());
  if (state.selected === id && appears) {
    renderCase();
    say(at("blind-answer").textContent);
  } else if (state.selected === id && isNewer && !state.saving) announceReview(found);
  emit("change");
  return true;
}

on("outside-review", (one) => {
  if (state.saving) return;
  announceReview(one);
  askAgain(one.id, { opens: false });
});

function announceReview({ review }) {
  say(`${review.reviewer || "Someone else"} has reviewed this case: ${wordsOf(review)}.`);
}

// All reviews if they are loaded, else the last one; the last one is marked among the choices.
export function renderReviews(one) {
  const reviews = one.reviews ?? (one.review ? [one.review] : []);
  const act = (choice) => emit("choice", choice), names = classesOf(one);
  at("case-class").textContent = classOf(one);
  at("case-long").textContent = longOf(classOf(one));
  at("case-was").textContent = wasPredicted(one);
  const focused = document.activeElement?.closest(".choices button")?.title;
  at("classes").replaceChildren(...classButtons(names, act,
    { shares: one.blind || one.error_probability == null ? {} : one.probabilities, model: one.predicted_class, final: lastWordOf(one)?.final_class ?? null }));
  at("others").replaceChildren(...otherButtons(act, lastWordOf(one)?.verdict ?? null));
  if (focused) [...at("review").querySelectorAll(".choices button")].find((each) => each.title === focused)?.focus();
  renderBlindAnswer(one, reviews);
  at("conflict").hidden = !state.conflicts.has(one.id);
  at("conflict").textContent = state.conflicts.get(one.id) ?? "";
  at("history").replaceChildren(...reviews.toReversed().map((one) => {
    const reason = one.override_reason ? ` (${one.override_reason})` : "", blind = one.blind ? "blind, " : "";
    const who = one.reviewer ? `${one.reviewer}, ` : "";
    const verdict = { agree: "agreed, ", override: "overrode, ", withdraw: one.final_class ? "took back, " : "" }[one.verdict] ?? "";
    const note = one.note ? `\n${one.note}` : "";
    const when = new Date(one.reviewed_at).toLocaleString();
    return element("li", "", `${who}${when}: ${blind}${verdict}${wordsOf(one)}${reason}${note}`);
  }));
}

const CERTAIN = 0.1; // error probability below which a reader of another class is asked to look again

// After a blind answer: what the model said, and what follows from it.
function renderBlindAnswer(one, reviews) {
  const own = reviews.filter(({ reviewer }) => reviewer === at("reviewer").value.trim());
  const first = own.findLast(({ blind }) => blind), differs = first && first.verdict !== "agree";
  const certain = one.error_probability != null && one.error_probability < CERTAIN;
  const again = state.model?.look_again && differs && certain && own.at(-1) === first;
  if (one.blind && one.answer) {
    at("blind-answer").hidden = false;
    at("blind-answer").textContent = `Your answer is ${wordsOf(one.answer)}. You can correct it for 30 seconds, or until `
      + "you open another case; then it counts, and the model's answer appears.";
    return;
  }
  const texts = [
    `Your blind answer is ${first && wordsOf(first)}; the model's is ${answerOf(one)}.`,
    differs && one.decision === "accept" ? "The model's was accepted: tell whoever may have acted on it." : "",
    again ? "Please look again: the model is certain of its answer. You may choose another class now." : "",
  ];
  at("blind-answer").hidden = !differs;
  at("blind-answer").textContent = texts.join(" ").trimEnd();
}
