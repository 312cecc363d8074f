"""Exact bounds on a probability from a count (Clopper and Pearson, 1934), and tests of one."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import betainc, betaincc, betainccinv, betaincinv

Counts = Int[np.ndarray, "..."] | int | np.integer
Values = Float[np.ndarray, "..."]
Probabilities = Values | float | np.floating


class Interval(NamedTuple):
    """The bounds of an interval."""

    lower: float
    upper: float


def probability_of_at_most(count: Counts, cases: Counts, probability: Probabilities) -> Values:
    """P(Bin(cases, probability) <= count): the p-value of "the probability is higher than this".

    >>> float(probability_of_at_most(0, 2, 0.5))
    0.25
    """
    short = np.maximum(np.subtract(cases, count), 0)
    inside = betaincc(np.add(count, 1.0), np.maximum(short, 1), probability)
    return np.where(short == 0, 1.0, inside)


def upper_bound(count: Counts, cases: Counts, *, level: float) -> Values:
    """What the probability exceeds with a probability of at most `level`; 1 without any case.

    >>> round(float(upper_bound(0, 10, level=0.05)), 3)  # 1 - 0.05 ** (1 / 10)
    0.259
    """
    short = np.subtract(cases, count)
    inside = betainccinv(np.add(count, 1.0), np.maximum(short, 1), level)
    return np.where(short == 0, 1.0, inside)


def lower_bound(count: Counts, cases: Counts, *, level: float) -> Values:
    """What the probability falls below with a probability of at most `level`; 0 without any case.

    >>> round(float(lower_bound(10, 10, level=0.05)), 3)
    0.741
    """
    others = np.subtract(cases, count)
    inside = betaincinv(np.maximum(count, 1), np.add(others, 1.0), level)
    return np.where(np.equal(count, 0), 0.0, inside)


def two_sided(count: int, cases: int, *, level: float) -> Interval:
    """An interval that misses the probability with a probability of at most `level`.

    >>> two_sided(0, 10, level=0.05)
    Interval(lower=0.0, upper=0.308...)
    """
    return Interval(
        float(lower_bound(count, cases, level=level / 2)),
        float(upper_bound(count, cases, level=level / 2)),
    )


def highest_rank(cases: int, *, rate: float, level: float) -> int:
    """The highest k for which at most `rate` of all lies below the k-th lowest of `cases` draws.

    The share below it is Beta(k, cases - k + 1) (Wilks, 1941); it exceeds `rate` with a probability
    of at most `level`. 0 where even the lowest draw cannot say so.

    >>> highest_rank(59, rate=0.05, level=0.05), highest_rank(58, rate=0.05, level=0.05)
    (1, 0)
    """
    ranks = np.arange(1, cases + 1)
    return int((betainc(ranks, cases - ranks + 1, rate) >= 1 - level).sum())
