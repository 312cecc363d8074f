"""The average guarantee: conformal selection of a batch, and limits for single images.

With n labelled cases, m new images, and W(t) the number of labelled cases that are wrong with a
score of at least t: the k best images are accepted, for the largest k with
(1 + W(s_k)) m / ((n + 1) k) <= max_error, where s_k is the score of the last one accepted. Then the
share of wrong answers among the accepted is at most `max_error` on average over labelled cases and
batches (Jin and Candes, 2023). docs/explanation/guarantee.md derives it and the extensions below.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge
from jaxtyping import Float
from pydantic import AllowInfNan

from misgiving.deferral.settings import Targets
from misgiving.deferral.thresholds import ROUNDING, RankCounts, ScoredCases

MIN_BATCH = 50  # images; an empty batch counts as without error, so that small ones promise little
PRIOR_ERRORS = 2.0  # wrong tuning cases that each class with a target has more than observed

Scores = Float[np.ndarray, " n"]
Threshold = Annotated[float, AllowInfNan(True), Ge(-math.inf)]
"""A number that may be infinite in the file of a policy, as no other, but not NaN."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Labelled cases that decide which images of a batch are accepted.

    Attributes:
        cases: Their number above the OOD limit.
        lowest: No image is accepted with a lower score, by the targets of classes and of silent
            errors; -inf: there is no such limit; inf: none is accepted.
        rates: Parts of `max_error`: one for each class with a target, and one for the others. Empty
            without `max_error`: `lowest` alone decides, for single images, too.
        wrong: For each part, the scores of its cases that are wrong, lowest first.
    """

    cases: int
    lowest: Threshold
    rates: tuple[float, ...]
    wrong: tuple[tuple[float, ...], ...]

    def threshold(self, scores: Scores, images: int) -> float | None:
        """The lowest score that is accepted in a batch; None: none is.

        Args:
            scores: Of the images that can be accepted.
            images: Number of all images of the batch above the OOD limit.
        """
        if not self.rates:
            return None if self.lowest == math.inf else self.lowest
        candidates = np.sort(scores[scores >= self.lowest])[::-1]
        accepted = np.searchsorted(-candidates, -candidates, side="right")  # with all that are tied
        meets = np.ones(len(candidates), dtype=bool)
        for rate, of_part in zip(self.rates, self.wrong, strict=True):
            mistaken = len(of_part) - np.searchsorted(of_part, candidates, side="left")
            allowed = rate * (self.cases + 1) * accepted
            meets &= (1 + mistaken) * images <= allowed * (1 + ROUNDING)
        return float(candidates[meets][-1]) if meets.any() else None


def fit_selection(
    tuning: ScoredCases,
    calibration: ScoredCases,
    counts: RankCounts,
    targets: Targets,
    *,
    classes: Sequence[str],
) -> Selection:
    """Choose what decides a batch, with the limits that all images must meet."""
    missable, watched = calibration.acceptable & calibration.wrong, targets.class_max_miss
    lowest, wrong = -math.inf, counts.kept & calibration.wrong
    if targets.max_silent_error is not None:
        scores = calibration.scores[missable]
        lowest = lowest_allowed(scores, counts.cases, rate=targets.max_silent_error)
    parts, labels = [], [classes.index(name) for name in watched]
    for label, rate in zip(labels, watched.values(), strict=True):
        members = calibration.labels == label
        scores = calibration.scores[members & missable]
        lowest = max(lowest, lowest_allowed(scores, int(members.sum()), rate=rate))
        parts.append(members)
    if targets.max_error is None:
        return Selection(cases=counts.above, lowest=lowest, rates=(), wrong=())
    parts.append(~np.any([*parts, np.zeros_like(wrong)], axis=0))
    return Selection(
        cases=counts.above,
        lowest=lowest,
        rates=divided_rate(targets.max_error, tuning, labels, counts.above),
        wrong=tuple(tuple(np.sort(calibration.scores[part & wrong]).tolist()) for part in parts),
    )


def lowest_allowed(wrong_scores: Scores, cases: int, *, rate: float) -> float:
    """The lowest score to accept so that a new case is wrong and accepted with at most this rate.

    If c cases are wrong above the limit, the probability is at most (1 + c) / (cases + 1), on
    average (Angelopoulos et al., 2024). It is infinite where the rate is too low for the cases.

    >>> lowest_allowed(np.array([0.1, 0.7]), 19, rate=0.05) > 0.7
    True
    """
    most = math.floor(rate * (cases + 1) * (1 + ROUNDING)) - 1
    if most < 0:
        return math.inf
    if most >= len(wrong_scores):
        return -math.inf
    excluded = np.sort(wrong_scores)[::-1][most]
    return float(np.nextafter(excluded, math.inf))


def divided_rate(
    max_error: float, tuning: ScoredCases, labels: Sequence[int], cases: int
) -> tuple[float, ...]:
    """Divide `max_error` among the classes with these labels and the others, by the tuning set.

    Each part has a place for the one case that its test adds, and shares the others in proportion
    to its wrong tuning cases.
    """
    wrong = tuning.labels[tuning.acceptable & tuning.wrong]
    of_classes = [int((wrong == label).sum()) for label in labels]
    errors = np.array([*of_classes, len(wrong) - sum(of_classes)]) + PRIOR_ERRORS
    best_first = np.argsort(-tuning.scores, kind="stable")
    risks = tuning.error_probabilities[best_first].cumsum() / np.arange(1, len(tuning) + 1)
    accepted = float((risks <= max_error).mean())  # share of cases, roughly
    others = max(max_error * cases * accepted - len(errors), 1.0)
    places = 1 + others * errors / errors.sum()
    return tuple((max_error * places / places.sum()).tolist())
