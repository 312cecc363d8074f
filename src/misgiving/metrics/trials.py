"""Inference over trials: t-intervals of a mean, and Holm's adjustment of several tests.

A trial trains anew. The values of several trials show how much a result depends on the training
and on the split, which a bootstrap of the test images of trained models cannot show.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import stdtr, stdtrit

from misgiving.errors import UsageError


class TrialInterval(NamedTuple):
    """Mean over trials with its t-interval, and the p-value of a mean of zero (two-sided)."""

    mean: float
    lower: float
    upper: float
    p_value: float


def t_interval(
    values: Sequence[float] | Float[np.ndarray, " trials"],
    *,
    split_ratio: float = 0.0,
    level: float = 0.95,
) -> TrialInterval:
    """t-interval of the mean over trials, with the variance s^2 (1 / T + `split_ratio`).

    Trials that redraw the split share images, so that their values are correlated and s^2 / T is
    too small; Nadeau and Bengio (2003) add the ratio of test to training images.

    Args:
        values: One value for each trial, for example the difference of two models.
        split_ratio: Test images per training image where trials redraw the split; 0 where trials
            have independent images, or all the same.
        level: Coverage of the interval.

    Raises:
        UsageError: There are fewer than two trials.

    >>> t_interval([1.0, 2.0, 3.0])
    TrialInterval(mean=2.0, lower=-0.48..., upper=4.48..., p_value=0.07...)
    """
    count = len(values)
    if count < 2:
        raise UsageError(f"values has {count} trials; a t-interval needs at least two")
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    error = spread * math.sqrt(1 / count + split_ratio)
    margin = float(stdtrit(count - 1, (1 + level) / 2)) * error
    if not error:  # equal in all trials, to the last digit
        return TrialInterval(mean, mean, mean, float(mean == 0))
    p_value = 2 * float(stdtr(count - 1, -abs(mean) / error))
    return TrialInterval(mean, mean - margin, mean + margin, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that those below a level keep the familywise error rate (Holm, 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    stepped = np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * factors)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]
