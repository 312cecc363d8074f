"""Uncertainty of metrics: t-intervals over trials, Holm's adjustment, and the bootstrap.

A trial trains anew. The values of several trials show how much a result depends on the training
and on the split, which a bootstrap of the test images of trained models cannot show.

The bootstrap draws trials and groups of samples together. A group (a lesion, a patient, a source
image) is drawn whole, because its samples are not independent. A group that occurs in several
trials is drawn equally often in all of them: trials that share their images do not make the images
more certain. The draws depend only on the seed, the number of trials and the group arrays, never
on a model: two models measured on the same sets with the same seed are resampled alike, and the
paired difference of a metric is the difference of the two returned arrays.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.special import stdtr, stdtrit

from misgiving.errors import UsageError
from misgiving.metrics._weighted import MetricValue, mean_without_nan


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


Key = TypeVar("Key", bound=Hashable)

WEIGHTS_AT_ONCE = 2**17  # in one call of a statistic, whose arrays then fit the cache


def bootstrap(
    statistics: Sequence[Callable[..., Mapping[Key, MetricValue]]],
    groups: Sequence[tuple[Shaped[np.ndarray, " _"], ...]],
    *,
    replicates: int = 1000,
    seed: int,
) -> dict[Key, Float[np.ndarray, " replicates"]]:
    """Draw bootstrap replicates of the mean over trials of each metric.

    Each replicate draws as many trials as there are and as many groups as all trials have together,
    both with replacement. Its value is the mean over the drawn trials; one that is NaN is left out.
    With one trial only groups vary: the interval is then "given these trained models". With few
    trials the variance between them is underestimated, by (T - 1) / T.

    Args:
        statistics: One function per trial. It is given a weight array (r, n_k) for each of the
            trial's sample sets and returns metrics by name or other key, r values each.
        groups: For each trial one array of groups per sample set; the sets are drawn independently,
            and equal group names in one set are the same group in every trial.
        replicates: Number of values returned per metric.
        seed: The same seed and group arrays give the same draws for every model.

    >>> errors = np.array([0.0, 1.0, 1.0])
    >>> error_rate = lambda weights: {"error": weights @ errors / weights.sum(axis=-1)}
    >>> groups = np.array(["a", "b", "c"])
    >>> drawn = bootstrap([error_rate], [(groups,)], replicates=100, seed=0)["error"]
    >>> sorted({round(float(error), 2) for error in drawn})
    [0.0, 0.33, 0.67, 1.0]
    """
    random = np.random.default_rng(seed)
    slots = random.integers(len(statistics), size=(replicates, len(statistics)))
    sets = []
    for of_trials in zip(*groups, strict=True):  # groups of all trials are numbered together
        distinct, members = np.unique(np.concatenate(of_trials), return_inverse=True)
        ends = np.cumsum([len(of_trial) for of_trial in of_trials])
        sets.append((len(distinct), np.split(members, ends[:-1])))
    block = max(1, WEIGHTS_AT_ONCE // max(sum(map(len, of_trial)) for of_trial in groups))
    values: dict[Key, Float[np.ndarray, "trials replicates"]] = {}
    for start in range(0, replicates, block):
        drawn = slots[start : start + block]
        counts = [_draw(size, len(drawn), random) for size, _ in sets]
        for trial, statistic in enumerate(statistics):
            chosen = np.flatnonzero((drawn == trial).any(axis=1))
            if not len(chosen):
                continue
            weights = (
                count[chosen].take(members[trial], axis=-1)
                for count, (_, members) in zip(counts, sets, strict=True)
            )
            for name, measured in statistic(*weights).items():
                rows = values.setdefault(name, np.full(slots.T.shape, np.nan))
                rows[trial, start + chosen] = measured
    each = np.arange(replicates)[:, None]
    return {name: mean_without_nan(drawn[slots, each]) for name, drawn in values.items()}


def percentile_interval(
    replicates: Float[np.ndarray, " replicates"], *, level: float = 0.95
) -> tuple[float, float]:
    """Percentiles between which `level` of the replicates lie; NaN replicates are left out.

    >>> percentile_interval(np.arange(101.0), level=0.5)
    (25.0, 75.0)
    """
    defined = replicates[~np.isnan(replicates)]
    if not len(defined):
        return float("nan"), float("nan")
    lower, upper = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(lower), float(upper)


def _draw(
    num_groups: int, replicates: int, random: np.random.Generator
) -> Int[np.ndarray, "replicates groups"]:
    """Draw as many groups as there are with replacement, and count each."""
    drawn = random.integers(num_groups, size=(replicates, num_groups))
    cells = drawn + num_groups * np.arange(replicates)[:, None]
    counts = np.bincount(cells.ravel(), minlength=replicates * num_groups)
    return counts.reshape(replicates, num_groups)
