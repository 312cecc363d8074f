"""Certificate of a policy: certified thresholds, and what was observed on the calibration set."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from misgiving.calibration.apply import error_probabilities
from misgiving.checksums import sha256_of
from misgiving.deferral.bounds import (
    BinomialInterval,
    conformal_p_values,
    smallest_rate,
    two_sided_interval,
    upper_bound,
)
from misgiving.deferral.class_errors import ClassErrors, ClassOutcome, class_errors, class_outcomes
from misgiving.deferral.selection import MIN_BATCH, Selection, Threshold, fit_selection
from misgiving.deferral.settings import DecisionRule, Targets
from misgiving.deferral.thresholds import (
    RankCounts,
    ScoredCases,
    count_ranks,
    loosest_certified,
    number_reaching,
    ranks_to_test,
)
from misgiving.errors import DataError

STEPS = 1000  # in which the smallest certifiable error is searched

Scores = Float[np.ndarray, " n"]


class OperatingPoint(NamedTuple):
    """Calibration cases that a threshold accepts.

    Attributes:
        threshold: Lowest accepted score; -inf: all.
        accepted: Number of accepted cases.
        wrong: How many of these are wrong.
        coverage: Share of all calibration cases that is accepted.
        error: Share of the accepted that is wrong; None where none is accepted.
        bound: Upper bound on the error; holds for all operating points at once.
    """

    threshold: float
    accepted: int
    wrong: int
    coverage: float
    error: float | None
    bound: float


@dataclass(frozen=True, kw_only=True)
class CertifiableError:
    """Smallest target error rate that these cases certify, and the number of cases accepted.

    It is searched by halving; as numbers of cases are whole, a smaller one may be certified, too.
    """

    max_error: float
    accepted: int


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Certified thresholds, and what was observed on the calibration set.

    Attributes:
        targets: The error rates that were asked for.
        classes: Names of the classes, in the order of the labels.
        cases: Number of calibration cases.
        tuning_cases: Number of cases to which the probabilities were fitted.
        accept_threshold: Lowest accepted score; -inf: all; None: no threshold meets all targets.
            Under the average guarantee of `max_error`, each batch has its own, and this is that of
            the calibration cases.
        selection: What decides a batch under the average guarantee; None: `accept_threshold`.
        ood_threshold: Limit below which an image is out-of-distribution; None: no OOD rule.
        ood_rank: Rank of the limit among the calibration cases, lowest first; None: no OOD rule.
        ood_scores: OOD scores of the calibration cases, sorted.
        accepted: Calibration cases that are accepted.
        wrong: How many of these are wrong.
        accepted_on_average: Calibration cases that the average guarantee would accept.
        class_outcomes: One for each class with a target.
        class_errors: One for each class that has cases or is predicted, in the order of the bounds
            on missed cases, those without cases last; none where nothing is accepted.
        smallest_certifiable: Smallest certifiable error where the target is not met; None: none is.
        thresholds: Thresholds that were tested, strictest first.
        scores: Acceptance scores of the calibration cases, highest first.
        errors: For each of these scores, True where the predicted class is wrong.
        kept: For each, True where the case is acceptable and above the OOD limit: else it is never
            accepted.
        error_probabilities: Of each.
    """

    targets: Targets
    classes: tuple[str, ...]
    cases: int
    tuning_cases: int
    accept_threshold: Threshold | None
    selection: Selection | None
    ood_threshold: float | None
    ood_rank: int | None
    ood_scores: tuple[float, ...] = field(repr=False)
    accepted: int
    wrong: int
    accepted_on_average: int
    class_outcomes: tuple[ClassOutcome, ...]
    class_errors: tuple[ClassErrors, ...]
    smallest_certifiable: CertifiableError | None
    thresholds: tuple[Threshold, ...] = field(repr=False)
    scores: tuple[float, ...] = field(repr=False)
    errors: tuple[bool, ...] = field(repr=False)
    kept: tuple[bool, ...] = field(repr=False)
    error_probabilities: tuple[float, ...] = field(repr=False)

    @property
    def coverage_interval(self) -> BinomialInterval:
        """Two-sided interval of the accepted share, for the threshold as it is."""
        if not self.accepted:
            return BinomialInterval(0.0, 0.0)
        return two_sided_interval(self.accepted, self.cases, level=1 - self.targets.confidence)

    @property
    def expected_error(self) -> float | None:
        """Estimated share of wrong answers among the accepted; None where none is accepted.

        With one wrong case more than were observed, as the threshold was chosen on these cases.
        """
        return (self.wrong + 1) / (self.accepted + 1) if self.accepted else None

    @property
    def error_bound(self) -> float | None:
        """Upper bound on the error at `accept_threshold`, together with all other thresholds."""
        threshold = self.accept_threshold
        points = (point for point in self.operating_points if point.threshold == threshold)
        return next((point.bound for point in points), None)

    @property
    def operating_points(self) -> list[OperatingPoint]:
        """Every tested threshold, with bounds that hold together, with the same confidence."""
        scores, thresholds = np.array(self.scores), np.array(self.thresholds)
        kept, wrong = np.array(self.kept), np.array(self.errors)
        accepted = number_reaching(scores[kept], thresholds)
        mistaken = number_reaching(scores[kept & wrong], thresholds)
        each = (1 - self.targets.confidence) / self.num_ranks  # Bonferroni
        bounds = upper_bound(mistaken, accepted, level=each)
        columns = (values.tolist() for values in (thresholds, accepted, mistaken, bounds))
        return [
            OperatingPoint(threshold, n, k, n / len(scores), k / n if n else None, bound)
            for threshold, n, k, bound in zip(*columns, strict=True)
        ]

    @property
    def num_ranks(self) -> int:
        """Number of tested ranks, also of those without a threshold because of ties."""
        return max(1, len(ranks_to_test(sum(self.kept))))

    def decide(
        self,
        scores: Scores,
        ood_scores: Scores,
        acceptable: Bool[np.ndarray, " n"],
        threshold: float | None,
    ) -> Shaped[np.ndarray, " n"]:
        """Accept, defer or call out-of-distribution, image by image.

        Args:
            scores: Acceptance scores, as in the calibration.
            ood_scores: Higher means more in-distribution.
            acceptable: False where an image is deferred whatever its score, as in the calibration.
            threshold: Lowest accepted score; None: none is accepted.

        Returns:
            "accept", "defer" or "ood" for each image.
        """
        lowest = np.float64(np.inf if threshold is None else threshold)  # not rounded to float32
        reached = np.isfinite(scores) & (scores >= lowest)
        accepted, ood = reached & acceptable & self.above(ood_scores), np.zeros(len(scores), bool)
        if self.ood_threshold is not None:
            ood = ood_scores < self.ood_threshold
        return np.select([ood, accepted], ["ood", "accept"], "defer")

    def ood_p_values(self, ood_scores: Scores) -> Scores:
        """Conformal p-value of each image that it is in-distribution."""
        return conformal_p_values(ood_scores, np.array(self.ood_scores))

    def check_batch(self, images: int) -> None:
        """Check that so many images can be decided together.

        Raises:
            DataError: They are too few for the average guarantee.
        """
        if self.selection is not None and images < MIN_BATCH:
            raise DataError(
                "the average guarantee of `max_error` is for batches of at least "
                f"{MIN_BATCH} images, got {images}; give more at once, or calibrate with "
                "`max_silent_error` alone, which holds for each image"
            )

    def batch_threshold(
        self,
        scores: Scores,
        ood_scores: Scores,
        acceptable: Bool[np.ndarray, " n"],
        units: Int[np.ndarray, " n"] | None = None,
        *,
        seed: int,
    ) -> float | None:
        """The lowest accepted score of a whole batch, the same for any order of its images.

        One image of each group decides; without the numbers of groups, each is its own.

        Raises:
            DataError: They are too few for the average guarantee.
        """
        self.check_batch(len(scores))
        if self.selection is None or self.accept_threshold is None:
            return self.accept_threshold
        rows = np.arange(len(scores))
        if units is not None and len(np.unique(units)) < len(units):
            judged = zip(scores.tolist(), ood_scores.tolist(), acceptable.tolist(), strict=True)
            digests = [sha256_of(repr((seed, *each)).encode()) for each in judged]
            order = np.argsort(digests)  # at random, but the same for any order of the images
            rows = order[np.unique(units[order], return_index=True)[1]]
        above = self.above(ood_scores[rows])
        candidates = above & acceptable[rows] & np.isfinite(scores[rows])
        return self.selection.threshold(scores[rows][candidates], int(above.sum()))

    def above(self, ood_scores: Scores) -> Bool[np.ndarray, " n"]:
        """Mark the images above the OOD limit; without one, all."""
        if self.ood_threshold is None:
            return np.ones(len(ood_scores), dtype=bool)
        return np.asarray(np.isfinite(ood_scores) & (ood_scores > self.ood_threshold))


