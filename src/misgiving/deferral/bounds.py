"""Exact tests and bounds, and the selection of acceptance thresholds by multiple testing.

The tuning set alone fixes the thresholds to test and the level at which each starts, so that the
hypotheses are fixed before the calibration set is looked at. Counts by threshold have the
thresholds on their last axis, strictest first; leading axes are independent calibration sets.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import betainc, betaincc, betainccinv, betaincinv

MOST_THRESHOLDS = 50
SPREAD_STARTS = (0.2, 0.4, 0.6, 0.8, 1.0)  # coverages at which the procedure starts in any case
SHARE_OF_BEST = 0.9  # of the error budget, for the most promising threshold
WEIGHT_OF_COVERAGE = 0.05  # against the power of a start; chosen with the share on simulated data

Counts = Int[np.ndarray, "..."] | int | np.integer
Values = Float[np.ndarray, "..."]
Cases = Counts | Values | float | np.floating  # effective numbers need not be whole
Probabilities = Values | float | np.floating
Thresholds = Float[np.ndarray, " thresholds"]
CountsByThreshold = Int[np.ndarray, "*draws thresholds"]
Selected = Bool[np.ndarray, "*draws thresholds"]


class BinomialInterval(NamedTuple):
    """Two-sided interval of a proportion."""

    lower: float
    upper: float


def binomial_cdf(count: Counts, cases: Counts, probability: Probabilities) -> Values:
    """P(Bin(cases, probability) <= count): the p-value of "the probability is higher than this".

    >>> float(binomial_cdf(0, 2, 0.5))
    0.25
    """
    short = np.maximum(np.subtract(cases, count), 0)
    inside = betaincc(np.add(count, 1.0), np.maximum(short, 1), probability)
    return np.where(short == 0, 1.0, inside)


def upper_bound(count: Cases, cases: Cases, *, level: float) -> Values:
    """Upper Clopper-Pearson bound, exceeded with probability at most `level`; 1 without any case.

    >>> round(float(upper_bound(0, 10, level=0.05)), 3)  # 1 - 0.05 ** (1 / 10)
    0.259
    """
    short = np.subtract(cases, count)
    inside = betainccinv(np.add(count, 1.0), np.where(short > 0, short, 1), level)
    return np.where(short == 0, 1.0, inside)


def lower_bound(count: Cases, cases: Cases, *, level: float) -> Values:
    """Lower Clopper-Pearson bound, undercut with probability at most `level`; 0 without any case.

    >>> round(float(lower_bound(10, 10, level=0.05)), 3)
    0.741
    """
    others = np.subtract(cases, count)
    inside = betaincinv(np.where(np.equal(count, 0), 1, count), np.add(others, 1.0), level)
    return np.where(np.equal(count, 0), 0.0, inside)


def two_sided_interval(count: int | float, cases: int | float, *, level: float) -> BinomialInterval:
    """Clopper-Pearson interval (1934), which misses the probability with probability `level`.

    >>> two_sided_interval(0, 10, level=0.05)
    BinomialInterval(lower=0.0, upper=0.308...)
    """
    return BinomialInterval(
        float(lower_bound(count, cases, level=level / 2)),
        float(upper_bound(count, cases, level=level / 2)),
    )


def tolerance_rank(cases: int, *, rate: float, level: float) -> int:
    """Highest k for which at most `rate` of the population lies below the k-th lowest case.

    The share below it is Beta(k, cases - k + 1) (Wilks, 1941); it exceeds `rate` with a probability
    of at most `level`. 0 where even the lowest case is too high.

    >>> tolerance_rank(59, rate=0.05, level=0.05), tolerance_rank(58, rate=0.05, level=0.05)
    (1, 0)
    """
    ranks = np.arange(1, cases + 1)
    return int((betainc(ranks, cases - ranks + 1, rate) >= 1 - level).sum())


def cases_for_tolerance(*, rate: float, level: float) -> int:
    """Number of cases from which on `tolerance_rank` is not 0 (Wilks, 1941).

    >>> cases_for_tolerance(rate=0.05, level=0.05)
    59
    """
    cases = math.ceil(math.log(level) / math.log1p(-rate))
    # Where the level is a power of 1 - rate, rounding may leave so many cases no rank.
    return cases if tolerance_rank(cases, rate=rate, level=level) else cases + 1


def kth_lowest(
    scores: Float[np.ndarray, "*draws n"], k: int
) -> Float[np.ndarray, "*draws"] | np.floating:
    """The k-th lowest score, counted from 1.

    >>> float(kth_lowest(np.array([0.4, 0.1, 0.3]), 2))
    0.3
    """
    return np.partition(scores, k - 1, axis=-1)[..., k - 1]


def conformal_p_values(
    scores: Float[np.ndarray, " n"], calibration: Float[np.ndarray, " m"]
) -> Float[np.ndarray, " n"]:
    """(1 + the number of sorted calibration scores that are no higher) / (m + 1); NaN for a NaN.

    >>> conformal_p_values(np.array([0.15]), np.array([0.1, 0.2, 0.3]))
    array([0.5])
    """
    below = np.searchsorted(calibration, scores, side="right")
    return np.where(np.isnan(scores), np.nan, (1 + below) / (len(calibration) + 1))


def candidate_thresholds(scores: Float[np.ndarray, " n"]) -> Thresholds:
    """At most 50 thresholds at evenly spaced coverages, strictest first; -inf accepts everything.

    >>> candidate_thresholds(np.array([0.1, 0.5, 0.9]))
    array([ 0.9,  0.5, -inf])
    """
    coverages = np.arange(1, MOST_THRESHOLDS) / MOST_THRESHOLDS
    ranks = np.ceil(coverages * len(scores) - 1e-9).astype(int)
    thresholds = np.unique(np.sort(scores)[::-1][ranks - 1])[::-1]
    return np.append(thresholds[thresholds > scores.min()], -np.inf)


def counts_by_threshold(
    scores: Float[np.ndarray, "*draws n"],
    counted: Bool[np.ndarray, "*draws n"],
    thresholds: Thresholds,
) -> CountsByThreshold:
    """Number of the counted cases whose score reaches each threshold.

    >>> scores, counted = np.array([0.9, 0.5, 0.2]), np.array([True, True, False])
    >>> counts_by_threshold(scores, counted, np.array([0.9, 0.5, -np.inf]))
    array([1, 2, 2])
    """
    strictest = np.searchsorted(-thresholds, -scores)  # the strictest threshold that accepts
    rows = strictest.reshape(-1, scores.shape[-1]) if scores.ndim > 1 else strictest[None]
    cells = rows + len(thresholds) * np.arange(len(rows))[:, None]
    added = np.bincount(
        cells.ravel(), weights=counted.ravel(), minlength=len(rows) * len(thresholds)
    ).astype(np.int64)
    by_row = added.reshape(*scores.shape[:-1], len(thresholds))
    return np.cumsum(by_row, axis=-1)


def fallback_procedure(
    accepted: CountsByThreshold,
    wrong: CountsByThreshold,
    *,
    max_error: float,
    levels: Float[np.ndarray, " thresholds"],
) -> Selected:
    """Select the thresholds at which "more than `max_error` of the accepted are wrong" is rejected.

    The fallback procedure (Wiens, 2003): a threshold is tested at its own level plus the level that
    its stricter neighbour was rejected at. The probability of selecting any threshold wrongly is at
    most the sum of the levels, whatever the dependence between the tests.

    >>> accepted, wrong = np.array([50, 100]), np.array([0, 2])
    >>> fallback_procedure(accepted, wrong, max_error=0.1, levels=np.array([0.025, 0.025]))
    array([ True,  True])
    """
    p_values = binomial_cdf(wrong, accepted, max_error)
    rejected = np.zeros(p_values.shape, dtype=bool)
    carried = np.zeros(p_values.shape[:-1])
    for threshold, level in enumerate(levels):
        carried = carried + level
        rejected[..., threshold] = p_values[..., threshold] <= carried
        carried = np.where(rejected[..., threshold], carried, 0.0)
    return rejected


def fixed_sequence(
    missed: CountsByThreshold,
    cases: Int[np.ndarray, "*draws"] | np.integer | int,
    *,
    rate: float,
    level: float,
) -> Selected:
    """Select the thresholds up to which "more than `rate` of the class is missed" is rejected.

    A fixed sequence from the strictest on, each at the whole level, until the first that fails.

    Args:
        missed: Cases of the class that are accepted as another class.
        cases: All calibration cases of the class.
        rate: The target.
        level: Probability of selecting a threshold wrongly, at most.

    >>> fixed_sequence(np.array([0, 0, 3]), 100, rate=0.05, level=0.05)
    array([ True,  True, False])
    """
    p_values = binomial_cdf(missed, np.asarray(cases)[..., None], rate)
    return np.logical_and.accumulate(p_values <= level, axis=-1)


def loosest(selected: Selected) -> Int[np.ndarray, "*draws"]:
    """Position of the last threshold that is selected, -1 where none is.

    >>> loosest(np.array([[True, True, False], [False, False, False]]))
    array([ 1, -1])
    """
    last = selected.shape[-1] - 1 - np.argmax(selected[..., ::-1], axis=-1)
    return np.where(selected.any(axis=-1), last, -1)


def starting_levels(
    accepted: Int[np.ndarray, " thresholds"],
    wrong: Int[np.ndarray, " thresholds"],
    *,
    cases: int,
    max_error: float,
    level: float,
) -> Float[np.ndarray, " thresholds"]:
    """Share the level among the thresholds: most goes to the most promising one.

    Args:
        accepted: Tuning cases that each threshold accepts; the last accepts all of them.
        wrong: How many of these are wrong.
        cases: Number of calibration cases that will be counted.
        max_error: The target.
        level: Sum of the levels.
    """
    coverages = accepted / max(accepted[-1], 1)
    levels = np.zeros(len(accepted))
    nearest = np.abs(coverages - np.array(SPREAD_STARTS)[:, None]).argmin(axis=1)
    np.add.at(levels, nearest, level * (1 - SHARE_OF_BEST) / len(SPREAD_STARTS))
    expected = np.rint(cases * coverages).astype(int)
    smoothed_risks = (wrong + 1) / (accepted + 2)
    level_of_best = level * SHARE_OF_BEST
    most = most_errors(expected, max_error=max_error, level=level_of_best)
    power = np.where(most >= 0, binomial_cdf(np.maximum(most, 0), expected, smoothed_risks), 0.0)
    levels[np.argmax(power * coverages**WEIGHT_OF_COVERAGE)] += level_of_best
    return levels


def most_errors(
    accepted: Int[np.ndarray, " thresholds"], *, max_error: float, level: float
) -> Int[np.ndarray, " thresholds"]:
    """Highest number of errors with which the test at `level` still rejects; -1 for none.

    >>> most_errors(np.array([59, 58, 93]), max_error=0.05, level=0.05)
    array([ 0, -1,  1])
    """
    passes, fails = np.full_like(accepted, -1), accepted  # p-values rise with the count, up to 1
    while (fails - passes > 1).any():
        middle = (passes + fails) // 2  # where the two are neighbours, the lower one
        passed = (middle < 0) | (binomial_cdf(np.maximum(middle, 0), accepted, max_error) <= level)
        passes, fails = np.where(passed, middle, passes), np.where(passed, fails, middle)
    return passes
