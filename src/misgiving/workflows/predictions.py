"""`predict` and `evaluate` on files of predictions, without a model and without torch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from misgiving.data.datasets.folders import banded
from misgiving.data.decoding import Picture, picture_of
from misgiving.deferral.deferral import Deferral
from misgiving.deferral.expected_performance import ExpectedPerformance
from misgiving.deferral.policy_file import POLICY, POLICY_FOLDER
from misgiving.errors import DataError, UsageError
from misgiving.evaluation.measures import measure_detection, measure_predictions
from misgiving.files import refuse_input, refuse_unwritable, refuse_unwritable_folder
from misgiving.groups import unit_of
from misgiving.predictions.record import Predictions
from misgiving.predictions.schema import SETS
from misgiving.report.evaluation import Detection, ScoredImages
from misgiving.results.decision_tables import DecidedNumbers, DecisionRow, DecisionTable, writer_for
from misgiving.results.schema import Measurement
from misgiving.scores.detectors import all_scores
from misgiving.workflows.evaluation_report import (
    evaluated_images,
    finished_evaluation,
    shown_detector,
)
from misgiving.workflows.policy_evaluation import (
    TRAINED_ON,
    Evaluation,
    decided_in_parts,
    distinct_names,
    evaluate_policy,
    measure_shares,
    refuse_inputs_in,
    refuse_taken_names,
    remove_earlier,
    rows_for_policy,
    write_evaluation,
)
from misgiving.workflows.predict import expected_of, row_of

EVERYTHING = "predictions"  # name of the measured set where the table names none


def policy_folder(path: Path) -> Path:
    """The policy's folder, given that folder or a run.

    Raises:
        DataError: There is no policy.
    """
    folder = path if (path / POLICY).exists() else path / POLICY_FOLDER
    if not (folder / POLICY).exists():
        raise DataError(f"{path}: contains no policy; give a folder that `calibrate` wrote")
    return folder


def read_predictions(path: Path, deferral: Deferral | None) -> Predictions:
    """Predictions in a file, refused unless they are of the policy's model, where it names one."""
    predictions = Predictions.read(path)
    if deferral is not None:
        try:
            deferral.check_predictions(predictions)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
    return predictions


def predict_table(
    policy: Path,
    predictions: Path,
    *,
    out: Path | None = None,
    on_table: Callable[[DecisionTable], None] = lambda _: None,
) -> tuple[int, ExpectedPerformance | None]:
    """Decide on each row of a file of predictions, and write a file, whole or not at all.

    Args:
        policy: A policy folder, or a run that has one.
        predictions: The file.
        out: The file; None for none.
        on_table: Called with the table if `out` is None.

    Returns:
        The number of rows, and the performance to expect; None where it cannot be estimated.
    """
    if out is not None:
        writer_for(out)
        refuse_unwritable(out)
        refuse_input(out, [predictions])
    deferral = Deferral.load(policy_folder(policy))
    table = read_predictions(predictions, deferral)
    numbers = DecidedNumbers()
    decided = DecisionTable.of(numbers.through(decided_rows(deferral, table)), has_policy=True)
    if out is None:
        on_table(decided)
    else:
        writer_for(out)(out, decided)
    return len(table), expected_of(deferral, numbers)


def decided_rows(deferral: Deferral, table: Predictions) -> Iterator[DecisionRow]:
    """Decisions on the rows of a table, with the path of each image, or its id."""
    names = table.paths or table.ids
    yield from map(row_of, names, decided_in_parts(deferral, table))


