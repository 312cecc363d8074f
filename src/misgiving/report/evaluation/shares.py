"""Shares of images with intervals, and what rests on them: risk over coverage, reliability, OOD."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from misgiving.deferral.bounds import BinomialInterval, two_sided_interval
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
    """How well an OOD score separates a set, with the 95 % interval of the AUROC."""

    auroc: float
    lower: float
    upper: float
    fpr_at_tpr95: float


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
    counted: Sequence[tuple[Mask, Mask]], groups: Groups, *, seed: int, one_of_each: bool = False
) -> list[Share]:
    """Shares of images with 95 % intervals.

    The interval is exact (Clopper-Pearson) where each image is its own group, and otherwise a
    percentile of the bootstrap over groups. A bootstrap cannot tell none or all from nearly so:
    there the interval is the exact one of as many cases as groups.

    Args:
        counted: For each share the events, and the images that are counted.
        groups: Group of each image.
        seed: Of the bootstrap.
        one_of_each: One image of each group is drawn, as when a policy is certified.
    """
    names, members, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if len(names) < len(members):
        return _resampled(counted, members, 1 / sizes[members] if one_of_each else 1.0, seed)
    counts = [(int((events & among).sum()), int(among.sum())) for events, among in counted]
    return [Share(*of, *_exact(*of)) for of in counts]


def _exact(events: int, cases: int) -> BinomialInterval:
    if not cases:
        return BinomialInterval(float("nan"), float("nan"))
    return two_sided_interval(events, cases, level=LEVEL)


def _resampled(
    counted: Sequence[tuple[Mask, Mask]],
    members: Int[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"] | float,
    seed: int,
) -> list[Share]:
    """Shares with their bootstrap intervals, given the number of each image's group."""
    columns = [of for events, among in counted for of in (events & among, among)]
    sums = np.stack([np.bincount(members, weights=weights * of) for of in columns], axis=1)

    def statistic(weights: np.ndarray) -> dict[int, np.ndarray]:
        events, cases = np.moveaxis((weights @ sums).reshape(len(weights), -1, 2), -1, 0)
        with np.errstate(invalid="ignore"):  # NaN where no image is counted
            return dict(enumerate((events / cases).T))

    replicates = _replicates(len(sums))
    drawn = bootstrap([statistic], [(np.arange(len(sums)),)], replicates=replicates, seed=seed)
    found = []
    for index in range(len(counted)):
        events, cases = (float(sums[:, 2 * index + part].sum()) for part in (0, 1))
        groups = int(np.count_nonzero(sums[:, 2 * index + 1]))
        interval: Sequence[float] = percentile_interval(drawn[index], level=1 - LEVEL)
        if events in (0, cases) or groups < 2:
            interval = _exact(groups if events else 0, groups if groups > 1 else 0)
        found.append(Share(events, cases, *interval))
    return found


def _replicates(groups: int) -> int:
    return int(np.clip(DRAWS // groups, *REPLICATES))


def risk_over_coverage(answers: Answers, *, seed: int) -> list[CurvePoint]:
    """Points that a threshold can give, evenly over coverage; the last accepts all images."""
    scores = np.where(np.isnan(answers.scores), -np.inf, answers.scores)
    descending = -np.sort(-scores)
    ranks = np.unique(np.ceil(np.linspace(1, len(scores), POINTS)).astype(int)) - 1
    thresholds = np.unique(descending[ranks])[::-1]
    accepted = [scores >= threshold for threshold in thresholds]
    errors = shares([(answers.wrong, mask) for mask in accepted], answers.groups, seed=seed)
    return [
        CurvePoint(float(threshold), error.cases / len(scores), error)
        for threshold, error in zip(thresholds, errors, strict=True)
    ]


def reliability_of(answers: Answers, *, seed: int) -> tuple[Reliability, list[Share]]:
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
    return found, shares(counted, groups, seed=seed)


def shares_of_decisions(outcomes: Outcomes, groups: Groups, *, seed: int) -> dict[str, Share]:
    """The share of each decision."""
    everything = np.ones(len(outcomes), dtype=bool)
    names = ("accept", "defer", "ood")
    found = shares([(outcomes == name, everything) for name in names], groups, seed=seed)
    return dict(zip(names, found, strict=True))


def separation(detection: Detection, name: str, *, seed: int) -> Separation:
    """AUROC of an OOD set, with its bootstrap interval over groups, and its FPR@TPR95."""
    return _separation(detection.inliers, detection.outliers[name], seed)


def _separation(inliers: ScoredImages, outliers: ScoredImages, seed: int) -> Separation:
    (inside, inside_groups), (outside, outside_groups) = map(_finite, (inliers, outliers))
    if not len(inside) or not len(outside):
        return Separation(*[float("nan")] * 4)
    scores = np.concatenate([inside, outside])
    is_outlier = np.arange(len(scores)) >= len(inside)

    def statistic(*weights: np.ndarray) -> dict[str, np.ndarray]:
        joined = np.concatenate(weights, axis=-1)
        return {"auroc": np.asarray(error_auroc(scores, is_outlier, weights=joined))}

    drawn = bootstrap(
        [statistic],
        [(inside_groups, outside_groups)],
        replicates=_replicates(len(scores)),
        seed=seed,
    )
    measured = ood_metrics(inside, outside)
    lower, upper = percentile_interval(drawn["auroc"], level=1 - LEVEL)
    return Separation(float(measured["auroc"]), lower, upper, float(measured["fpr_at_tpr95"]))


def _finite(images: ScoredImages) -> tuple[Float[np.ndarray, " _"], np.ndarray]:
    known = np.isfinite(images.scores)
    return images.scores[known], np.asarray(images.groups)[known]
