"""How sure a measure is: a bootstrap over trials and over groups of samples together.

A group (a lesion, a source picture) is drawn whole, because its samples are not independent. The
draws depend on the seed, the number of trials and the group arrays alone, never on a model: two
models measured on the same sets with the same seed meet the same resampled sets, and the paired
difference of a measure is the difference of the two returned arrays.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from misgiving.errors import UsageError
from misgiving.metrics._weighted import Measured, mean_of_defined

Groups = Shaped[np.ndarray, " _"]
Replicates = Float[np.ndarray, " _"]
Statistic = Callable[..., Mapping[str, Measured]]

WEIGHTS_AT_ONCE = 2**21  # bounds the memory of one call of a statistic, and fits the cache better


class Interval(NamedTuple):
    """The bounds of an interval."""

    lower: float
    upper: float


def group_counts(
    groups: Shaped[np.ndarray, " n"], *, replicates: int, random: np.random.Generator
) -> Int[np.ndarray, "replicates n"]:
    """How often each sample occurs when as many groups as there are get drawn with replacement.

    Args:
        groups: The group of each sample; samples of equal value stay together.
        replicates: Number of resampled sets.
        random: Source of the draws.
    """
    members, num_groups = _group_indices(groups)
    drawn = random.integers(num_groups, size=(replicates, num_groups))
    cells = drawn + num_groups * np.arange(replicates)[:, None]
    counts = np.bincount(cells.ravel(), minlength=replicates * num_groups)
    return counts.reshape(replicates, num_groups)[:, members]


def bootstrap(
    statistics: Sequence[Statistic],
    groups: Sequence[tuple[Groups, ...]],
    *,
    replicates: int = 1000,
    seed: int,
) -> dict[str, Replicates]:
    """Replicates of the mean over trials of each measure, over trials and groups together.

    Each replicate draws as many trials as there are, with replacement, and draws groups afresh for
    every drawn slot. Its value is the mean over the slots; a slot that is NaN is left out. With one
    trial only groups vary: the interval is then "given these trained models".

    Args:
        statistics: One function per trial. It is given a weight array (r, n_k) for each of the
            trial's sample sets and returns measures by name, r values each.
        groups: For each trial one array of groups per sample set; the sets are drawn independently.
        replicates: Number of values returned per measure.
        seed: The same seed and group arrays give the same draws for every model.

    >>> errors = np.array([0.0, 1.0, 1.0])
    >>> error_rate = lambda weights: {"error": weights @ errors / weights.sum(axis=-1)}
    >>> lesions = np.array(["a", "b", "c"])
    >>> drawn = bootstrap([error_rate], [(lesions,)], replicates=100, seed=0)["error"]
    >>> sorted({round(float(error), 2) for error in drawn})
    [0.0, 0.33, 0.67, 1.0]
    """
    _check_trials(statistics, groups, replicates)
    random = np.random.default_rng(seed)
    slots = random.integers(len(statistics), size=(replicates, len(statistics)))
    values: dict[str, Float[np.ndarray, "replicates trials"]] = {}
    for trial, statistic in enumerate(statistics):
        chosen = slots == trial
        if chosen.any():
            drawn = _draw(statistic, groups[trial], int(chosen.sum()), random)
            _fill(values, chosen, drawn, trial=trial)
    return {name: mean_of_defined(of_slots) for name, of_slots in values.items()}


def interval(replicates: Replicates, *, level: float = 0.95) -> Interval:
    """Percentile interval that holds `level` of the replicates; NaN replicates are left out.

    >>> interval(np.arange(101.0), level=0.5)
    Interval(lower=25.0, upper=75.0)
    """
    if not 0 < level < 1:
        raise UsageError(f"level is {level}; it must lie between 0 and 1")
    defined = replicates[~np.isnan(replicates)]
    if not len(defined):
        return Interval(float("nan"), float("nan"))
    lower, upper = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(lower), float(upper))


def _group_indices(groups: Shaped[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], int]:
    """Number the groups; a missing group is refused, as all samples without one would be tied."""
    if not len(groups):
        raise UsageError("groups is empty; give at least one sample")
    if any(group is None or group != group for group in groups.tolist()):  # only NaN is not itself
        raise UsageError("groups has a missing value; give a sample without a group one of its own")
    distinct, members = np.unique(groups, return_inverse=True)
    return members, len(distinct)


def _check_trials(
    statistics: Sequence[Statistic], groups: Sequence[tuple[Groups, ...]], replicates: int
) -> None:
    if not statistics or len(statistics) != len(groups):
        raise UsageError(
            f"groups has {len(groups)} trials and statistics {len(statistics)}; "
            "give one entry per trial in both, and at least one"
        )
    if replicates < 1:
        raise UsageError(f"replicates is {replicates}; ask for at least 1")


def _draw(
    statistic: Statistic, groups: tuple[Groups, ...], count: int, random: np.random.Generator
) -> dict[str, Replicates]:
    """Evaluate the statistic on `count` resampled sets, a block at a time."""
    block = max(1, WEIGHTS_AT_ONCE // max(1, sum(len(of_set) for of_set in groups)))
    parts = []
    for start in range(0, count, block):
        size = min(block, count - start)
        weights = (group_counts(of_set, replicates=size, random=random) for of_set in groups)
        parts.append(statistic(*weights))
    return {
        name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in parts[0]
    }


def _fill(
    values: dict[str, Float[np.ndarray, "replicates trials"]],
    chosen: Bool[np.ndarray, "replicates trials"],
    drawn: Mapping[str, Replicates],
    *,
    trial: int,
) -> None:
    """Put a trial's draws into its slots."""
    if values and values.keys() != drawn.keys():
        raise UsageError(
            f"statistics of trial {trial} measures {', '.join(drawn)} but an earlier one "
            f"{', '.join(values)}; measure the same in every trial"
        )
    for name, of_trial in drawn.items():
        if of_trial.shape != (chosen.sum(),):
            raise UsageError(
                f"statistics of trial {trial} gives {name} in shape {of_trial.shape} for "
                f"{chosen.sum()} replicates; give one value for each replicate"
            )
        values.setdefault(name, np.full(chosen.shape, np.nan))[chosen] = of_trial
