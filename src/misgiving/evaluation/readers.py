"""People who read the images: each alone, their agreement, and the team of each with a policy."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.special import softmax

from misgiving.arrays import Classes, Mask, Probabilities, Replicates, Values, Weights
from misgiving.deferral.bounds import upper_bound
from misgiving.deferral.decisions import Decisions
from misgiving.deferral.deferral import Deferral
from misgiving.errors import DataError, Parameter, UsageError
from misgiving.evaluation.measures import Measurement
from misgiving.evaluation.shares import Estimate, Share, estimate, shares
from misgiving.groups import one_per_group
from misgiving.metrics.classification import krippendorff_alpha
from misgiving.predictions.cells import UNKNOWN_CLASS
from misgiving.predictions.record import Predictions

TUNING = ("tune", "calibrate")
DEFERRED_SHARES = np.arange(41) / 40  # shares of the images that the reader answers
PRIOR = 1.0  # answers, spread evenly, that are added to those for each class

Column = Shaped[np.ndarray, "_ ..."]
Read = tuple[Column, Column, Column, Column, Column]
"""Labels, a reader's answers, and of the model answers, probabilities and scores.

At the level of the policy's answers: these are superclasses, or else classes.
"""


class Team(NamedTuple):
    """A reader alone and with the model, on images that nothing was chosen on.

    The reader answers a share of the images, those with the lowest acceptance scores: alone
    (deferral), or both together (combination).

    Attributes:
        reader: Name.
        tuned: Number of images on which shares were chosen and the combination was fitted.
        confusion: Images by true class (row) and answer.
        curves: Right answers of `deferral` and `combination`, for each share in `DEFERRED_SHARES`.
        best: The share of each that was best on the tuning images.
        accuracy: Right answers of `model` and `reader` alone, of `deferral` and `combination` at
            their best shares, and of `policy`: the model where it accepts, else the reader.
        costs: Mean cost of each; empty where the policy has no costs.
        deferred: Share that the policy leaves to the reader.
        bound: Wrong answers of `policy` for one image of each group; `upper` is exact, one-sided
            and has the policy's confidence.
    """

    reader: str
    tuned: int
    confusion: Int[np.ndarray, "true answer"]
    curves: Mapping[str, Sequence[Share]]
    best: Mapping[str, float]
    accuracy: Mapping[str, Share]
    costs: Mapping[str, Estimate]
    deferred: float
    bound: Share


class Readers(NamedTuple):
    """The team of each reader, and Krippendorff's alpha; None where no image has two answers."""

    teams: Sequence[Team]
    agreement: Estimate | None

    def measurements(self, dataset: str) -> list[Measurement]:
        """Rows of the results; the detector is `readers`, or `reader/NAME`."""
        rows = [("readers", "krippendorff_alpha", self.agreement.value)] if self.agreement else []
        for team in self.teams:
            values = {f"accuracy/{way}": right.value for way, right in team.accuracy.items()}
            values |= {f"cost/{way}": cost.value for way, cost in team.costs.items()}
            values |= {f"best_share/{way}": share for way, share in team.best.items()}
            values["error_bound/policy"] = team.bound.upper
            rows += [(f"reader/{team.reader}", *row) for row in values.items()]
        return [Measurement(dataset, *row) for row in rows]


def measure_readers(
    tuning: Predictions,
    measured: Predictions,
    decisions: Decisions | None,
    deferral: Deferral | None,
) -> Readers:
    """Measure each reader, and their agreement.

    Args:
        tuning: Images on which shares are chosen and combinations fitted.
        measured: Images to measure; those in groups of `tuning` are left out.
        decisions: Of the policy on `measured`.
        deferral: The policy.

    Raises:
        UsageError: There is no policy, or no reader.
        DataError: A reader gave no answer for tuning, or none to measure.
    """
    if deferral is None or decisions is None or not measured.readers:
        raise UsageError(
            Parameter("readers"), " needs a policy, and columns reader_NAME of the predictions"
        )
    tuning = tuning.select(np.flatnonzero(tuning.labels != UNKNOWN_CLASS))
    sides = [(tuning, deferral.policy_.score(tuning.outputs)), (measured, decisions)]
    groups = {*tuning.groups} - {""}
    used = np.isin(measured.ids, tuning.ids) | np.isin(measured.groups, [*groups])
    teams, level = [], deferral.calibration_
    for name, given in measured.readers.items():
        answers = [tuning.readers[name], np.where(used, UNKNOWN_CLASS, given)]
        rows = [np.flatnonzero(column != UNKNOWN_CLASS) for column in answers]
        if not all(map(len, rows)):
            raise DataError(
                f"column reader_{name}: {len(rows[0])} answers for labelled images of the sets "
                f"{' and '.join(TUNING)}, and {len(rows[1])} for others to measure; give both"
            )
        read = [
            (
                level.answers_of(side.labels[at]),
                level.answers_of(a[at]),
                level.answers_of(x.predicted[at]),
                level.sums(x.probabilities[at]),
                x.acceptance_score[at],
            )
            for (side, x), a, at in zip(sides, answers, rows, strict=True)
        ]
        accepted = decisions.decisions[rows[1]] == "accept"
        teams.append(_measure_team(name, read, accepted, measured.units[rows[1]], deferral))
    everyone, alpha = np.stack([*measured.readers.values()]), None
    if ((everyone != UNKNOWN_CLASS).sum(axis=0) > 1).any():
        statistic = partial(krippendorff_alpha, everyone, len(measured.classes))
        alpha = estimate(statistic, (measured.units,), seed=deferral.seed)
    return Readers(teams, alpha)


