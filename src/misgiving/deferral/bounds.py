"""Tests and bounds of proportions, quantiles and distributions."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import betainc, betaincc, betainccinv, betaincinv, kolmogorov

Counts = Int[np.ndarray, "..."] | int | np.integer
Bounds = Float[np.ndarray, "..."]
Cases = Counts | Bounds | float | np.floating  # effective numbers need not be whole
Probabilities = Bounds | float | np.floating


class BinomialInterval(NamedTuple):
    """Two-sided interval of a proportion."""

    lower: float
    upper: float


def binomial_cdf(count: Counts, cases: Counts, probability: Probabilities) -> Bounds:
    """P(Bin(cases, probability) <= count): the p-value of "the probability is higher than this".

    >>> float(binomial_cdf(0, 2, 0.5))
    0.25
    """
    short = np.maximum(np.subtract(cases, count), 0)
    inside = betaincc(np.add(count, 1.0), np.maximum(short, 1), probability)
    return np.where(short == 0, 1.0, inside)


def upper_bound(count: Cases, cases: Cases, *, level: float) -> Bounds:
    """Upper Clopper-Pearson bound, exceeded with probability at most `level`; 1 without any case.

    >>> round(float(upper_bound(0, 10, level=0.05)), 3)  # 1 - 0.05 ** (1 / 10)
    0.259
    """
    short = np.subtract(cases, count)
    inside = betainccinv(np.add(count, 1.0), np.where(short > 0, short, 1), level)
    return np.where(short == 0, 1.0, inside)


def lower_bound(count: Cases, cases: Cases, *, level: float) -> Bounds:
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


def conformal_p_values(
    scores: Float[np.ndarray, " n"], calibration: Float[np.ndarray, " m"]
) -> Float[np.ndarray, " n"]:
    """(1 + the number of sorted calibration scores that are no higher) / (m + 1); NaN for a NaN.

    >>> conformal_p_values(np.array([0.15]), np.array([0.1, 0.2, 0.3]))
    array([0.5])
    """
    below = np.searchsorted(calibration, scores, side="right")
    return np.where(np.isnan(scores), np.nan, (1 + below) / (len(calibration) + 1))


def compare_distributions(
    first: Float[np.ndarray, " n"], second: Float[np.ndarray, " m"]
) -> tuple[float, float]:
    """Kolmogorov and Smirnov's test: the largest difference of two distributions, and its p-value.

    For a set that is complete it finds smaller changes than the tests of `DriftMonitor`, which hold
    at any time. The p-value is that for large sets, and too high where values are equal.
    """
    values = np.sort(np.concatenate([first, second]))  # found faster in this order
    below = (
        np.searchsorted(np.sort(part), values, side="right") / len(part) for part in (first, second)
    )
    gap = float(np.abs(np.subtract(*below)).max())
    effective = len(first) * len(second) / len(values)
    return gap, float(kolmogorov(math.sqrt(effective) * gap))
