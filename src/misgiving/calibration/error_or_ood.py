"""One score for wrong answers and OOD images together, where both go to the same reviewer.

Softmax information retaining combination (SIRC; Xia and Bouganis, ACCV 2022). A primary score s1
tells right from wrong answers and is at most s1_max; a secondary score s2 tells OOD images:

    C(s1, s2) = -(s1_max - s1) (1 + exp(-b (s2 - a))),   a = mean - 3 sd,   b = 1 / sd

with mean and standard deviation of s2 over in-distribution images. Where s2 is ordinary the factor
is about 1 and C orders as s1 does; far below a the doubt grows by a factor of e for each standard
deviation. Scores with short tails, as distances of unit vectors have, hardly reach the paper's a
even for OOD images, so a may also be fewer standard deviations below the mean. The score is
-log(-C), in the same order without overflow: higher means more likely right *and* in-distribution.

A primary score without an upper bound becomes a probability first, by Platt scaling on the tuning
set, which leaves its order as it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from misgiving.calibration.apply import Scores, Values, refuse_unusable
from misgiving.calibration.platt import PlattScaling, fit_platt
from misgiving.errors import DataError
from misgiving.metrics.mixed import mixed_aurc
from misgiving.metrics.selective import aurc

ERROR_OR_OOD, ACCEPTANCE = "error_or_ood", "acceptance_score"
"""Names of the combined score, and of the score that a policy accepts by."""

MSP = "msp"
PRIMARIES = (ACCEPTANCE, MSP)
FEATURE_NORM = "feature_norm"
SECONDARIES = ("knn_taps", "vim", "knn", "energy", "max_logit", FEATURE_NORM)
MOST_COST = 0.01
DEVIATIONS = (0.0, 1.0, 2.0, 3.0)  # from a to the mean, strongest first; the paper's is 3
LEAST_DOUBT = 2.0**-54  # half the distance between 1 and the largest number below it

Wrong = Bool[np.ndarray, " n"]
OutlierScores = Mapping[str, Float[np.ndarray, " n_out"]]


@dataclass(frozen=True, kw_only=True)
class ErrorOrOod:
    """SIRC of two scores, fitted on a tuning set; higher: more likely right and in-distribution.

    Attributes:
        primary: Name of the score that tells errors.
        secondary: Name of the score that tells OOD images; None: the primary one is used alone.
        scaling: From the primary score to the probability of a right answer; None for a score that
            is itself a probability (MSP). Either way s1_max is 1.
        a: Value of the secondary score below which it adds doubt.
        b: Slope of the added doubt.
    """

    primary: str
    secondary: str | None
    scaling: PlattScaling | None
    a: float
    b: float

    @property
    def names(self) -> str:
        """The two scores in words."""
        return f"{self.primary} and {self.secondary}" if self.secondary else f"{self.primary} alone"

    def __call__(self, scores: Scores) -> Values:
        """The combined score of these images.

        Raises:
            DataError: One of the two scores is missing.
        """
        names = [name for name in (self.primary, self.secondary) if name is not None]
        if missing := [name for name in names if name not in scores]:
            raise DataError(f"the scores {', '.join(missing)} are missing; predict again")
        doubt = self._log_doubt(scores[self.primary].astype(np.float64))
        if self.secondary is None:
            return -doubt
        return -(doubt + np.logaddexp(0.0, -self.b * (scores[self.secondary] - self.a)))

    def _log_doubt(self, primary: Values) -> Values:
        """Logarithm of s1_max - s1."""
        if self.scaling is None:
            return np.asarray(np.log((1 - primary).clip(min=LEAST_DOUBT)))
        return self.scaling.log_errors(primary)


def error_or_ood(
    scores: Scores,
    wrong: Wrong,
    *,
    outliers: OutlierScores | None = None,
    ood_share: float = 0.5,
    primaries: Sequence[str] = PRIMARIES,
    secondaries: Sequence[str] = SECONDARIES,
    most_cost: float = MOST_COST,
) -> ErrorOrOod:
    """Fit the combination on an in-distribution tuning set, and choose its two scores and its a.

    Without OOD images the gain cannot be seen, only the cost: the rise of the AURC. The primary
    score is the one with the lowest AURC. The secondary score is the first of `secondaries` that
    costs at most `most_cost`, and a the highest with which it does; if all cost more, the primary
    score is used alone. With OOD images all three are those of the lowest `mixed_aurc`.

    Args:
        scores: Scores of the tuning set by name; an acceptance score that was learned on these
            images must be cross-fitted.
        wrong: True where the answer is wrong.
        outliers: The same scores of OOD images for tuning, on which nothing is measured later.
        ood_share: Where there are OOD images for tuning, the share of them to expect in use.
        primaries: Names of scores that tell errors.
        secondaries: Names of scores that tell OOD images, in the order of preference.
        most_cost: Highest rise of the AURC on the tuning set.

    Raises:
        DataError: There is no primary score, there are too few images, or a score is not finite.

    >>> tuning = {"msp": np.array([0.6, 0.7, 0.8, 0.9]), "knn": np.array([-2.0, -1.0, -1.0, 0.0])}
    >>> combined = error_or_ood(tuning, np.array([True, False, False, False]))
    >>> combined.names
    'msp and knn'
    >>> combined({"msp": np.array([0.9, 0.9]), "knn": np.array([0.0, -9.0])}).round(1)
    array([ 2.1, -9. ])
    """
    known = {
        name: scores[name].astype(np.float64)
        for name in dict.fromkeys([*primaries, *secondaries])
        if name in scores and (outliers is None or name in outliers)
    }
    if not any(name in known for name in primaries):
        raise DataError(f"give one of the scores {', '.join(primaries)}, which tell errors")
    refuse_unusable(known)
    candidates = [
        one
        for primary in primaries
        if primary in known
        for one in _candidates(known, wrong, primary, secondaries)
    ]
    if outliers is not None:
        tried = [
            mixed_aurc(one(known), wrong, one(outliers), ood_share=ood_share) for one in candidates
        ]
        return candidates[int(np.argmin(tried))]
    costs = [float(aurc(one(known), wrong)) for one in candidates]
    alone = [number for number, one in enumerate(candidates) if one.secondary is None]
    best = min(alone, key=lambda number: costs[number])
    affordable = (
        one
        for one, cost in zip(candidates, costs, strict=True)
        if one.secondary is not None
        and one.primary == candidates[best].primary
        and cost <= costs[best] + most_cost
    )
    return next(affordable, candidates[best])


def _candidates(
    scores: Scores, wrong: Wrong, primary: str, secondaries: Sequence[str]
) -> Iterator[ErrorOrOod]:
    """A primary score alone, and with each secondary score, of which the strongest comes first."""
    scaling = None if primary == MSP else fit_platt(scores[primary], wrong)
    alone = ErrorOrOod(primary=primary, secondary=None, scaling=scaling, a=0.0, b=0.0)
    yield alone
    for name in (name for name in secondaries if name in scores and name != primary):
        mean, deviation = float(scores[name].mean()), float(scores[name].std())
        if deviation > 0:  # a score that is the same for all images tells nothing
            for below in DEVIATIONS:
                yield replace(alone, secondary=name, a=mean - below * deviation, b=1 / deviation)
