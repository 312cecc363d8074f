// Decisions of the saved policy or of the previewed target, and the orders of the worklist.

import { wordsOf } from "./choices.js";
import { percent } from "./dom.js";
import { OUTCOMES, state } from "./state.js";

const LABELS = { accept: "accept", defer: "defer", ood: "unfamiliar", blind: "blind" };
export const labelOf = (decision) => LABELS[decision];
export const isAccepted = ({ decision }) => decision === "accept";
export const badgeOf = (one) => (one.blind ? "blind" : outcome(one));

// The operating point with the highest coverage whose bound is within the target; null: none.
export function operatingPointFor(target) {
  const within = state.calibration.operating_points.filter((one) => one.bound <= target);
  return within.at(-1) ?? null;
}

export function outcome(one) {
  if (state.target == null || !sameModel(one)) return one.decision;
  if (one.decision === "ood") return "ood";
  const point = operatingPointFor(state.target);
  const reached = point && (point.threshold == null || one.acceptance_score >= point.threshold);
  return isUsable(one) && reached ? "accept" : "defer";
}

// As in the policy: null is not a finite number and must be deferred (JavaScript compares it as 0).
function isUsable(one) {
  if (one.acceptance_score == null) return false;
  const { ood_threshold: limit, max_error_probability: highest, rule } = state.calibration.policy;
  const shares = answerShares(one), predicted = shares[one.answer ?? one.predicted_class];
  const weighed = ["balanced", "costs"].includes(rule);
  const surpassed = !weighed && Object.values(shares).some((share) => share > predicted);
  if (doubt(one) > highest || surpassed) return false;
  return limit == null || (one.ood_score != null && one.ood_score > limit);
}

// Probabilities by answer: of superclasses where the policy answers these, or else of classes.
export function answerShares(one) {
  const groups = Object.entries(state.calibration?.policy?.superclasses ?? {});
  if (!groups.some(([name]) => name === one.answer)) return one.probabilities;
  const sum = (names) => names.reduce((total, name) => total + one.probabilities[name], 0);
  return Object.fromEntries(groups.map(([name, names]) => [name, sum(names)]));
}

// The last review, or the blind answer that its reader can still correct.
export const lastWordOf = (one) => (one.blind ? one.answer : one.review);

// The model's answer: a class, or a superclass with its most probable class.
export const answerOf = ({ answer, predicted_class: name }) =>
  answer == null || answer === name ? name : `${answer} (${name})`;

const sameModel = (one) => one.policy_fingerprint === state.model?.policy_fingerprint;

// The order of the service: by error probability, also where it is not shown.
function doubt(one) {
  const probability = answerShares(one)[one.answer ?? one.predicted_class];
  return one.error_probability ?? (probability == null ? 2 : 1 - probability);
}

const LAST = 2 ** 31 - 1; // place of a case that is in no list
const byDoubt = (a, b) => doubt(b) - doubt(a) || (a.id < b.id ? 1 : -1);
export const ORDERS = {
  error: byDoubt,
  decision: (a, b) => OUTCOMES.indexOf(outcome(a)) - OUTCOMES.indexOf(outcome(b)) || byDoubt(a, b),
  newest: (a, b) => (a.id < b.id ? 1 : -1),
  listed: (a, b) => (a.place ?? LAST) - (b.place ?? LAST) || (a.id < b.id ? 1 : -1),
};

// The order in which the service is asked for cases.
const orderOfService = () =>
  (["newest", "listed"].includes(state.order) ? state.order : "expected_error");

export function isShown(one) {
  const { decisions, reviewed, predicted, search } = state;
  return (!decisions.size || decisions.has(outcome(one)))
    && (reviewed === "all" || (reviewed === "mine" ? state.mine.has(one.id) : one.reviewed === (reviewed === "yes")))
    && (!predicted || one.predicted_class === predicted)
    && one.name.toLowerCase().includes(search.toLowerCase());
}

// The filters as the service takes them.
export function filterOf(decisions, { reviewed = state.reviewed } = {}) {
  const query = new URLSearchParams([...decisions].map((one) => ["decision", one]));
  if (reviewed === "mine") query.set("mine", true);
  else if (reviewed !== "all") query.set("reviewed", reviewed === "yes");
  if (state.predicted) query.set("class", state.predicted);
  if (state.search) query.set("name", state.search);
  query.set("order", orderOfService());
  return query;
}

// What the reviewer said, or else the model.
export const classOf = (one) =>
  (one.blind ? "Read blind" : one.reviewed ? wordsOf(one.review) : answerOf(one));

// The model's class, if the reviewer chose another one.
export const wasPredicted = (one) =>
  one.blind || [answerOf(one), one.predicted_class].includes(classOf(one)) ? "" : `was ${answerOf(one)}`;

// In words; the exact reason has the numbers. It is that of the saved policy, even if the previewed
// target decides differently.
export const reasonOf = (one) =>
  (outcome(one) === one.decision ? "" : "By the saved policy: ") + plainReason(one);

function plainReason(one) {
  const { blind, decision, reason, acceptance_score: score, error_probability: error } = one;
  const policy = state.calibration?.policy, most = policy?.max_error ?? policy?.max_silent_error;
  const reached = policy?.accepts && !policy.for_each && (policy.threshold == null || score >= policy.threshold);
  if (blind) return "Choose a class first: you see the model's answer after yours.";
  if (decision === "ood") return "Unlike the images that the model knows: do not rely on its answer.";
  if (score == null) return "The model gives no usable risk: you decide.";
  if (!sameModel(one)) return `An earlier policy ${decision === "accept" ? "accepted the answer" : "deferred it: you decide"}.`;
  if (decision === "accept" && error == null) return "Certain enough to accept the answer.";
  if (decision === "accept" && most == null) return "The policy accepts the answer; it has no target error rate.";
  if (decision === "accept" && error <= most) return "The risk is low enough to accept the answer.";
  if (decision === "accept") return "Riskier than the target, which holds for all accepted answers together.";
  if (reached) return `${reason[0].toUpperCase()}${reason.slice(1)}.`; // not for its risk
  return policy?.accepts ? "Not certain enough to accept the answer: you decide."
    : "The policy accepts no answer: you decide.";
}

// In the digits that part an accepted image from a deferred one beside it; of an unfamiliar image it
// means nothing. With too few tuning images for a risk, the share of cases that are less certain.
export function riskOf(one) {
  if (one.blind || one.acceptance_score == null || outcome(one) === "ood") return "";
  if (one.expected_cost != null) return `cost ${one.expected_cost.toPrecision(3)}`;
  if (one.error_probability != null) return `${percent(one.error_probability)} risk`;
  const reached = sameModel(one) && state.calibration?.operating_points.find(
    ({ threshold }) => threshold != null && one.acceptance_score >= threshold);
  return reached ? `surer than ${percent(1 - reached.coverage, 0)}` : "";
}
