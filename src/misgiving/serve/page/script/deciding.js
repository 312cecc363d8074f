// What the saved policy, or a setting that is being tried, decides; and in which order.

import { OUTCOMES, state } from "./shared.js";

// The loosest setting whose bound is within the target; null: none is.
export function settingFor(target) {
  const within = state.calibration.operating_points.filter((one) => one.bound <= target);
  return within.at(-1) ?? null;
}

export function outcome(one) {
  if (state.target == null || !sameModel(one)) return one.decision;
  if (one.decision === "ood") return "ood";
  const setting = settingFor(state.target);
  const reached = setting && (setting.threshold == null || one.score >= setting.threshold);
  return isUsable(one) && reached ? "accept" : "defer";
}

// As the policy: null is no finite number, which must be deferred (and would be compared as 0).
function isUsable(one) {
  if (one.score == null || one.error_probability == null) return false;
  const limit = state.calibration.policy.ood_threshold;
  return limit == null || (one.ood_score != null && one.ood_score > limit);
}

const sameModel = (one) => one.policy_fingerprint === state.model?.policy_fingerprint;

// As the service orders: the probability of error, or what comes closest to it.
function doubt(one) {
  if (one.error_probability != null) return one.error_probability;
  return one.probability == null ? 2 : 1 - one.probability;
}

const byDoubt = (a, b) => doubt(b) - doubt(a) || (a.id < b.id ? 1 : -1);
export const ORDERS = {
  error: byDoubt,
  decision: (a, b) => OUTCOMES.indexOf(outcome(a)) - OUTCOMES.indexOf(outcome(b)) || byDoubt(a, b),
  newest: (a, b) => (a.id < b.id ? 1 : -1),
};

export function isShown(one) {
  const { decisions, reviewed } = state;
  return (!decisions.size || decisions.has(outcome(one)))
    && (reviewed === "all" || one.reviewed === (reviewed === "yes"));
}
