"""Shares of images with intervals, and what rests on them: risk over coverage, reliability, OOD."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from misgiving.deferral.bounds import two_sided_interval
from misgiving.metrics.bootstrap import bootstrap, percentile_interval
from misgiving.metrics.calibration import Reliability, reliability
from misgiving.metrics.loss_estimation import error_auroc
from misgiving.metrics.ood import ood_metrics
from misgiving.report.evaluation import Answers, Detection, Outcomes, ScoredImages

LEVEL = 0.05
DRAWS = 10**8  # of groups; a large set, whose intervals are narrow, has fewer replicates
REPLICATES = 100, 1000
POINTS = 40  # of the curve of risk over coverage
BINS = 10
Mask = Bool[np.ndarray, " n"]
Groups = Sequence[str] | Shaped[np.ndarray, " n"]
PerGroup = Float[np.ndarray, " groups"]


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

    def __str__(self) -> str:
        if not self.cases:
            return "not defined"
        if np.isnan(self.lower):
            return f"{percent(self.value)} (no interval: one group)"
        return (
            f"{percent(self.value)} (95 % interval {percent(self.lower)} to {percent(self.upper)})"
        )


class CurvePoint(NamedTuple):
    """The images that score at least `threshold`."""

    threshold: float
    coverage: float
    error: Share


class Separation(NamedTuple):
    """Separation of a set by an OOD score: AUROC with its 95 % interval, and FPR@TPR95.

    The interval is NaN with one group on a side, and where the bootstrap finds no variation.
    """

    auroc: float
    lower: float
    upper: float
    fpr_at_tpr95: float

    def __str__(self) -> str:
        if np.isnan(self.auroc):
            return "no score is finite"
        if np.isnan(self.lower):
            return f"AUROC {self.auroc:.3f} (no interval can be given)"
        return f"AUROC {self.auroc:.3f} (95 % interval {self.lower:.3f} to {self.upper:.3f})"


def percent(share: float) -> str:
    """Percentage with one digit after the point; only a share of 0 or 1 is 0 % or 100 %.

    >>> percent(0.8125), percent(1.0), percent(0.9999), percent(0.0001)
    ('81.2 %', '100 %', 'above 99.9 %', 'below 0.1 %')
    """
    if share in (0.0, 1.0):
        return f"{100 * share:.0f} %"
    if share > 0.9995:
        return "above 99.9 %"
    return "below 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"


def shares(
    counted: Sequence[tuple[Mask, Mask]], groups: Groups, *, one_of_each: bool = False
) -> list[Share]:
    """Shares of images with 95 % intervals, by the method of Korn and Graubard (1998).

    That is the exact interval (Clopper-Pearson) of as many independent cases as would leave the
    share as uncertain as it is over groups: of all images where each is its own group.

    Args:
        counted: For each share the events, and the images that are counted.
        groups: Group of each image.
        one_of_each: One image of each group is drawn, as when a policy is certified.
    """
    _, members, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    weights = 1 / sizes[members] if one_of_each else np.ones(len(members))

    def per_group(mask: Mask) -> PerGroup:
        return np.bincount(members, weights=weights * mask)

    return [_share(per_group(events & among), per_group(among)) for events, among in counted]


def _share(events: PerGroup, cases: PerGroup) -> Share:
    found = Share(float(events.sum()), float(cases.sum()), float("nan"), float("nan"))
    groups = np.count_nonzero(cases)
    if not groups or (groups == 1 and found.cases > 1):
        return found
    independent = _independent_cases(events, cases)
    ends = two_sided_interval(found.value * independent, independent, level=LEVEL)
    return found._replace(lower=ends.lower, upper=ends.upper)


def _independent_cases(events: PerGroup, cases: PerGroup) -> float:
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


def _replicates(groups: int) -> int:
    return int(np.clip(DRAWS // groups, *REPLICATES))


def risk_over_coverage(answers: Answers) -> list[CurvePoint]:
    """Points that a threshold can give, evenly over coverage; the last accepts all images."""
    scores = np.where(np.isnan(answers.scores), -np.inf, answers.scores)
    descending = -np.sort(-scores)
    ranks = np.unique(np.ceil(np.linspace(1, len(scores), POINTS)).astype(int)) - 1
    thresholds = np.unique(descending[ranks])[::-1]
    accepted = [scores >= threshold for threshold in thresholds]
    errors = shares([(answers.wrong, mask) for mask in accepted], answers.groups)
    return [
        CurvePoint(float(threshold), error.cases / len(scores), error)
        for threshold, error in zip(thresholds, errors, strict=True)
    ]


def reliability_of(answers: Answers) -> tuple[Reliability, list[Share]]:
    """Mean probability of the named class, and how often it is right, in bins of equal mass."""
    known = np.isfinite(answers.probabilities)
    probabilities, right = answers.probabilities[known], ~answers.wrong[known]
    found = reliability(probabilities, right, bins=BINS)
    bins = np.empty(len(probabilities), dtype=int)
    bins[np.argsort(probabilities, kind="stable")] = np.repeat(
        np.arange(len(found.counts)), found.counts
    )
    groups = answers.groups[known]
    counted = [(right, bins == number) for number in range(len(found.counts))]
    return found, shares(counted, groups)


def shares_of_decisions(outcomes: Outcomes, groups: Groups) -> dict[str, Share]:
    """The share of each decision."""
    everything = np.ones(len(outcomes), dtype=bool)
    names = ("accept", "defer", "ood")
    found = shares([(outcomes == name, everything) for name in names], groups)
    return dict(zip(names, found, strict=True))


def separation(detection: Detection, name: str, *, seed: int) -> Separation:
    """AUROC of an OOD set, with its bootstrap interval over groups, and its FPR@TPR95."""
    sets = detection.inliers, detection.outliers[name]
    (inside, inside_groups), (outside, outside_groups) = map(_finite, sets)
    if not len(inside) or not len(outside):
        return Separation(*[float("nan")] * 4)
    measured = ood_metrics(inside, outside)
    auroc, fpr = float(measured["auroc"]), float(measured["fpr_at_tpr95"])
    sides = inside_groups, outside_groups
    if min(len(np.unique(groups)) for groups in sides) < 2:
        return Separation(auroc, float("nan"), float("nan"), fpr)
    scores = np.concatenate([inside, outside])
    is_outlier = np.arange(len(scores)) >= len(inside)

    def statistic(*weights: np.ndarray) -> dict[str, np.ndarray]:
        joined = np.concatenate(weights, axis=-1)
        return {"auroc": np.asarray(error_auroc(scores, is_outlier, weights=joined))}

    drawn = bootstrap([statistic], [sides], replicates=_replicates(len(scores)), seed=seed)
    lower, upper = percentile_interval(drawn["auroc"], level=1 - LEVEL)
    if lower == upper:
        lower = upper = float("nan")
    return Separation(auroc, lower, upper, fpr)


def _finite(images: ScoredImages) -> tuple[Float[np.ndarray, " _"], np.ndarray]:
    known = np.isfinite(images.scores)
    return images.scores[known], np.asarray(images.groups)[known]