def _measure_team(
    name: str, read: Sequence[Read], accepted: Mask, units: Classes, deferral: Deferral
) -> Team:
    """Measure the team of a reader; the first of `read` is for tuning."""
    classes, weights = deferral.certificate_.answers, deferral.calibration_.weights or 1.0
    confusions = [confusion_of(*side[:2], num_classes=len(classes)) for side in read]
    likelihood = fit_likelihood(confusions[0])
    tuned, teams = (_wrong_by_share(side, likelihood, weights) for side in read)
    costs = np.array([(deferral.costs or {}).get(each, 1.0) for each in classes])
    of_tuning, lost = (costs[labels] for labels, *_ in read)
    best = {way: int((wrong @ of_tuning).argmin()) for way, wrong in tuned.items()}
    model, *_, reader = teams["deferral"]  # of which one has no image, and one has all
    ways = {"model": model, "reader": reader} | {way: teams[way][at] for way, at in best.items()}
    ways["policy"] = np.where(accepted, model, reader)
    single = ways["policy"][one_per_group(units, seed=deferral.seed)]
    upper = upper_bound(single.sum(), len(single), level=1 - deferral.confidence)
    return Team(
        reader=name,
        tuned=len(of_tuning),
        confusion=confusions[1],
        curves={way: _right(wrong, units) for way, wrong in teams.items()},
        best={way: float(DEFERRED_SHARES[at]) for way, at in best.items()},
        accuracy=dict(zip(ways, _right(ways.values(), units), strict=True)),
        costs={
            way: estimate(partial(_mean, wrong * lost), (units,), seed=deferral.seed)
            for way, wrong in ways.items()
            if deferral.costs
        },
        deferred=float(1 - accepted.mean()),
        bound=Share(float(single.sum()), len(single), 0.0, float(upper)),
    )


def confusion_of(
    labels: Classes, answers: Classes, *, num_classes: int
) -> Int[np.ndarray, "true answer"]:
    """Images by true class (row) and answer."""
    cells = np.bincount(labels * num_classes + answers, minlength=num_classes**2)
    return cells.reshape(num_classes, -1)


def fit_likelihood(confusion: Int[np.ndarray, "true answer"]) -> Float[np.ndarray, "true answer"]:
    """Probability of each answer of a reader given the class, by a Dirichlet prior.

    >>> fit_likelihood(np.array([[2, 1], [0, 0]]))
    array([[0.625, 0.375],
           [0.5  , 0.5  ]])
    """
    counts = confusion + PRIOR / len(confusion)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def combine(
    probabilities: Probabilities, answers: Classes, likelihood: Float[np.ndarray, "true answer"]
) -> Probabilities:
    """Probability of each class given the outputs of a model and the answers of a reader.

    Proportional to the model's probability times that of the answer given the class: their errors
    are taken to be independent given the class (Kerrigan, Smyth and Steyvers, 2021).
    """
    logarithms = np.log(np.maximum(probabilities, np.finfo(float).tiny))
    return np.asarray(softmax(logarithms + np.log(likelihood[:, answers]).T, axis=1))


def _wrong_by_share(
    read: Read, likelihood: Float[np.ndarray, "true answer"], weights: Sequence[float] | float
) -> dict[str, Bool[np.ndarray, "shares n"]]:
    """Wrong answers of both teams for each share of the images that the reader answers.

    Combined, the class with the largest probability times the policy's weight is predicted.
    """
    labels, answers, predicted, probabilities, scores = read
    combined = (combine(probabilities, answers, likelihood) * np.array(weights)).argmax(axis=1)
    ranks = np.argsort(np.argsort(np.nan_to_num(scores, nan=-np.inf), kind="stable"))
    is_deferred = ranks < np.round(DEFERRED_SHARES * len(scores))[:, None]
    given = {"deferral": answers, "combination": combined}
    return {way: np.where(is_deferred, x, predicted) != labels for way, x in given.items()}


def _right(masks: Iterable[Mask], units: Classes) -> list[Share]:
    return shares(((~wrong, np.ones_like(wrong)) for wrong in masks), units)


def _mean(values: Values, weights: Weights) -> Replicates:
    return np.asarray(weights @ values / weights.sum(axis=-1))
