"""Which thresholds are tried, and with how much of the error budget each starts.

Both come from the tune part alone, so that the calibration cases meet hypotheses that were fixed
before them.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from misgiving.deferral.bounds import probability_of_at_most

MOST_CANDIDATES = 50
SPREAD_STARTS = (0.2, 0.4, 0.6, 0.8, 1.0)  # coverages at which the procedure starts in any case
SHARE_OF_BEST = 0.8  # of the budget, for the start that targets most
WEIGHT_OF_COVERAGE = 0.2  # against the power of a start; chosen with the share on simulated data

Thresholds = Float[np.ndarray, " candidates"]


def candidate_thresholds(scores: Float[np.ndarray, " n"]) -> Thresholds:
    """At most 50 thresholds at evenly spread coverages, strictest first; -inf accepts everything.

    >>> candidate_thresholds(np.array([0.1, 0.5, 0.9]))
    array([ 0.9,  0.5, -inf])
    """
    coverages = np.arange(1, MOST_CANDIDATES) / MOST_CANDIDATES
    ranks = np.ceil(coverages * len(scores) - 1e-9).astype(int)
    thresholds = np.unique(np.sort(scores)[::-1][ranks - 1])[::-1]
    return np.append(thresholds[thresholds > scores.min()], -np.inf)


def accepted_by_candidate(
    scores: Float[np.ndarray, "*draws n"],
    counted: Bool[np.ndarray, "*draws n"],
    thresholds: Thresholds,
) -> Int[np.ndarray, "*draws candidates"]:
    """How many of the counted cases have a score that reaches each threshold.

    >>> scores, counted = np.array([0.9, 0.5, 0.2]), np.array([True, True, False])
    >>> accepted_by_candidate(scores, counted, np.array([0.9, 0.5, -np.inf]))
    array([1, 2, 2])
    """
    strictest = np.searchsorted(-thresholds, -scores)  # the strictest candidate that accepts
    rows = strictest.reshape(-1, scores.shape[-1]) if scores.ndim > 1 else strictest[None]
    cells = rows + len(thresholds) * np.arange(len(rows))[:, None]
    added = np.bincount(
        cells.ravel(), weights=counted.ravel(), minlength=len(rows) * len(thresholds)
    ).astype(np.int64)
    by_row = added.reshape(*scores.shape[:-1], len(thresholds))
    return np.cumsum(by_row, axis=-1)


def starting_levels(
    accepted: Int[np.ndarray, " candidates"],
    wrong: Int[np.ndarray, " candidates"],
    *,
    cases: int,
    max_error: float,
    level: float,
) -> Float[np.ndarray, " candidates"]:
    """How the level is shared among the candidates: most goes to the most promising one.

    Args:
        accepted: Cases of the tune part that each candidate accepts; the last accepts all of them.
        wrong: How many of these are wrong.
        cases: Number of calibration cases that will be counted.
        max_error: The promise.
        level: Their sum.
    """
    coverages = accepted / max(accepted[-1], 1)
    levels = np.zeros(len(accepted))
    nearest = np.abs(coverages - np.array(SPREAD_STARTS)[:, None]).argmin(axis=1)
    np.add.at(levels, nearest, level * (1 - SHARE_OF_BEST) / len(SPREAD_STARTS))
    expected = np.rint(cases * coverages).astype(int)
    smoothed = (wrong + 1) / (accepted + 2)
    of_best = level * SHARE_OF_BEST
    chances = _power(expected, smoothed, max_error=max_error, level=of_best)
    levels[np.argmax(chances * coverages**WEIGHT_OF_COVERAGE)] += of_best
    return levels


def _power(
    accepted: Int[np.ndarray, " candidates"],
    risks: Float[np.ndarray, " candidates"],
    *,
    max_error: float,
    level: float,
) -> Float[np.ndarray, " candidates"]:
    """Probability that so many accepted cases of such a risk pass the test at `level`."""
    most = _most_errors(accepted, max_error=max_error, level=level)
    passed = probability_of_at_most(np.maximum(most, 0), accepted, risks)
    return np.where(most >= 0, passed, 0.0)


def _most_errors(
    accepted: Int[np.ndarray, " candidates"], *, max_error: float, level: float
) -> Int[np.ndarray, " candidates"]:
    """The highest count of errors that passes the test at `level`, by bisection; -1 for none.

    >>> _most_errors(np.array([59, 58, 93]), max_error=0.05, level=0.05)
    array([ 0, -1,  1])
    """
    passes, fails = np.full_like(accepted, -1), accepted  # p-values rise with the count, up to 1
    while (fails - passes > 1).any():
        middle = (passes + fails) // 2  # where the two are neighbours, the lower one
        passed = (middle < 0) | (
            probability_of_at_most(np.maximum(middle, 0), accepted, max_error) <= level
        )
        passes, fails = np.where(passed, middle, passes), np.where(passed, fails, middle)
    return passes