def mark_acceptable(
    rule: DecisionRule,
    probabilities: Float[np.ndarray, "n classes"],
    predicted: Int[np.ndarray, " n"],
) -> Bool[np.ndarray, " n"]:
    """Mark the answers that can be accepted: their error probability is not too high.

    Nor may another class have a higher probability, as by a second opinion, unless the rule weighs
    classes.
    """
    errors = error_probabilities(probabilities, predicted)
    acceptable = errors <= rule.max_error_probability
    if rule.rule in ("logits", "most_probable"):
        of_predicted = probabilities[np.arange(len(predicted)), predicted]
        acceptable &= of_predicted >= probabilities.max(axis=1)
    return np.asarray(acceptable)


def certify_thresholds(
    tuning: ScoredCases, calibration: ScoredCases, targets: Targets, *, classes: Sequence[str]
) -> Certificate:
    """Certify thresholds with the calibration set.

    Args:
        tuning: Divides `max_error` among classes, on average; not the images of the training.
        calibration: For the certification alone, one case for each group.
        targets: Error rates to certify.
        classes: Names of the classes, in the order of the labels.

    Raises:
        DataError: A set cannot be used.
    """
    for name, cases in (("tuning", tuning), ("calibration", calibration)):
        cases.check_usable(name)
    counts = count_ranks(calibration, targets, classes=classes)
    selection = fit_selection(tuning, calibration, counts, targets, classes=classes)
    lowest = selection.threshold(calibration.scores[counts.kept], counts.above)
    # the loosest tested threshold that is not below this score
    reaching = np.flatnonzero(counts.thresholds >= (math.inf if lowest is None else lowest))
    position = on_average = max(reaching.tolist(), default=-1)
    if not targets.is_average:
        position = loosest_certified(counts, targets)
    certified = position >= 0
    # Sorted, so that the order in which the cases came leaves no trace.
    keys = counts.kept, calibration.wrong, calibration.error_probabilities, -calibration.scores
    order = np.lexsort(keys)
    return Certificate(
        targets=targets,
        classes=tuple(classes),
        cases=len(calibration),
        tuning_cases=len(tuning),
        accept_threshold=float(counts.thresholds[position]) if certified else None,
        selection=selection if targets.is_average and targets.max_error else None,
        ood_threshold=counts.ood_limit,
        ood_rank=counts.ood_rank,
        ood_scores=tuple(np.sort(calibration.ood_scores).astype(float).tolist()),
        accepted=int(counts.ranks[position]) if certified else 0,
        wrong=int(counts.wrong[position]) if certified else 0,
        accepted_on_average=int(counts.ranks[on_average]) if on_average >= 0 else 0,
        class_outcomes=class_outcomes(targets, counts, position),
        class_errors=class_errors(
            calibration, counts, position, classes=classes, level=targets.level
        )
        if certified
        else (),
        smallest_certifiable=None if certified else _smallest_certifiable(targets, counts),
        thresholds=tuple(counts.thresholds[~np.isnan(counts.thresholds)].tolist()),
        scores=tuple(calibration.scores[order].astype(float).tolist()),
        errors=tuple(calibration.wrong[order].tolist()),
        kept=tuple(counts.kept[order].tolist()),
        error_probabilities=tuple(calibration.error_probabilities[order].tolist()),
    )


