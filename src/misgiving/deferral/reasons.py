"""Reasons of decisions, in terms of the number that decided."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
from scipy.special import expit

from misgiving.scores.outputs import CONFIDENCE

Policy = Any  # its module imports this one, through `decisions`
Image = Mapping[str, Any]
"""Columns of `Decisions` for one case, its threshold, and the error probabilities at both."""

NO_POLICY = "no policy is calibrated for this model, so every case is deferred"
NOT_FINITE = "there is no finite score, so the case is deferred"
NO_THRESHOLD = "no threshold certifies the target error rate, so every case is deferred"
NONE_FOR_VALUE = "no threshold is certified for cases of this {}, so the case is deferred"
AT_OOD_THRESHOLD = "the OOD score is exactly at its threshold, so the case is deferred"
ALL_LIMITED = "the limit for all answers"
TOO_UNCERTAIN = "too uncertain to be accepted at any threshold"
SURPASSED = "another class is more probable than the predicted one"
ALL_ACCEPTED = "the policy accepts every case that is in-distribution and likely to be right"


def reasons_of(decisions: Any) -> Iterator[str]:
    """The reason of each of the `Decisions`, in terms of the number that decided."""
    policy = decisions.policy
    if policy is None:
        yield from repeat(NO_POLICY, len(decisions))
        return
    thresholds = np.append(decisions.thresholds, math.inf)[decisions.part]
    arrays = decisions.arrays | {
        "answered": decisions.answered,
        "answer_probabilities": decisions.answer_probabilities,
        "threshold": thresholds,
        "error": policy.calibration.error_at(decisions.acceptance_score),
        "error_at_threshold": policy.calibration.error_at(thresholds),
    }
    columns = [values.tolist() for values in arrays.values()]
    for values in zip(*columns, strict=True):
        image = dict(zip(arrays, values, strict=True))
        reason = _of_number(policy, image)
        if image["decisions"] == "accept":
            reason += _of_class(policy, image["class_score"])
        if image["as_class"]:
            choice = decisions.classes, image["probabilities"], image["predicted"]
        else:
            choice = decisions.answers, image["answer_probabilities"], image["answered"]
        yield reason + _of_answer(policy, *choice)


def _of_number(policy: Policy, image: Image) -> str:
    if image["decisions"] == "ood":
        p_value, cases = image["ood_p_value"], len(policy.certificate.ood_scores)
        below = round(p_value * (cases + 1)) - 1  # calibration cases that are no more familiar
        share = f" but {100 * below / cases:.2g} % of the" if below else ""
        less = (
            "less like the training cases" if policy.compares_with_training else "lower OOD score"
        )
        return f"{less} than all{share} {_images(policy)} (p = {p_value:.2g})"
    limit = policy.certificate.ood_threshold
    is_finite = limit is None or math.isfinite(image["ood_score"])
    if not (is_finite and math.isfinite(image["acceptance_score"])):
        return NOT_FINITE
    if (fixed := _by_fixed_rule(policy, image)) is not None:
        return fixed
    if image["threshold"] == math.inf:
        column = policy.certificate.targets.column
        return NONE_FOR_VALUE.format(column.replace("_", " ")) if column else NO_THRESHOLD
    return AT_OOD_THRESHOLD if image["ood_score"] == limit else _compared(policy, image)


def _by_fixed_rule(policy: Policy, image: Image) -> str | None:
    """The reason where no threshold of the score decided."""
    error, highest, cost = image["error"], policy.rule.max_error_probability, image["expected_cost"]
    if error > highest:
        words = comparison("probability of error", error, "above", highest, ALL_LIMITED)
        return words if policy.certificate.shows_errors else TOO_UNCERTAIN
    review_cost = policy.certificate.targets.review_cost
    if review_cost is not None and (cost > review_cost or image["threshold"] == -math.inf):
        relation = "above" if cost > review_cost else "within"
        return comparison("expected cost", cost, relation, review_cost, "the cost of a review")
    return None


def _images(policy: Policy) -> str:
    return "calibration cases" if policy.certificate.pool is None else "cases of the pool"


def _compared(policy: Policy, image: Image) -> str:
    """The case's value and the limit, in terms of the error where that is shown."""
    scores = image["acceptance_score"], image["threshold"]
    errors = image["error"], image["error_at_threshold"]
    reached = scores[0] >= scores[1]
    if reached and image["decisions"] != "accept":
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


def _of_class(policy: Policy, score: float) -> str:
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


def _of_answer(
    policy: Policy, names: Sequence[str], probabilities: Sequence[float], position: int
) -> str:
    """A clause on why an answer is not the most probable one; empty where it is."""
    highest = max(probabilities)
    is_less = highest > probabilities[position]  # not where they are NaN
    if not is_less or policy.kind == CONFIDENCE:  # of which other classes' are not known
        return ""
    name, most = names[position], names[probabilities.index(highest)]
    costs = [f"{policy.rule.costs.get(other, 1.0):g}" for other in (name, most)]
    why = {
        "balanced": "for its probability relative to its share of the cases",
        "costs": f"because missing it costs {costs[0]}, and missing {most} {costs[1]}",
        "logits": "by the largest logit",
    }.get(policy.rule.rule)
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
