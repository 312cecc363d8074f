"""When an image is called out-of-distribution, and how unusual it is.

The limit is the k-th lowest confidence of the calibration cases (Wilks, 1941; Vovk, 2012). An image
below it is OOD; one exactly at it is deferred, so that what is accepted lies strictly above,
where the calibration cases are, given the limit, a plain random sample.
"""

import math

import numpy as np
from jaxtyping import Float, Int

from misgiving.deferral.bounds import highest_rank
from misgiving.errors import DataError

MOST_TIED = 0.05  # of the calibration cases, exactly at the limit


def rank_of_limit(cases: int, *, rate: float, level: float) -> int:
    """Which of the lowest confidences is the limit, refused when there are too few cases."""
    rank = highest_rank(cases, rate=rate, level=level)
    if not rank:
        needed = math.ceil(math.log(level) / math.log1p(-rate))
        raise DataError(
            f"{cases} calibration cases: at least {needed} are needed to promise an OOD rate of "
            f"{rate:g}; ask for more, or add cases"
        )
    return rank


def limit_of(
    scores: Float[np.ndarray, "*draws n"], rank: int
) -> Float[np.ndarray, "*draws"] | np.floating:
    """The `rank`-th lowest score.

    >>> float(limit_of(np.array([0.4, 0.1, 0.3]), 2))
    0.3
    """
    return np.partition(scores, rank - 1, axis=-1)[..., rank - 1]


def refuse_ties(scores: Float[np.ndarray, " n"], limit: float) -> None:
    """Refuse a detector that cannot tell many cases at the limit from each other."""
    if np.ptp(scores) == 0:
        raise DataError(
            f"ood_scores of the calibration part are all {scores[0]:g}: no image could be told "
            "to be ood; choose another detector"
        )
    tied = int((scores == limit).sum())
    if tied > max(1, MOST_TIED * len(scores)):
        raise DataError(
            f"ood_scores is {limit:g}, the limit, in {tied} of {len(scores)} calibration "
            "cases: they cannot be told apart; choose another detector or rate"
        )


def conformal_p_values(
    scores: Float[np.ndarray, " n"], calibration: Float[np.ndarray, " m"]
) -> Float[np.ndarray, " n"]:
    """(1 + the number of calibration scores that are no higher) / (m + 1); NaN for a NaN.

    >>> conformal_p_values(np.array([0.15]), np.array([0.1, 0.2, 0.3]))
    array([0.5])
    """
    below = no_higher(scores, calibration)
    return np.where(np.isnan(scores), np.nan, (1 + below) / (len(calibration) + 1))


def no_higher(
    scores: Float[np.ndarray, " n"], calibration: Float[np.ndarray, " m"]
) -> Int[np.ndarray, " n"]:
    """How many of the calibration scores, which are sorted, are no higher than each score."""
    return np.searchsorted(calibration, scores, side="right")
