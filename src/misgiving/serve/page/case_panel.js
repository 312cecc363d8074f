// The selected case: image, numbers, reviews, and the classes to choose from.

import { ask } from "./api.js";
import { at, atMost, element, isNarrow, percent, say } from "./dom.js";
import { classOf, labelOf, outcome, reasonOf, wasPredicted } from "./outcomes.js";
import { hideHeat } from "./saliency.js";
import { emit, on, selectedCase, state, take } from "./state.js";
import { draftOf, remember } from "./storage.js";
import { isForgotten } from "./thumbnails.js";
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
  hideHeat();
  showClasses(false);
  if (!one) return;
  at("case-name").textContent = one.name;
  at("case-remark").textContent = one.remark ? `Number ${one.place} of the list: ${one.remark}` : "";
  at("case-remark").hidden = !one.remark;
  at("note").value = draftOf(one.id);
  at("agree").replaceChildren(`Agree: ${one.predicted_class} `, element("kbd", "", "a"));
  at("detail").scrollTop = 0;
  renderOutcome(one);
  renderPicture(one);
  renderShares(one);
  renderFacts(one);
  renderReviews(one);
  clearTimeout(asking);
  asking = setTimeout(() => askAgain(one.id), DELAY);
}

function renderOutcome(one) {
  const now = outcome(one), badge = at("case-decision");
  badge.className = `badge ${now}`;
  badge.textContent = now === one.decision
    ? labelOf(now) : `${labelOf(now)} in this preview (was ${labelOf(one.decision)})`;
  at("case-reason").textContent = reasonOf(one);
  const most = state.calibration?.policy?.max_error;
  at("target-note").hidden = !(now === one.decision && now === "accept" && one.error_probability > most);
  at("target-note").textContent = `The target error rate, at most ${atMost(most ?? 1)}, applies to all `
    + "accepted images together, not to each one.";
}

on("target", () => {
  const one = selectedCase();
  if (one) requestAnimationFrame(() => renderOutcome(one));
});

export function renderPicture(one) {
  const image = at("case-image"), gone = isForgotten(one);
  image.hidden = gone;
  at("no-image").hidden = !gone;
  at("saliency").disabled = gone;
  image.alt = gone ? "" : `Image of this case, predicted class ${one.predicted_class}`;
  if (gone) image.removeAttribute("src");
  else image.src = `cases/${one.id}/thumbnail`;
}

function renderShares(one) {
  const shares = Object.entries(one.probabilities).sort((a, b) => (b[1] ?? 0) - (a[1] ?? 0));
  at("shares").replaceChildren(...shares.map(([name, share]) => {
    const line = element("li", name === one.predicted_class ? "chosen" : "");
    const track = element("span", "track"), fill = element("span", "fill");
    track.setAttribute("aria-hidden", "true");
    fill.style.width = `${100 * (share ?? 0)}%`;
    track.append(fill);
    line.append(element("span", "label", name), element("span", "value", percent(share)), track);
    return line;
  }));
  const [likeliest, most] = shares[0];
  at("shares-note").hidden = !(most > one.probabilities[one.predicted_class]);
  at("shares-note").textContent = `${one.predicted_class} is named, although ${likeliest} is more `
    + "probable: the reason above says why.";
}

function renderFacts(one) {
  const facts = {
    "error probability": percent(one.error_probability),
    "expected loss": one.expected_loss == null ? null : `${one.expected_loss.toFixed(2)} nats`,
    "familiarity (p-value)": one.ood_p_value?.toPrecision(2),
    "acceptance score": one.acceptance_score?.toPrecision(3),
    "received": new Date(one.received).toLocaleString(),
  };
  const known = Object.entries(facts).filter(([, value]) => value != null);
  at("case-facts").replaceChildren(...known.map(([name, value]) => {
    const line = element("div");
    line.append(element("dt", "", name), element("dd", "", value));
    return line;
  }));
}

// Others may have reviewed the case since it was loaded.
export async function askAgain(id) {
  const found = await ask(`cases/${id}`).catch(() => null);
  if (!found) return;
  const isNewer = found.review && found.review.reviewed_at > (state.cases.get(id)?.review?.reviewed_at ?? "");
  take(found);
  if (state.selected === id) renderReviews(selectedCase());
  if (state.selected === id && isNewer && !state.saving) announceReview(found);
  emit("change");
}

on("outside-review", (one) => {
  if (state.saving) return;
  announceReview(one);
  askAgain(one.id);
});

function announceReview({ review: { reviewer, final_class: name } }) {
  say(`${reviewer || "Someone else"} has reviewed this case: ${name}.`);
}

// All reviews if they are loaded, else the last one.
export function renderReviews(one) {
  const reviews = one.reviews ?? (one.review ? [one.review] : []);
  at("case-class").textContent = classOf(one);
  at("case-was").textContent = wasPredicted(one);
  at("history").replaceChildren(...reviews.toReversed().map((one) => {
    const who = one.reviewer ? `${one.reviewer}, ` : "";
    const verdict = one.verdict === "agree" ? "agreed" : "overrode";
    const note = one.note ? `\n${one.note}` : "";
    const when = new Date(one.reviewed_at).toLocaleString();
    return element("li", "", `${who}${when}: ${verdict}, ${one.final_class}${note}`);
  }));
}

// Classes that are digits are their own keys; otherwise the first nine are numbered.
function keyOf(name, index, one) {
  const digits = Object.keys(one.probabilities).every((each) => /^[0-9]$/.test(each));
  return digits ? name : index < 9 ? String(index + 1) : null;
}

export function pick(key) {
  const one = selectedCase();
  const index = Object.keys(one.probabilities).findIndex((name, position) => keyOf(name, position, one) === key);
  at("classes").children[index]?.click();
}

export const picking = () => !at("classes").hidden;

export function showClasses(open) {
  const one = selectedCase();
  at("classes").hidden = !open || !one;
  at("override").setAttribute("aria-expanded", !at("classes").hidden);
  if (at("classes").hidden) return;
  at("classes").replaceChildren(...Object.keys(one.probabilities).map((name, index) => {
    const button = element("button", "quiet");
    button.type = "button";
    const key = keyOf(name, index, one);
    if (key) button.append(element("kbd", "", key), " ");
    button.append(name);
    button.addEventListener("click", () => emit("verdict", { verdict: "override", class: name }));
    return button;
  }));
  at("classes").firstElementChild.focus();
}