def evaluate_table(
    predictions: Path,
    *,
    out: Path,
    policy: Path | None = None,
    ood: Sequence[str] = (),
    set_name: str | None = None,
) -> Evaluation:
    """Measure predictions, and a policy on those that it was not fitted on.

    Args:
        predictions: The file; every row has a label.
        out: Folder for `report.html` and `measurements.csv`, and for `decisions.csv` and
            `subgroups.csv` of a policy.
        policy: A policy folder, or a run that has one; None: only the predictions are measured.
        ood: Files of predictions for out-of-distribution images, as NAME=FILE or without name.
        set_name: Measure only this set; None: `test`, or else all rows but `train`.
    """
    refuse_unwritable_folder(out)
    places = distinct_names(ood)
    refuse_inputs_in(out, [predictions, *places.values()])
    deferral = None if policy is None else Deferral.load(policy_folder(policy))
    table, summary = rows_to_measure(read_predictions(predictions, deferral), set_name)
    dataset = set_name or ("test" if "test" in (table.sets or ()) else EVERYTHING)
    refuse_taken_names(places, dataset)
    outliers = {name: read_predictions(path, deferral) for name, path in places.items()}
    _refuse_other_models(outliers, table, str(predictions))
    measured = table
    detected, detection = _detection(table, outliers, deferral)
    measurements = [*measure_predictions(measured, dataset), *detected]
    decided = None
    warnings = [TRAINED_ON] * (set_name == "train")
    if deferral is not None:
        rows, remarks, doubts = rows_for_policy(table, deferral, named=set_name is not None)
        warnings += doubts
        table = table.select(rows)
        decided = evaluate_policy(deferral, table, metadata_of(table))
        summary += remarks
        measurements += decided.measurements
    remove_earlier(out)
    write_evaluation(out, measurements, decided)
    evaluated = evaluated_images(
        predictions.name,
        table,
        metadata_of(table),
        unit=unit_of(table.group_columns, table.groups),
        deferral=deferral,
        decided=decided,
        picture=pictures_of(table),
        warnings=warnings,
        notes=[*summary],
        detection=detection,
    )
    return finished_evaluation(out, evaluated, measurements, decided)


def _refuse_other_models(
    outliers: Mapping[str, Predictions], table: Predictions, name: str
) -> None:
    """Refuse OOD predictions of another model, of other classes, or of other outputs."""
    for ood, of in outliers.items():
        models = [one.model for one in (of, table)]
        if all(models) and models[0] != models[1]:
            raise DataError(
                f"{ood} is of the model {models[0]!r}, and {name} of {models[1]!r}; predict again "
                "with one of them"
            )
        if of.classes != table.classes:
            raise DataError(f"the classes of {ood} are not those of {name}; predict again")
        if of.outputs != table.outputs:
            raise DataError(
                f"{ood}: has {of.outputs}, and {name} {table.outputs}, with which its scores "
                f"cannot be compared; give {table.outputs}"
            )


def rows_to_measure(
    table: Predictions, set_name: str | None = None
) -> tuple[Predictions, list[str]]:
    """The rows of this set; None: of `test`, or else all rows but `train`. And a sentence on them.

    Raises:
        UsageError: There is no such row.
        DataError: A label is missing.
    """
    sets = np.array(table.sets or [""] * len(table))
    wanted = set_name or ("test" if (sets == "test").any() else None)
    rows = np.flatnonzero(sets != "train" if wanted is None else sets == wanted)
    if not len(rows):
        choices = ", ".join(name for name in SETS if (sets == name).any()) or "none"
        raise UsageError(f"no row is in the set {wanted!r}; the sets of this file: {choices}")
    chosen = table.select(rows)
    chosen.check_labelled()
    which = f"set {wanted}" if wanted else "all but the training images"
    return chosen, [f"measured: {len(rows)} of {len(table)} rows ({which})"]


def _detection(
    table: Predictions, outliers: Mapping[str, Predictions], deferral: Deferral | None
) -> tuple[list[Measurement], Detection | None]:
    """OOD metrics of each set, and the decisions on it; and the scores for the report."""
    if not outliers:
        return [], None
    rows: list[Measurement] = []
    detectors = deferral.detectors_ if deferral else None
    inliers, found = all_scores(table, detectors), {}
    detector = shown_detector(deferral)
    for name, of in outliers.items():
        scores, outcomes = all_scores(of, detectors), None
        common = {score: values for score, values in inliers.items() if score in scores}
        rows += measure_detection(common, scores, name)
        if deferral is not None:
            decisions = deferral.decide(of)
            rows += measure_shares(decisions, name)
            outcomes = decisions.decisions
        found[name] = ScoredImages(scores[detector], of.units, outcomes)
    of_table = ScoredImages(inliers[detector], table.units)
    return rows, Detection(detector, of_table, found)


def pictures_of(table: Predictions) -> Callable[[int], Picture | None] | None:
    """Reads the image of a row; None: none is named."""
    images = table.paths
    return None if images is None else lambda row: picture_of(Path(images[row]))


def metadata_of(table: Predictions) -> dict[str, Sequence[str]]:
    """Columns by which decisions are audited: those of few values, and numbers in bands."""
    columns = {name: banded(name, values) for name, values in table.metadata.items()}
    return {name: values for name, values in columns.items() if values}
