"""Before a training: what a calibration set of a given size can certify."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from misgiving.deferral.bounds import cases_for_tolerance, upper_bound
from misgiving.deferral.settings import Targets, check_known
from misgiving.deferral.thresholds import SHARE_OF_BEST
from misgiving.groups import one_per_group

WRONG_SHARES = (0.0, 0.01, 0.03, 0.05)
MOST_CASES = 100_000  # up to which enough cases are searched


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
        error: Rates of errors, if all cases are accepted.
        accepted_half: The same, if half of them are accepted.
        classes: Rates of misses of each class with a target.
        ood_cases: Cases that `max_ood_false_alarms` needs; None without that target.
    """

    targets: Targets
    images: Mapping[str, int]
    cases: Mapping[str, int]
    error: tuple[RatePlan, ...]
    accepted_half: tuple[RatePlan, ...]
    classes: Mapping[str, tuple[RatePlan, ...]]
    ood_cases: int | None

    @property
    def total(self) -> int:
        """Number of calibration cases."""
        return sum(self.cases.values())


def plan_certification(
    labels: Int[np.ndarray, " n"],
    units: Int[np.ndarray, " n"],
    classes: Sequence[str],
    targets: Targets,
) -> CertificationOutlook:
    """Compute the rates that a calibration set can certify, with the cases that `fit` draws of it.

    The error is tested at the level that the most promising threshold has, which is less than the
    whole; a policy that must try several thresholds certifies somewhat less.

    Args:
        labels: True classes as positions in `classes`.
        units: Number of the group of each image, of which one counts.
        classes: Names of the classes.
        targets: The error rates to certify.

    Raises:
        UsageError: A target is for an unknown class.
    """
    check_known(classes, class_max_miss=targets.class_max_miss)
    images, cases = (
        dict(zip(classes, np.bincount(rows, minlength=len(classes)).tolist(), strict=True))
        for rows in (labels, labels[one_per_group(units, seed=0)])
    )
    total, level = sum(cases.values()), SHARE_OF_BEST * targets.level
    rate = targets.max_ood_false_alarms
    return CertificationOutlook(
        targets=targets,
        images=images,
        cases=cases,
        error=_rates(total, targets.max_error, level),
        accepted_half=_rates(total, targets.max_error, level, accepted=0.5),
        classes={
            name: _rates(cases[name], limit, targets.level)
            for name, limit in targets.class_max_miss.items()
        },
        ood_cases=None if rate is None else cases_for_tolerance(rate=rate, level=targets.level),
    )


def _rates(
    cases: int, target: float, level: float, *, accepted: float = 1.0
) -> tuple[RatePlan, ...]:
    rates = []
    for share in WRONG_SHARES:
        smallest = _smallest(int(accepted * cases), share, level)
        needed = _needed(share, target, level)
        more = None if needed is None else max(0, math.ceil(needed / accepted) - cases)
        rates.append(RatePlan(share, smallest, 0 if smallest <= target else more))
    return tuple(rates)


def _smallest(cases: int, share: float, level: float) -> float:
    return float(upper_bound(math.ceil(share * cases - 1e-9), cases, level=level))


def _needed(share: float, target: float, level: float) -> int | None:
    """The smallest number of cases from which on the target is certified.

    >>> _needed(0.0, 0.05, 0.05), _needed(0.05, 0.05, 0.05)
    (59, None)
    """
    if share >= target:
        return None
    enough = 1
    while enough < MOST_CASES and _smallest(enough, share, level) > target:
        enough *= 2
    if enough > MOST_CASES:
        return None
    # One more wrong case may undo it, so that larger sizes are looked at as well.
    sizes: Int[np.ndarray, " sizes"] = np.arange(enough // 2, 4 * enough + 1)
    wrong = np.ceil(share * sizes - 1e-9).astype(int)
    fails = np.flatnonzero(upper_bound(wrong, sizes, level=level) > target)
    return int(sizes[fails[-1]]) + 1 if len(fails) else int(sizes[0])
