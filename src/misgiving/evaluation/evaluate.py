"""Measure predictions, and the decisions of a policy on the images that it was not fitted on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from misgiving.arrays import Classes, Mask, Values
from misgiving.csv_tables import write_csv
from misgiving.deferral.decisions import Decisions
from misgiving.deferral.deferral import Deferral
from misgiving.errors import DataError, Parameter, UsageError
from misgiving.evaluation.measures import (
    POLICY_SET,
    Measurement,
    measure_calibration,
    measure_classification,
    measure_detection,
    measure_failures,
    measure_loss_estimation,
    measure_shares,
    measured_sets,
    measurements_of,
)
from misgiving.evaluation.readers import TUNING, Readers, measure_readers
from misgiving.evaluation.shares import (
    CurvePoint,
    OodResult,
    Share,
    risk_over_coverage,
    separation,
    shares,
    shares_of_decisions,
)
from misgiving.evaluation.subgroups import Harm, Subgroup, harms_of
from misgiving.metrics.selective import RiskCoverage, accepted_errors
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import WITHOUT_FEATURES, all_scores

RESERVED_NAMES = (POLICY_SET, "test", "validation", "held_out", "predictions")
"""Names, in results, of rows that are of no OOD set."""

HINDSIGHT_ERRORS = (0.05, 0.1, 0.2)
REPORT, MEASUREMENTS = "report.html", "measurements.csv"
EVALUATION_FILES = (
    *("predictions.npz", "skipped.csv", "decisions.csv", "subgroups.csv"),
    *(REPORT, MEASUREMENTS),
)
"""In the order in which those of an earlier evaluation are removed."""


class Note(NamedTuple):
    """A fact about the images that a reader of the numbers must know.

    Attributes:
        code: `measured`: `rows` of `total` rows, of the set `set` (empty: all that the model was
            not trained on); `trained_on`: the numbers are optimistic, because the model was trained
            on these images; `fitted_on_left_out`: the policy was fitted on `used` of `total`
            images, and on others of the groups of `related`, which its decisions leave out;
            `fitted_on`: they do not, so that they are optimistic.
        values: The numbers and names of the code.
    """

    code: Literal["measured", "trained_on", "fitted_on_left_out", "fitted_on"]
    values: Mapping[str, Any]

    @property
    def is_warning(self) -> bool:
        """True where numbers are optimistic."""
        return self.code in ("trained_on", "fitted_on")


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Evaluation:
    """Numbers of an evaluation.

    Attributes:
        predictions: All measured images.
        judged: Rows of `predictions` that figures and findings are about: with a policy those that
            it was not fitted on, unless there are no others.
        dataset: Name of the measured set in the measurements.
        deferral: The policy; None: there is none.
        decisions: Its decisions on the judged images; None without a policy.
        measurements: One row for each metric of a set and a detector.
        harms: Subgroups by class and metadata, one image of each group; those that fare worse come
            first, then those with the highest lower bound of the error.
        ood: By name of the set.
        ood_detector: Name of the OOD score of `ood` and `inliers`.
        inlier_scores: OOD scores of the measured images; None without OOD sets.
        readers: Teams with those who read the images; None unless asked for.
        notes: Facts about the images.
    """

    predictions: Predictions
    judged: Predictions
    dataset: str
    deferral: Deferral | None
    decisions: Decisions | None
    measurements: Sequence[Measurement]
    harms: Sequence[Harm]
    ood: Mapping[str, OodResult]
    ood_detector: str
    inlier_scores: Float[np.ndarray, " _"] | None
    readers: Readers | None
    notes: Sequence[Note]

    @cached_property
    def classes(self) -> Classes:
        """Predicted class of each judged image, as a position."""
        return self.judged.choices if self.decisions is None else self.decisions.predicted

    @cached_property
    def wrong(self) -> Mask:
        """True for each judged image whose answer is not the true one."""
        labels, decisions = self.judged.labels, self.decisions
        return np.asarray(self.classes != labels) if decisions is None else decisions.wrong(labels)

    @cached_property
    def probabilities(self) -> Values:
        """Probability of the answer to each judged image; NaN if it is not available."""
        rows = np.arange(len(self.judged))
        if self.decisions is None:
            return np.asarray(self.judged.probabilities[rows, self.classes])
        return np.asarray(self.decisions.answer_probabilities[rows, self.decisions.answered])

    @property
    def score(self) -> str:
        """Name of the acceptance score; without a policy, MSP."""
        return "msp" if self.deferral is None else self.deferral.calibration_.acceptance_score

    @cached_property
    def scores(self) -> Values:
        """Acceptance score of each judged image; higher means more likely correct."""
        return self.probabilities if self.decisions is None else self.decisions.acceptance_score

    @cached_property
    def accuracy(self) -> Share:
        """Share of the judged images whose answer is the true one."""
        return shares([(~self.wrong, np.ones_like(self.wrong))], self.judged.units)[0]

    @cached_property
    def curve(self) -> list[CurvePoint]:
        """Error among the accepted over coverage, by the acceptance score alone."""
        return risk_over_coverage(self.scores, self.wrong, self.judged.units)

    @cached_property
    def decided(self) -> dict[str, Share]:
        """Shares of each decision, of `error` among the accepted; none without a policy.

        Where groups have several images, also `error_of_one_each`: of one image of each group.
        """
        if self.decisions is None:
            return {}
        units = self.judged.units
        values = shares_of_decisions(self.decisions.decisions, units)
        errors = [(self.wrong, self.decisions.decisions == "accept")]
        (values["error"],) = shares(errors, units)
        if self.decisions.policy.certificate.finer is not None:
            as_class, another = (
                self.decisions.as_class,
                self.decisions.predicted != self.judged.labels,
            )
            counted = [(as_class, np.ones_like(as_class)), (another & as_class, as_class)]
            values["as_class"], values["error_as_class"] = shares(counted, units)
        if self.num_groups < len(self.judged):
            (values["error_of_one_each"],) = shares(errors, units, one_of_each=True)
        return values

    @cached_property
    def hindsight(self) -> dict[float, CurvePoint]:
        """Coverage at errors below that of all images, by a threshold chosen on them; by error."""
        scores = np.where(np.isfinite(self.scores), self.scores, np.finfo(float).min)
        ascending, points = np.sort(scores), {}
        curve = RiskCoverage(scores, self.wrong)
        for limit in HINDSIGHT_ERRORS:
            if limit >= self.wrong.mean():
                break
            coverage = float(curve.coverage_at_risk(limit))
            count = round(coverage * len(scores))
            threshold = float(ascending[-count]) if count else math.inf
            (error,) = shares([(self.wrong, scores >= threshold)], self.judged.units)
            points[limit] = CurvePoint(threshold, coverage, error)
        return points

    @cached_property
    def num_groups(self) -> int:
        """Number of groups of the judged images."""
        return len(np.unique(self.judged.units))


def evaluate(
    predictions: Predictions,
    deferral: Deferral | None = None,
    *,
    set: str | None = None,
    ood: Mapping[str, Predictions] | None = None,
    readers: bool = False,
) -> Evaluation:
    """Measure predictions, and a policy on those that it was not fitted on.

    Args:
        predictions: Of labelled images.
        deferral: The policy to measure; None: only the predictions are measured.
        set: Measure only this set; None: `test`, or else all images that the model was not trained
            on.
        ood: Predictions for out-of-distribution images by name of the set; labels are not read.
        readers: Also measure who read the images; the sets `tune` and `calibrate` tune the teams.

    Raises:
        DataError: A label or answer is missing, or predictions are of another model or kind.
        UsageError: There is no row to measure, no reader or policy, or a name is taken.
    """
    ood = ood or {}
    dataset, measured, notes = _rows_to_measure(predictions, set)
    _check_outliers(measured, ood, dataset)
    measurements = [
        *measure_classification(measured, dataset),
        *measure_loss_estimation(measured, dataset, class_weights=measured.class_weights),
        *measure_failures(measured, {**measured.scores, **all_scores(measured)}, dataset),
    ]
    judged, decisions = measured, None
    if deferral is not None:
        judged, cautions = _rows_for_policy(measured, deferral, is_chosen=set is not None)
        notes += cautions
        decisions = deferral.decide_for(judged)
        measurements += _measure_policy(judged, deferral, decisions)
    teams = None
    if readers:
        teams = measure_readers(predictions.in_set(*TUNING), judged, decisions, deferral)
        measurements += teams.measurements(POLICY_SET)
    detector = WITHOUT_FEATURES if deferral is None else deferral.policy_.ood_detector
    thresholds = () if decisions is None else decisions.thresholds
    inlier_scores, results, detected = _detection(measured, ood, deferral, detector, thresholds)
    return Evaluation(
        predictions=measured,
        judged=judged,
        dataset=dataset,
        deferral=deferral,
        decisions=decisions,
        measurements=[*measurements, *detected],
        harms=harms_of(judged, decisions, seed=deferral.seed if deferral else 0),
        ood=results,
        ood_detector=detector,
        inlier_scores=inlier_scores,
        readers=teams,
        notes=notes,
    )


def _rows_to_measure(
    predictions: Predictions, set_name: str | None
) -> tuple[str, Predictions, list[Note]]:
    """Name of the measured set, its rows, and notes on them."""
    sets = predictions.sets or ("",) * len(predictions)
    chosen = measured_sets({*sets}, set_name)
    rows = np.flatnonzero([name in chosen for name in sets])
    name = set_name or ("test" if "test" in chosen else "")
    measured = predictions.select(rows)
    measured.check_labelled()
    notes = [Note("measured", {"rows": len(rows), "total": len(predictions), "set": name})]
    if name == "train":
        notes.append(Note("trained_on", {}))
    return name or ("held_out" if predictions.sets else "predictions"), measured, notes


def _check_outliers(measured: Predictions, ood: Mapping[str, Predictions], dataset: str) -> None:
    """Check that OOD predictions can be compared with the measured ones."""
    for name, outliers in ood.items():
        if name in (dataset, *RESERVED_NAMES):
            raise UsageError(
                Parameter("ood"), f" {name!r} names other measured rows; rename the set"
            )
        for field in ("model", "classes", "kind"):
            value, expected = getattr(outliers, field), getattr(measured, field)
            if value and expected and value != expected:
                raise DataError(
                    *(Parameter("ood"), f" {name!r} has {field} {value!r}, and the measured "),
                    f"predictions have {expected!r}; predict both with one model",
                )


def _rows_for_policy(
    measured: Predictions, deferral: Deferral, *, is_chosen: bool
) -> tuple[Predictions, list[Note]]:
    """Images of no group that the policy was fitted on; all if it was chosen or none is new."""
    used, related = deferral.cases_.among(measured)
    unused = np.flatnonzero(~used & ~related)
    if len(unused) == len(measured):
        return measured, []
    counts = {"used": int(used.sum()), "related": int(related.sum()), "total": len(measured)}
    if is_chosen or not len(unused):
        return measured, [Note("fitted_on", counts)]
    return measured.select(unused), [Note("fitted_on_left_out", counts)]


def _measure_policy(
    judged: Predictions, deferral: Deferral, decisions: Decisions
) -> list[Measurement]:
    """Measure decisions, scores and calibration as `POLICY_SET`, for the answers that it gives."""
    policy, accepted = deferral.policy_, decisions.decisions == "accept"
    evidence = policy.detectors.evidence(judged)
    plain = {**judged.scores, **all_scores(judged, policy.used_detectors)}
    scores = policy.calibration.with_learned(
        plain, judged.logits, evidence, decisions.predicted, judged.opinions
    )
    wrong, predicted = decisions.wrong(judged.labels), decisions.answered
    vectors = decisions.answer_probabilities
    if policy.calibration.superclasses is not None:  # as if these were the classes
        labels, names = decisions.answers_of(judged.labels), decisions.answers
        judged = replace(judged, labels=labels, classes=names, logits=np.log(vectors), opinions={})
        decisions = replace(
            decisions, predicted=predicted, probabilities=vectors, classes=names, policy=None
        )
    return [
        *measure_classification(judged, POLICY_SET, decisions=decisions),
        *measure_calibration(vectors, judged, POLICY_SET, "policy", predicted=predicted),
        *measure_failures(judged, scores, POLICY_SET, predicted=predicted),
        *measure_shares(decisions.decisions, POLICY_SET),
        *measurements_of(POLICY_SET, "policy", accepted_errors(accepted, wrong, judged.units)),
    ]


def _detection(
    measured: Predictions,
    ood: Mapping[str, Predictions],
    deferral: Deferral | None,
    detector: str,
    thresholds: Sequence[float],
) -> tuple[Float[np.ndarray, " _"] | None, dict[str, OodResult], list[Measurement]]:
    """Scores of the measured images and results of each OOD set by one detector; metrics by all."""
    if not ood:
        return None, {}, []
    fitted, seed = (deferral.policy_.detectors, deferral.seed) if deferral else (None, 0)
    inliers = {**measured.scores, **all_scores(measured, fitted)}
    results, rows = {}, list[Measurement]()
    for name, outliers in ood.items():
        scores = {**outliers.scores, **all_scores(outliers, fitted)}
        common = {key: values for key, values in inliers.items() if key in scores}
        rows += measure_detection(common, scores, name)
        decided = {}
        if deferral is not None:
            deferral.check_predictions(outliers)
            decide = partial(deferral.policy_.decide, columns=outliers.metadata)
            outcomes = decide(outliers.outputs, threshold=thresholds).decisions
            rows += measure_shares(outcomes, name)
            decided = shares_of_decisions(outcomes, outliers.units)
        sides, units = (inliers[detector], scores[detector]), (measured.units, outliers.units)
        results[name] = OodResult(scores[detector], *separation(sides, units, seed=seed), decided)
    return inliers[detector], results, rows


def check_own_files(folder: Path) -> None:
    """Check that files of these names in a folder, if any, are those of an earlier evaluation.

    Raises:
        UsageError: They are not, as its measurements are missing.
    """
    present = [name for name in EVALUATION_FILES if (folder / name).exists()]
    if present and MEASUREMENTS not in present:
        message = f"{folder / present[0]}: is not of an evaluation; choose another "
        raise UsageError(message, Parameter("out"))


def write_evaluation(
    evaluation: Evaluation, folder: Path, *, skipped: Sequence[tuple[str, str, str]] = ()
) -> None:
    """Write all tables of an evaluation, in place of those of an earlier one.

    Its measurements are written first and removed last: without them, files are someone else's.

    Args:
        evaluation: To write.
        folder: Made if it does not exist.
        skipped: Set and id of each image that could not be read, and why.

    Raises:
        UsageError: A file is not of an earlier evaluation.
    """
    check_own_files(folder)
    for name in EVALUATION_FILES:
        (folder / name).unlink(missing_ok=True)
    write_csv(folder / MEASUREMENTS, Measurement._fields, evaluation.measurements)
    evaluation.predictions.write(folder / "predictions.npz")
    if skipped:
        write_csv(folder / "skipped.csv", ("set", "image", "reason"), skipped)
    if evaluation.decisions is not None:
        judged, table = evaluation.judged, evaluation.decisions.to_frame()
        table.insert(1, "true_class", [judged.classes[label] for label in judged.labels])
        rows = table.itertuples(index=False, name=None)
        write_csv(folder / "decisions.csv", [*table.columns], rows)
        subgroups = [harm.decisions for harm in evaluation.harms if harm.decisions]
        write_csv(folder / "subgroups.csv", Subgroup._fields, subgroups)
