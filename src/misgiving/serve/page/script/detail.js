// The selected case, and its review.

import { outcome } from "./deciding.js";
import { isForgotten } from "./pictures.js";
import { remember } from "./remembering.js";
import { draftOf, isSending, review } from "./reviewing.js";
import { hideHeat } from "./saliency.js";
import {
  ask, at, atMost, element, isNarrow, percent, say, selectedCase, state, take,
} from "./shared.js";
import { ROW, classOf, reasonOf, refresh, renderRows, wasNamed } from "./worklist.js";

const RESTS = 100; // milliseconds, after which a case is more than passed by
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

export function scrollTo(position) {
  const list = at("list"), top = position * ROW;
  if (position < 0) return;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW > list.scrollTop + list.clientHeight) {
    list.scrollTop = top + ROW - list.clientHeight;
  }
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
  at("note").value = draftOf(one.id);
  at("agree").replaceChildren(`Agree: ${one.predicted_class} `, element("kbd", "", "a"));
  at("detail").scrollTop = 0;
  renderOutcome(one);
  renderPicture(one);
  renderShares(one);
  renderFacts(one);
  renderReviews(one);
  clearTimeout(asking);
  asking = setTimeout(() => askAgain(one.id), RESTS);
}

export function renderOutcome(one) {
  const now = outcome(one), badge = at("case-decision");
  badge.className = `badge ${now}`;
  badge.textContent = now === one.decision ? now : `${now} at this setting (was ${one.decision})`;
  at("case-reason").textContent = reasonOf(one);
  const most = state.calibration?.policy?.max_error;
  at("promise-note").hidden = !(now === one.decision && now === "accept" && one.error_probability > most);
  at("promise-note").textContent = "What is promised, at most "
    + `${atMost(most ?? 1)} wrong, is said of all accepted answers together, not of this one.`;
}

export function renderPicture(one) {
  const image = at("case-image"), gone = isForgotten(one);
  image.hidden = gone;
  at("no-image").hidden = !gone;
  at("saliency").disabled = gone;
  image.alt = gone ? "" : `Image of the case, called ${one.predicted_class}`;
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
  at("shares-note").textContent = `${one.predicted_class} is what the model names: its largest output. `
    + `Calibrated for the mix of classes of the calibration cases, ${likeliest} is more probable.`;
}

function renderFacts(one) {
  const facts = {
    "probability of error": percent(one.error_probability),
    "expected loss": one.expected_loss == null ? null : `${one.expected_loss.toFixed(2)} nats`,
    "familiarity (p-value)": one.ood_p_value?.toPrecision(2),
    "score": one.score?.toPrecision(3),
    "received": new Date(one.received).toLocaleString(),
  };
  const known = Object.entries(facts).filter(([, value]) => value != null);
  at("case-facts").replaceChildren(...known.map(([name, value]) => {
    const line = element("div");
    line.append(element("dt", "", name), element("dd", "", value));
    return line;
  }));
}

// All reviews of a case, which others may have made since it was loaded.
export async function askAgain(id) {
  const found = await ask(`cases/${id}`).catch(() => null);
  if (!found) return;
  const isNewer = found.review && found.review.reviewed_at > (state.cases.get(id)?.review?.reviewed_at ?? "");
  take(found);
  if (state.selected === id) renderReviews(selectedCase());
  if (state.selected === id && isNewer && !isSending()) tellOf(found);
  refresh();
}

export function tellOf({ review: { reviewer, final_class: name } }) {
  say(`${reviewer || "Another person"} has reviewed this case: ${name}.`);
}

// All of them where they are known, else the last one.
export function renderReviews(one) {
  const reviews = one.reviews ?? (one.review ? [one.review] : []);
  at("case-class").textContent = classOf(one);
  at("case-was").textContent = wasNamed(one);
  at("history").replaceChildren(...reviews.toReversed().map((one) => {
    const who = one.reviewer ? `${one.reviewer}, ` : "";
    const verdict = one.verdict === "agree" ? "agreed" : "overrode";
    const note = one.note ? `\n${one.note}` : "";
    const when = new Date(one.reviewed_at).toLocaleString();
    return element("li", "", `${who}${when}: ${verdict}, ${one.final_class}${note}`);
  }));
}

// Classes that are digits have their own keys; of others the first nine are numbered.
function keyOf(name, index, one) {
  const digits = Object.keys(one.probabilities).every((each) => /^[0-9]$/.test(each));
  return digits ? name : index < 9 ? String(index + 1) : null;
}

export function pick(key) {
  const one = selectedCase();
  const index = Object.keys(one.probabilities).findIndex((name, place) => keyOf(name, place, one) === key);
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
    button.addEventListener("click", () => review({ verdict: "override", class: name }));
    return button;
  }));
  at("classes").firstElementChild.focus();
}
