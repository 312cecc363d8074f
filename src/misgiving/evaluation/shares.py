"""Shares of images with intervals, and what rests on them: risk over coverage, reliability, OOD."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from misgiving.arrays import Groups, Mask, Names, Values
from misgiving.deferral.bounds import two_sided_interval
from misgiving.metrics.calibration import Reliability, reliability
from misgiving.metrics.loss_estimation import error_auroc
from misgiving.metrics.ood import ood_metrics
from misgiving.metrics.uncertainty import bootstrap, percentile_interval

INTERVAL_LEVEL = 0.05
MAX_DRAWS = 10**8  # of groups; a large set, whose intervals are narrow, has fewer replicates
REPLICATES = 100, 1000
CURVE_POINTS = 40
RELIABILITY_BINS = 10


class Share(NamedTuple):
    """Events among images, and the 95 % interval of their share; NaN where there is none.

    Numbers of events and cases, or their means where one image of each group is drawn.
    """

    events: float
    cases: float
    lower: float
    upper: float

    @property
    def value(self) -> float:
        """The share; NaN without any image."""
        return self.events / self.cases if self.cases else float("nan")


class CurvePoint(NamedTuple):
    """The images that score at least `threshold`."""

    threshold: float
    coverage: float
    error: Share


class Estimate(NamedTuple):
    """A value, and its 95 % interval by the bootstrap over groups; NaN where there is none."""

    value: float
    lower: float
    upper: float


class OodResult(NamedTuple):
    """An OOD set: scores, separation by them, and shares of the policy's decisions, if any."""

    scores: Float[np.ndarray, " _"]
    auroc: Estimate
    fpr_at_tpr95: float
    decided: Mapping[str, Share]


def estimate(
    statistic: Callable[..., Any],
    units: tuple[Shaped[np.ndarray, " _"], ...],
    *,
    seed: int,
    replicates: int = 1000,
) -> Estimate:
    """Estimate a statistic, a function of the weights of each set, whose groups are `units`."""
    drawn = bootstrap(
        [lambda *weights: {"": statistic(*weights)}], [units], replicates=replicates, seed=seed
    )
    value = statistic(*(np.ones(len(side)) for side in units))
    return Estimate(float(value), *percentile_interval(drawn[""], level=1 - INTERVAL_LEVEL))


def shares(
    counted: Iterable[tuple[Mask, Mask]], units: Groups, *, one_of_each: bool = False
) -> list[Share]:
    """Shares of images with 95 % intervals, by the method of Korn and Graubard (1998).

    That is the exact interval (Clopper-Pearson) of as many independent cases as would leave the
    share as uncertain as it is over groups: of all images where each is its own group.

    Args:
        counted: For each share the events, and the images that are counted.
        units: Group of each image.
        one_of_each: One image of each group is drawn, as when a policy is certified.
    """
    _, members, sizes = np.unique(np.asarray(units), return_inverse=True, return_counts=True)
    weights = 1 / sizes[members] if one_of_each else np.ones(len(members))

    def per_group(mask: Mask) -> Float[np.ndarray, " groups"]:
        return np.bincount(members, weights=weights * mask)

    return [_share(per_group(events & among), per_group(among)) for events, among in counted]


def _share(events: Float[np.ndarray, " groups"], cases: Float[np.ndarray, " groups"]) -> Share:
    share = Share(float(events.sum()), float(cases.sum()), float("nan"), float("nan"))
    groups = np.count_nonzero(cases)
    if not groups or (groups == 1 and share.cases > 1):
        return share
    independent = _independent_cases(events, cases)
    ends = two_sided_interval(share.value * independent, independent, level=INTERVAL_LEVEL)
    return share._replace(lower=ends.lower, upper=ends.upper)


