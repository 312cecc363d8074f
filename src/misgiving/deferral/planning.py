"""The rates that a calibration set can certify, computed before a training."""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from misgiving.deferral.bounds import upper_bound
from misgiving.deferral.certify import MOST_CASES, SHARE_OF_RANK
from misgiving.deferral.guarantees import GUARANTEES, Guarantee
from misgiving.deferral.targets import Targets
from misgiving.groups import one_per_group

WRONG_SHARES = (0.0, 0.01, 0.03, 0.05)
Sizes = Int[np.ndarray, " sizes"]
Rate = Callable[[Sizes, Sizes], Float[np.ndarray, " sizes"]]
"""From numbers of wrong cases, and of all, to the smallest rates that are certified."""


class RatePlan(NamedTuple):
    """Rates that a number of cases certifies, if so large a share of them is wrong.

    Attributes:
        wrong_share: Assumed share of wrong (for a class: missed) cases.
        smallest: Smallest rate that is certified.
        more: Further calibration cases that are needed for the target; None: not even 100,000 cases
            are enough, as where the target is not above `wrong_share`.
    """

    wrong_share: float
    smallest: float
    more: int | None


@dataclass(frozen=True, kw_only=True)
class CertificationOutlook:
    """Rates that a calibration set can certify, before its cases are known.

    Attributes:
        targets: The error rates that are asked for.
        images: By class.
        cases: Calibration cases by class: one for each group.
        error: Rates of errors, if all cases are accepted, by guarantee; none without the target.
        accepted_half: The same, if half of them are accepted.
        silent: Rates of accepted errors among all cases, if all are accepted, by guarantee; none
            without the target.
        classes: Rates of misses of each class with a target, by guarantee.
        most_deferred: Number of the cases that may be deferred; None without the target.
        ood_rank: Rank of the OOD limit among the cases, lowest first; None: there is none.
        ood_cases: Numbers of cases from which on there is such a limit, and from which on it flags
            half of `max_ood_false_alarms` on average; None without that target.
    """

    targets: Targets
    images: Mapping[str, int]
    cases: Mapping[str, int]
    error: Mapping[str, tuple[RatePlan, ...]]
    accepted_half: Mapping[str, tuple[RatePlan, ...]]
    silent: Mapping[str, tuple[RatePlan, ...]]
    classes: Mapping[str, Mapping[str, tuple[RatePlan, ...]]]
    most_deferred: int | None
    ood_rank: int | None
    ood_cases: tuple[int, ...] | None

    @property
    def total(self) -> int:
        """Number of calibration cases."""
        return sum(self.cases.values())


def plan_certification(
    labels: Int[np.ndarray, " n"],
    units: Int[np.ndarray, " n"],
    classes: Sequence[str],
    targets: Targets,
    guarantee: Guarantee,
) -> CertificationOutlook:
    """Compute the rates that a calibration set can certify, with the cases that `fit` draws of it.

    With confidence, the error is tested at half of its level, as about a promising rank is.

    Args:
        labels: True classes as positions in `classes`.
        units: Number of the group of each case, of which one counts.
        classes: Names of the classes.
        targets: The error rates to certify.
        guarantee: Of the OOD limit; the rates are computed for each guarantee.

    Raises:
        UsageError: A target is for an unknown class.
    """
    targets.check_classes(classes)
    images, cases = (
        dict(zip(classes, np.bincount(rows, minlength=len(classes)).tolist(), strict=True))
        for rows in (labels, labels[one_per_group(units, seed=0)])
    )
    total, level = sum(cases.values()), SHARE_OF_RANK * targets.level_of_error
    rate = targets.max_ood_false_alarms
    return CertificationOutlook(
        targets=targets,
        images=images,
        cases=cases,
        error=_rates(total, targets.max_error, level, parts=targets.parts),
        accepted_half=_rates(total, targets.max_error, level, accepted=0.5, parts=targets.parts),
        silent=_rates(total, targets.max_silent_error, targets.level_of_misses),
        classes={
            name: _rates(
                sum(cases[each] for each in targets.members(name)), limit, targets.level_of_misses
            )
            for name, limit in targets.class_max_miss.items()
        },
        most_deferred=guarantee.most_deferred(total, targets),
        ood_rank=guarantee.ood_rank(total, targets),
        ood_cases=None
        if rate is None
        else tuple(_ood_cases(guarantee, targets, share) for share in (0.0, rate / 2)),
    )


