"""The decision for one image, and the reason that is given for it."""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

from misgiving.deferral.policy import DeferralPolicy
from misgiving.scores.features import FEATURE_SCORES

NO_POLICY = "no policy is calibrated for this model, so every image is deferred"
NOT_FINITE = "the model gave no finite score, so the image is deferred"
NO_THRESHOLD = "no threshold certifies the target error rate, so every image is deferred"
AT_OOD_THRESHOLD = "the OOD score is exactly at its threshold, so the image is deferred"
SURPASSED = "another class is more probable than the one named"
ALL_ACCEPTED = "the policy accepts every image that is in-distribution and likely to be right"


Outcome = Literal["accept", "defer", "ood"]


class Decision(NamedTuple):
    """The decision for one image; a number is None where it is not available or not finite.

    Attributes:
        decision: "accept", "defer" or "ood"; always "defer" without a policy.
        predicted_class: The class that is named, by the rule of the policy; without a policy, the
            one with the largest logit.
        probabilities: By class, in the order of the logits; calibrated where there is a policy, and
            NaN where outputs are not finite. That of the named class is 1 - `error_probability`.
        error_probability: Probability that the named class is wrong.
        ood_p_value: Share of in-distribution images that look as unusual as this one, or more so.
        reason: Why, in words.
        expected_loss: Expected cross-entropy in nats.
        predicted_loss: Output of the loss estimator, not negated as the score of this name is:
            higher means more likely wrong. No unit.
        acceptance_score: Higher means more likely correct.
        ood_score: Lower means more likely out-of-distribution.
    """

    decision: Outcome
    predicted_class: str
    probabilities: dict[str, float]
    error_probability: float | None
    ood_p_value: float | None
    reason: str
    expected_loss: float | None
    predicted_loss: float | None
    acceptance_score: float | None
    ood_score: float | None

    @property
    def probability(self) -> float:
        """Probability of the named class."""
        return self.probabilities[self.predicted_class]


def reason_for(
    policy: DeferralPolicy,
    decision: str,
    numbers: Mapping[str, float],
    named: str,
    probabilities: Mapping[str, float],
    *,
    scaled: str,
) -> str:
    """Explain a decision by the number that decided it, and a name by what gave it.

    Args:
        policy: The policy that decided.
        decision: Its decision for the image.
        numbers: `acceptance_score`, `ood_score`, `ood_p_value` and `error_probability`; NaN for one
            that is missing.
        named: The class that is named.
        probabilities: Of the classes, as they are shown.
        scaled: The most probable class before the error estimator changed the probabilities; the
            rules `balanced` and `costs` have changed the name only where they name another.
    """
    reason = _decision_reason(policy, decision, numbers)
    most = max(probabilities, key=lambda name: probabilities[name])
    if not probabilities[most] > probabilities[named]:  # also where they are NaN
        return reason
    costs = [f"{policy.costs.get(name, 1.0):g}" for name in (named, scaled)]
    why = {
        "most_probable": "by the calibrated classifier alone",
        "balanced": "for its probability relative to its share of the cases",
        "costs": f"because missing it costs {costs[0]}, and missing {scaled} {costs[1]}",
        "logits": "by the largest logit",
    }[policy.rule if policy.rule == "logits" or named != scaled else "most_probable"]
    return f"{reason}; {named} is named {why}, though {most} is more probable"


def _decision_reason(policy: DeferralPolicy, decision: str, numbers: Mapping[str, float]) -> str:
    if decision == "ood":
        cases = len(policy.certificate.ood_scores or ())
        known = policy.ood_detector in FEATURE_SCORES
        return ood_reason(numbers["ood_p_value"], cases, training_images=known)
    score, ood_score = numbers["acceptance_score"], numbers["ood_score"]
    limit, threshold = policy.ood_threshold, policy.accept_threshold
    error, highest = numbers["error_probability"], policy.max_error_probability
    if not math.isfinite(score) or (limit is not None and not math.isfinite(ood_score)):
        return NOT_FINITE
    if error > highest:
        return error_reason(error, highest, accepted=False)
    if threshold is None:
        return NO_THRESHOLD
    reasons = {
        AT_OOD_THRESHOLD: ood_score == limit,
        SURPASSED: decision == "defer" and score >= threshold,
        ALL_ACCEPTED: threshold == -math.inf,
        _threshold_reason(policy, threshold, score, error): True,
    }
    return next(reason for reason, applies in reasons.items() if applies)


def _threshold_reason(policy: DeferralPolicy, threshold: float, score: float, error: float) -> str:
    """In terms of the error, unless that would contradict the score, which decides."""
    accepted, limit = score >= threshold, policy.error_limit
    if limit is None or not (error <= limit if accepted else error > limit):
        return score_reason(score, threshold, accepted=accepted)
    return error_reason(error, limit, accepted=accepted)


def ood_reason(p_value: float, cases: int, *, training_images: bool) -> str:
    """Reason of an OOD image.

    Args:
        p_value: Among the calibration cases.
        cases: Number of these.
        training_images: True if the OOD score compares an image with those of the training.

    >>> ood_reason(9 / 1001, 1000, training_images=True)
    'less like the training images than all but 0.8 % of the calibration cases (p = 0.009)'
    """
    below = round(p_value * (cases + 1)) - 1  # calibration cases that are no more familiar
    share = f" but {100 * below / cases:.2g} % of the" if below else ""
    less = "less like the training images than" if training_images else "lower OOD score than"
    return f"{less} all{share} calibration cases (p = {p_value:.2g})"


def error_reason(error: float, limit: float, *, accepted: bool) -> str:
    """Reason in terms of the error probability.

    >>> error_reason(0.31, 0.12, accepted=False)
    'probability of error 0.31 is above 0.12, the highest that is accepted'
    """
    value, highest = distinct_digits(error, limit)
    relation = "within" if accepted else "above"
    return f"probability of error {value} is {relation} {highest}, the highest that is accepted"


def score_reason(score: float, threshold: float, *, accepted: bool) -> str:
    """Reason in terms of the acceptance score.

    >>> score_reason(0.4, 0.75, accepted=False)
    'score 0.40 is below 0.75, the lowest that is accepted'
    """
    value, lowest = distinct_digits(score, threshold)
    relation = "at least" if accepted else "below"
    return f"score {value} is {relation} {lowest}, the lowest that is accepted"


def distinct_digits(value: float, limit: float) -> tuple[str, str]:
    """Both numbers with as many digits as show that they differ, and no fewer than two.

    >>> distinct_digits(0.31, 0.12), distinct_digits(0.12304, 0.12301)
    (('0.31', '0.12'), ('0.12304', '0.12301'))
    """
    for digits in range(2, 17):
        texts = f"{value:.{digits}f}", f"{limit:.{digits}f}"
        if texts[0] != texts[1] or value == limit:
            return texts
    return repr(value), repr(limit)