def _smallest_certifiable(targets: Targets, counts: RankCounts) -> CertifiableError | None:
    """Search for the smallest `max_error` in steps of 0.001, by halving."""
    if targets.max_error is None or targets.is_average:
        return None
    low, high, smallest = math.floor(targets.max_error * STEPS), STEPS, None
    while high - low > 1:
        middle = (low + high) // 2
        position = loosest_certified(counts, replace(targets, max_error=middle / STEPS))
        if position < 0:
            low = middle
        else:
            high, accepted = middle, int(counts.ranks[position])
            smallest = CertifiableError(max_error=middle / STEPS, accepted=accepted)
    return smallest


MOST_CASES = 100_000  # up to which enough cases are searched
SHARE_OF_RANK = 0.5  # of the level, that the test of a promising rank has
PRIOR_WRONG = 0.5  # wrong cases more than observed, as one among 100 ranks is chosen
Remedy = Literal["fewest_cases", "more_cases", "higher_target", "better_model", "average_guarantee"]


def find_remedies(certificate: Certificate) -> dict[Remedy, int | float]:
    """Numbers of the remedies that apply; none where a threshold is certified.

    These are further cases, if as many of them are wrong as of these, and a likelier number; the
    error among the most confident half, where it is not below `max_error`; the smallest certifiable
    error; and the number of cases that the average guarantee accepts.
    """
    if certificate.accept_threshold is not None:
        return {}
    targets, smallest = certificate.targets, certificate.smallest_certifiable
    errors = [(abs(at.coverage - 0.5), at.error or 0.0) for at in certificate.operating_points]
    _, of_half = min(errors, default=(0.0, 0.0))
    numbers: dict[Remedy, int | float | None] = {
        "fewest_cases": _more_cases(certificate, prior=0.0),
        "more_cases": _more_cases(certificate, prior=PRIOR_WRONG),
        "better_model": of_half if of_half >= (targets.max_error or 1.0) else None,
        "higher_target": None if smallest is None else smallest.max_error,
        "average_guarantee": None if targets.is_average else certificate.accepted_on_average,
    }
    return {remedy: number for remedy, number in numbers.items() if number}


def _more_cases(certificate: Certificate, *, prior: float) -> int | None:
    """The fewest further cases with which some threshold would be certified, if any number does."""
    targets, fewest = certificate.targets, []
    rate = partial(smallest_rate, guarantee=targets.guarantee)
    level_of_error = SHARE_OF_RANK * targets.level_of_error
    sizes = np.unique(np.geomspace(certificate.cases, MOST_CASES, 400).astype(int))
    for point in certificate.operating_points:
        accepted = point.coverage * sizes
        wrong = accepted * (point.wrong + prior) / (point.accepted + prior)
        silent = sizes * point.wrong / certificate.cases
        error = rate(
            wrong, accepted, level=level_of_error, accepted=point.coverage, parts=targets.parts
        )
        silent_error = rate(silent, sizes, level=targets.level_of_misses)
        meets = error <= (targets.max_error or 1.0)
        meets &= silent_error <= (targets.max_silent_error or 1.0)
        fewest += sizes[meets][:1].tolist()
    return min(fewest) - certificate.cases if fewest else None