def plan_values(
    values: Sequence[str], units: Int[np.ndarray, " n"], targets: Targets
) -> list[tuple[str, int, float, float]]:
    """Plan a threshold for each value of a column, of which one case of each group counts.

    Returns:
        For each value its number of cases, and the smallest error that they certify if all are
        accepted and none is wrong: by itself, and together with all other values.
    """
    drawn = np.array(values)[one_per_group(units, seed=0)]
    names, cases = np.unique(drawn[drawn != ""], return_counts=True)
    level = SHARE_OF_RANK * targets.level_of_error
    levels = level, 1 - (1 - level) ** (1 / max(1, len(names)))
    alone, together = (upper_bound(0 * cases, cases, level=each).tolist() for each in levels)
    return [*zip(names.tolist(), cases.tolist(), alone, together, strict=True)]


def plan_looks(looks: Sequence[int], targets: Targets) -> list[tuple[int, float, list[float]]]:
    """Plan several calibrations, of which each has a part of the level.

    Returns:
        For each its number of cases, its level, and the smallest errors that are certified by the
        shares of `WRONG_SHARES`, if all cases are accepted.
    """
    plans = []
    for cases in looks:
        at_look, size = targets.at_look(cases, looks), np.array([cases])
        level = SHARE_OF_RANK * at_look.level_of_error
        bounds = [upper_bound(*_assumed(share, size), level=level) for share in WRONG_SHARES]
        plans.append((cases, at_look.level, [float(bound[0]) for bound in bounds]))
    return plans


def _ood_cases(guarantee: Guarantee, targets: Targets, share: float) -> int:
    """The fewest cases with an OOD limit that flags at least such a share on average."""

    def is_enough(cases: int) -> bool:
        return (guarantee.ood_rank(cases, targets) or -1) >= share * (cases + 1)

    return bisect_left(range(MOST_CASES), True, key=is_enough)


def _rates(
    cases: int, target: float | None, level: float, *, accepted: float = 1.0, parts: int = 1
) -> dict[str, tuple[RatePlan, ...]]:
    plans: dict[str, tuple[RatePlan, ...]] = {}
    if target is None:
        return plans
    for name, guarantee in GUARANTEES.items():
        bound = partial(guarantee.smallest_rate, level=level, accepted=accepted, parts=parts)
        rates = []
        for share in WRONG_SHARES:
            needed = _needed(share, target, bound)
            smallest = float(bound(*_assumed(share, np.array([int(accepted * cases)])))[0])
            more = None if needed is None else max(0, math.ceil(needed / accepted) - cases)
            rates.append(RatePlan(share, min(smallest, 1.0), more))
        plans[name] = tuple(rates)
    return plans


def _assumed(share: float, sizes: Sizes) -> tuple[Sizes, Sizes]:
    return np.ceil(share * sizes - 1e-9).astype(int), sizes


def _needed(share: float, target: float, bound: Rate) -> int | None:
    """The smallest number of accepted cases from which on the target holds."""
    if share >= target:
        return None
    enough = 1
    while enough < MOST_CASES and bound(*_assumed(share, np.array([enough])))[0] > target:
        enough *= 2
    if enough > MOST_CASES:
        return None
    # One more wrong case may undo it, so that larger sizes are looked at as well.
    sizes = np.arange(enough // 2, 4 * enough + 1)
    fails = np.flatnonzero(bound(*_assumed(share, sizes)) > target)
    return int(sizes[fails[-1]]) + 1 if len(fails) else int(sizes[0])
