"""Reasons of decisions, in words."""

import math
from dataclasses import dataclass

from scipy.special import expit

from misgiving.deferral.certificate import Certificate
from misgiving.deferral.rules import DecisionRule

NO_POLICY = "no policy is calibrated for this model, so every image is deferred"
NOT_FINITE = "there is no finite score, so the image is deferred"
NO_THRESHOLD = "no threshold certifies the target error rate, so every image is deferred"
AT_OOD_THRESHOLD = "the OOD score is exactly at its threshold, so the image is deferred"
ALL_LIMITED = "the limit for all answers"
SURPASSED = "another class is more probable than the predicted one"
ALL_ACCEPTED = "the policy accepts every image that is in-distribution and likely to be right"


@dataclass(frozen=True, kw_only=True)
class Reasons:
    """Explains the decisions of a policy, each in terms of the number that decided.

    Attributes:
        certificate: Of the policy.
        rule: By which it predicts classes.
        threshold: Lowest accepted score.
        accepts_by_probability: True if the acceptance score is a function of the error probability.
        compares_with_training: True if the OOD score compares an image with those of the training.
    """

    certificate: Certificate
    rule: DecisionRule
    threshold: float
    accepts_by_probability: bool
    compares_with_training: bool

    def of_decision(self, decision: str, numbers: dict[str, float]) -> str:
        """The reason of a decision with these numbers, by their columns."""
        if decision == "ood":
            p_value, cases = numbers["ood_p_value"], len(self.certificate.ood_scores)
            below = round(p_value * (cases + 1)) - 1  # calibration cases that are no more familiar
            share = f" but {100 * below / cases:.2g} % of the" if below else ""
            less = (
                "less like the training images"
                if self.compares_with_training
                else "lower OOD score"
            )
            return f"{less} than all{share} calibration cases (p = {p_value:.2g})"
        score, ood_score = numbers["acceptance_score"], numbers["ood_score"]
        limit, error = self.certificate.ood_threshold, numbers["error_probability"]
        highest = self.rule.max_error_probability
        if not math.isfinite(score) or (limit is not None and not math.isfinite(ood_score)):
            return NOT_FINITE
        if error > highest:
            return comparison("probability of error", error, "above", highest, ALL_LIMITED)
        if self.threshold == math.inf:
            return NO_THRESHOLD
        if ood_score == limit:
            return AT_OOD_THRESHOLD
        return self._of_threshold(score, error, accepted=decision == "accept")

    def _of_threshold(self, score: float, error: float, *, accepted: bool) -> str:
        """In terms of the error, unless that would contradict the score, which decides."""
        threshold, reached = self.threshold, score >= self.threshold
        limit = float(expit(-threshold)) if self.accepts_by_probability else None
        if reached and not accepted:
            return SURPASSED
        if threshold == -math.inf:
            return ALL_ACCEPTED
        if limit is None or not (error <= limit if reached else error > limit):
            relation = "at least" if reached else "below"
            return comparison("score", score, relation, threshold, "the lowest that is accepted")
        relation = "within" if reached else "above"
        return comparison(
            "probability of error", error, relation, limit, "the highest that is accepted"
        )

    def of_prediction(self, name: str, probabilities: dict[str, float]) -> str:
        """A clause on why the predicted class is not the most probable one; empty where it is."""
        most = max(probabilities, key=lambda other: probabilities[other])
        costs = [f"{self.rule.costs.get(other, 1.0):g}" for other in (name, most)]
        why = {
            "balanced": "for its probability relative to its share of the cases",
            "costs": f"because missing it costs {costs[0]}, and missing {most} {costs[1]}",
            "logits": "by the largest logit",
        }.get(self.rule.rule)
        if not probabilities[most] > probabilities[name]:  # also where they are NaN
            return ""
        if why is None:
            return f"; the second opinion prefers {most}"
        return f"; {name} is predicted {why}, though {most} is more probable"


def comparison(subject: str, value: float, relation: str, limit: float, role: str) -> str:
    """Reason that compares a number with its limit, in as many digits as show that they differ.

    >>> comparison("score", 0.4, "below", 0.75, "the lowest that is accepted")
    'score 0.40 is below 0.75, the lowest that is accepted'
    >>> comparison("score", 0.12301, "below", 0.12304, "the lowest that is accepted")
    'score 0.12301 is below 0.12304, the lowest that is accepted'
    >>> comparison("probability of error", 0.0012, "within", 0.05, "the limit for all")
    'probability of error 0.001 is within 0.050, the limit for all'
    """
    texts = repr(value), repr(limit)
    for digits in range(16, 1, -1):
        rounded = f"{value:.{digits}f}", f"{limit:.{digits}f}"
        differ = rounded[0] != rounded[1] or value == limit
        if differ and (float(rounded[0]) or not value):  # only 0 is 0.00
            texts = rounded
    return f"{subject} {texts[0]} is {relation} {texts[1]}, {role}"
