"""Reasons of decisions, in terms of the number that decided."""

import math
from collections.abc import Mapping
from typing import Any

from scipy.special import expit

from misgiving.scores.outputs import CONFIDENCE

Policy = Any  # its module imports this one, through `decisions`
NOT_FINITE = "there is no finite score, so the image is deferred"
NO_THRESHOLD = "no threshold certifies the target error rate, so every image is deferred"
NONE_FOR_VALUE = "no threshold is certified for images of this {}, so the image is deferred"
AT_OOD_THRESHOLD = "the OOD score is exactly at its threshold, so the image is deferred"
ALL_LIMITED = "the limit for all answers"
TOO_UNCERTAIN = "too uncertain to be accepted at any threshold"
SURPASSED = "another class is more probable than the predicted one"
ALL_ACCEPTED = "the policy accepts every image that is in-distribution and likely to be right"


def reason_of(
    policy: Policy,
    decision: str,
    numbers: Mapping[str, float],
    threshold: float,
    errors: tuple[float, float],
) -> str:
    """The reason of a decision, in terms of the number that decided.

    Args:
        policy: Made the decision.
        decision: `accept`, `defer` or `ood`.
        numbers: Of the image, by their columns.
        threshold: Lowest accepted score.
        errors: Error probabilities of the image, also where it is not shown, and at the
            threshold.
    """
    if decision == "ood":
        p_value, cases = numbers["ood_p_value"], len(policy.certificate.ood_scores)
        below = round(p_value * (cases + 1)) - 1  # calibration cases that are no more familiar
        share = f" but {100 * below / cases:.2g} % of the" if below else ""
        less = (
            "less like the training images" if policy.compares_with_training else "lower OOD score"
        )
        return f"{less} than all{share} {_images(policy)} (p = {p_value:.2g})"
    score, ood_score = numbers["acceptance_score"], numbers["ood_score"]
    limit = policy.certificate.ood_threshold
    if not math.isfinite(score) or (limit is not None and not math.isfinite(ood_score)):
        return NOT_FINITE
    if (fixed := _by_fixed_rule(policy, numbers, threshold, errors[0])) is not None:
        return fixed
    if threshold == math.inf:
        column = policy.certificate.targets.column
        return NONE_FOR_VALUE.format(column.replace("_", " ")) if column else NO_THRESHOLD
    if ood_score == limit:
        return AT_OOD_THRESHOLD
    accepted = decision == "accept"
    return _compared(policy, (score, threshold), errors, accepted=accepted)


def _by_fixed_rule(
    policy: Policy, numbers: Mapping[str, float], threshold: float, error: float
) -> str | None:
    """The reason where no threshold of the score decided."""
    highest, cost = policy.rule.max_error_probability, numbers["expected_cost"]
    if error > highest:
        words = comparison("probability of error", error, "above", highest, ALL_LIMITED)
        return words if policy.certificate.shows_errors else TOO_UNCERTAIN
    review_cost = policy.certificate.targets.review_cost
    if review_cost is not None and (cost > review_cost or threshold == -math.inf):
        relation = "above" if cost > review_cost else "within"
        return comparison("expected cost", cost, relation, review_cost, "the cost of a review")
    return None


def _images(policy: Policy) -> str:
    return "calibration cases" if policy.certificate.pool is None else "images of the pool"


def _compared(
    policy: Policy, scores: tuple[float, float], errors: tuple[float, float], *, accepted: bool
) -> str:
    """The image's value and the limit, in terms of the error where that is shown."""
    reached = scores[0] >= scores[1]
    if reached and not accepted:
        return SURPASSED.replace("class", policy.certificate.targets.answer_level)
    if scores[1] == -math.inf:
        return ALL_ACCEPTED
    if not policy.certificate.shows_errors:
        return _among_cases(policy, *scores)
    if math.isclose(*scores) and not reached:
        return f"score {scores[0]:.4g} is just below the lowest that is accepted"
    if errors[0] == errors[1]:  # both rounded to the same
        relation = "at least" if reached else "below"
        return comparison("score", scores[0], relation, scores[1], "the lowest that is accepted")
    relation = "within" if reached else "above"
    role = "the highest that is accepted"
    return comparison("probability of error", errors[0], relation, errors[1], role)


def _among_cases(policy: Policy, score: float, threshold: float) -> str:
    """A score and the threshold as the shares of cases that are at least as certain."""
    certificate = policy.certificate
    above = score if score >= threshold else math.nextafter(score, math.inf)
    own, most = (f"{100 * certificate.share_reaching(x):.3g} %" for x in (above, threshold))
    place = "among the most certain" if score >= threshold else "less certain than"
    return f"{place} {own} of the {_images(policy)}; the most certain {most} can be accepted"


def reason_of_class(policy: Policy, score: float) -> str:
    """A clause on why an answer is a class, or only its superclass; empty without this choice."""
    finer = policy.certificate.finer
    if finer is None:
        return ""
    if score == -math.inf or finer.accept_threshold == math.inf:
        return "; its class cannot be answered"
    relation = "within" if score >= finer.accept_threshold else "above"
    error, highest = expit([-score, -finer.accept_threshold]).tolist()
    role = "the highest at which a class is answered"
    return "; " + comparison("of its class: probability of error", error, relation, highest, role)


def reason_of_answer(policy: Policy, name: str, probabilities: Mapping[str, float]) -> str:
    """A clause on why an answer is not the most probable one; empty where it is."""
    most = max(probabilities, key=lambda other: probabilities[other])
    costs = [f"{policy.rule.costs.get(other, 1.0):g}" for other in (name, most)]
    why = {
        "balanced": "for its probability relative to its share of the cases",
        "costs": f"because missing it costs {costs[0]}, and missing {most} {costs[1]}",
        "logits": "by the largest logit",
    }.get(policy.rule.rule)
    is_less = probabilities[most] > probabilities[name]  # not where they are NaN
    if not is_less or policy.kind == CONFIDENCE:  # of which other classes' are not known
        return ""
    if why is None:
        by = (
            "the second opinion prefers"
            if policy.calibration.needs_opinions
            else "more probable is"
        )
        return f"; {by} {most}"
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