def _independent_cases(
    events: Float[np.ndarray, " groups"], cases: Float[np.ndarray, " groups"]
) -> float:
    """Number of independent cases that would leave a share as uncertain as it is over groups.

    It is the number of cases over the design effect, which is the variance of the ratio, linearised
    over groups, times cases / (share (1 - share)). It is at most the number of groups: from a few
    events the variance cannot be told, and images of a group are rarely independent.
    """
    total = cases.sum()
    share = events.sum() / total
    most = max(1.0, min(float(total), float(np.count_nonzero(cases))))
    squares = ((events - share * cases) ** 2).sum()  # variance of the ratio times total ** 2
    if not squares:
        return most
    return float(np.clip(share * (1 - share) * total**2 / squares, 1.0, most))


def risk_over_coverage(scores: Values, wrong: Mask, units: Groups) -> list[CurvePoint]:
    """Points that a threshold can give, evenly over coverage; the last accepts all images.

    Args:
        scores: Acceptance scores; higher means more likely correct; NaN: accepted last.
        wrong: True where the predicted class is wrong.
        units: Group of each image.
    """
    scores = np.where(np.isnan(scores), -np.inf, scores)
    descending = -np.sort(-scores)
    ranks = np.unique(np.ceil(np.linspace(1, len(scores), CURVE_POINTS)).astype(int)) - 1
    thresholds = np.unique(descending[ranks])[::-1]
    errors = shares(((wrong, scores >= threshold) for threshold in thresholds), units)
    return [
        CurvePoint(float(threshold), error.cases / len(scores), error)
        for threshold, error in zip(thresholds, errors, strict=True)
    ]


def reliability_with_intervals(
    probabilities: Values, wrong: Mask, units: Groups
) -> tuple[Reliability, list[Share]]:
    """Mean probability of the predicted class, and how often it is right, in bins of equal mass.

    Images whose probability is not finite are left out.
    """
    finite = np.isfinite(probabilities)
    right = ~wrong[finite]
    bins = reliability(probabilities[finite], right, bins=RELIABILITY_BINS)
    bin_of: Int[np.ndarray, " n"] = np.empty(len(right), dtype=int)
    order = np.argsort(probabilities[finite], kind="stable")
    bin_of[order] = np.repeat(np.arange(len(bins.counts)), bins.counts)
    counted = ((right, bin_of == number) for number in range(len(bins.counts)))
    return bins, shares(counted, np.asarray(units)[finite])


def shares_of_decisions(outcomes: Names, units: Groups) -> dict[str, Share]:
    """The share of each decision: `accept`, `defer` and `ood`."""
    everything = np.ones(len(outcomes), dtype=bool)
    names = ("accept", "defer", "ood")
    values = shares(((outcomes == name, everything) for name in names), units)
    return dict(zip(names, values, strict=True))


def separation(
    scores: tuple[Float[np.ndarray, " n_in"], Float[np.ndarray, " n_out"]],
    units: tuple[Shaped[np.ndarray, " n_in"], Shaped[np.ndarray, " n_out"]],
    *,
    seed: int,
) -> tuple[Estimate, float]:
    """AUROC of an OOD set, and its FPR@TPR95.

    The AUROC has no interval with one group on a side, and where the bootstrap finds no variation.

    Args:
        scores: OOD scores of in-distribution and of OOD images; those not finite are left out.
        units: Groups of the same images.
        seed: Of the bootstrap.
    """
    finite = [np.isfinite(side) for side in scores]
    inside, outside = (side[mask] for side, mask in zip(scores, finite, strict=True))
    nothing = float("nan")
    if not len(inside) or not len(outside):
        return Estimate(nothing, nothing, nothing), nothing
    measured = ood_metrics(inside, outside)
    auroc = Estimate(float(measured["auroc"]), nothing, nothing)
    sides = tuple(side[mask] for side, mask in zip(units, finite, strict=True))
    if min(len(np.unique(side)) for side in sides) > 1:
        joined = np.concatenate([inside, outside])
        is_outlier = np.arange(len(joined)) >= len(inside)
        drawn = estimate(
            lambda *both: error_auroc(joined, is_outlier, weights=np.concatenate(both, axis=-1)),
            sides,
            seed=seed,
            replicates=int(np.clip(MAX_DRAWS // len(joined), *REPLICATES)),
        )
        if drawn.lower < drawn.upper:
            auroc = drawn._replace(value=auroc.value)
    return auroc, float(measured["fpr_at_tpr95"])
