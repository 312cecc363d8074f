"""Decisions of a policy, measured on a labelled set: on all of it, and by subgroup."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from sys import intern
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from misgiving.deferral.decisions import Decision, Outcome
from misgiving.deferral.deferral import Deferral
from misgiving.deferral.scored_cases import one_per_group
from misgiving.errors import UsageError
from misgiving.evaluation.measures import (
    measure_accepted_errors,
    measure_classification,
    measure_failures,
    measure_scaling,
)
from misgiving.files import refuse_input
from misgiving.metrics.subgroups import Subgroup, audit
from misgiving.predictions.record import Predictions
from misgiving.results.formats import write_table
from misgiving.results.schema import (
    POLICY_SET,
    UNSEEN_SET,
    LabelledDecision,
    Measurement,
    SkippedImage,
)
from misgiving.scores.detectors import all_scores, evidence_of

CLASS = "class"
MANY = 10_000  # images that are decided on at a time
Mask = Bool[np.ndarray, " n"]
SHARES: dict[str, Outcome] = {
    "coverage": "accept",
    "deferred_share": "defer",
    "ood_share": "ood",
}
MEASUREMENTS, DECISIONS, SUBGROUPS = "measurements.csv", "decisions.csv", "subgroups.csv"
TRAINED_ON = "these numbers are optimistic: the model was trained on these images"
PREDICTIONS, SKIPPED = "predictions.npz", "skipped.csv"
REPORT = "report.html"
WRITTEN = (PREDICTIONS, SKIPPED, DECISIONS, SUBGROUPS, REPORT, MEASUREMENTS)  # removed in order


class Evaluation(NamedTuple):
    """Measurements of an evaluation, and sentences about them.

    Attributes:
        measurements: Rows of `measurements.csv`.
        summary: Sentences about the images, and warnings.
        subgroups: Those of the policy, if there is one.
        findings: What the report begins with.
        report: The report; None where it needs a package that is not installed.
    """

    measurements: list[Measurement]
    summary: list[str]
    subgroups: list[Subgroup]
    findings: list[str]
    report: Path | None


class PolicyEvaluation(NamedTuple):
    """Decisions on a labelled set, and their measurements.

    Attributes:
        decisions: One for each image.
        measurements: Shares of decisions and the error among the accepted, over all images.
        subgroups: The same by class and metadata, on one image of each group.
    """

    decisions: list[LabelledDecision]
    measurements: list[Measurement]
    subgroups: list[Subgroup]

    def write(self, folder: Path) -> None:
        """Write `decisions.csv` and `subgroups.csv`."""
        write_table(folder / DECISIONS, LabelledDecision, self.decisions)
        write_table(folder / SUBGROUPS, Subgroup, self.subgroups)


def distinct_names(named: Sequence[str]) -> dict[str, Path]:
    """Folders or files by name, from NAME=PATH or the path alone."""
    folders: dict[str, Path] = {}
    for text in named:
        name, equals, place = text.partition("=")
        if not equals or Path(text).exists():  # its own name may contain the sign
            there = Path(text).resolve()
            name, place = there.name if there.is_dir() else there.stem, text
        if name in folders:
            raise UsageError(
                f"`ood` {text}: {name!r} is named twice; write NAME={place}, so that rows differ"
            )
        folders[name] = Path(place)
    return folders


def refuse_taken_names(ood: Mapping[str, Path], dataset: str) -> None:
    """Refuse OOD sets that have the name of other rows of the measurements."""
    for name, path in ood.items():
        if name in (dataset, POLICY_SET, UNSEEN_SET):
            raise UsageError(
                f"`ood` {path}: {name!r} names other rows of {MEASUREMENTS}; write NAME={path} "
                "with another name"
            )


def refuse_inputs_in(out: Path, inputs: Sequence[Path]) -> None:
    """Refuse a folder where an evaluation would replace or remove a file that it reads."""
    for name in WRITTEN:
        refuse_input(out / name, inputs)


def remove_earlier(out: Path) -> None:
    """Remove the files of an earlier evaluation, so that none lies beside new ones.

    Without its measurements there was none, and files of these names are someone else's.
    """
    if (out / MEASUREMENTS).exists():
        for name in WRITTEN:
            (out / name).unlink(missing_ok=True)


def write_evaluation(
    out: Path,
    measurements: Sequence[Measurement],
    decided: PolicyEvaluation | None,
    skipped: Sequence[SkippedImage] = (),
) -> None:
    """Write the tables of an evaluation."""
    if skipped:
        write_table(out / SKIPPED, SkippedImage, skipped)
    if decided is not None:
        decided.write(out)
    write_table(out / MEASUREMENTS, Measurement, measurements)


def evaluate_policy(
    deferral: Deferral,
    predictions: Predictions,
    metadata: Mapping[str, Sequence[str]],
) -> PolicyEvaluation:
    """Measure decisions, scores and calibration as `POLICY_SET`.

    Errors are those of the classes that the policy names.
    """
    calibration = deferral.calibration_
    named = calibration.named(predictions.logits)
    scores = calibration.with_learned(
        all_scores(predictions, deferral.used_detectors),
        predictions.logits,
        evidence_of(predictions, deferral.detectors_),
    )
    decided = measure_decisions(
        decided_in_parts(deferral, predictions),
        predictions,
        POLICY_SET,
        metadata,
        seed=deferral.seed,
    )
    return decided._replace(
        measurements=[
            *measure_classification(predictions, POLICY_SET, detector="policy", named=named),
            *measure_failures(predictions, scores, POLICY_SET, named=named),
            *measure_scaling(predictions, calibration, POLICY_SET),
            *decided.measurements,
        ],
    )


def decided_in_parts(deferral: Deferral, predictions: Predictions) -> Iterator[Decision]:
    """Decide on part after part, since there may be a million images."""
    for start in range(0, len(predictions), MANY):
        rows = np.arange(start, min(start + MANY, len(predictions)))
        yield from deferral.decide(predictions.select(rows))


def measure_decisions(
    decisions: Iterable[Decision],
    predictions: Predictions,
    dataset: str,
    metadata: Mapping[str, Sequence[str]],
    *,
    seed: int,
) -> PolicyEvaluation:
    """Measure decisions on a labelled set, and audit them by subgroup.

    Args:
        decisions: The decision on each image.
        predictions: Of these images, with their true classes and groups.
        dataset: Name of the set in the results.
        metadata: Values of each image by column.
        seed: Of the draw of one image from each group, for the audit.
    """
    names = [predictions.classes[label] for label in predictions.labels]
    rows = [
        _labelled(identity, name, one)
        for identity, name, one in zip(predictions.ids, names, decisions, strict=True)
    ]
    outcomes = np.array([row.decision for row in rows])
    accepted = outcomes == "accept"
    wrong = np.array([row.predicted_class != row.true_class for row in rows], dtype=bool)
    return PolicyEvaluation(
        decisions=rows,
        measurements=[
            *measure_shares(rows, dataset),
            *measure_accepted_errors(
                accepted, wrong, predictions.units, dataset=dataset, detector="policy"
            ),
        ],
        subgroups=audit_groups(
            predictions, metadata, accepted, outcomes == "ood", wrong, seed=seed
        ),
    )


def _labelled(identity: str, name: str, decision: Decision) -> LabelledDecision:
    row = LabelledDecision(identity, name, *(getattr(decision, field) for field in _FIELDS))
    return row._replace(reason=intern(row.reason))  # one text for the many with the same reason


_FIELDS = LabelledDecision._fields[2:]  # those of a decision


def audit_groups(
    predictions: Predictions,
    metadata: Mapping[str, Sequence[str]],
    accepted: Mask,
    ood: Mask,
    wrong: Mask,
    *,
    seed: int,
) -> list[Subgroup]:
    """Audit decisions by class and metadata, on one image of each group, drawn with the seed.

    A column of metadata that is named as the true classes are is `column class`.
    """
    names = [predictions.classes[label] for label in predictions.labels]
    rows = one_per_group(predictions.units, seed=seed)
    others = {f"column {name}" if name == CLASS else name: of for name, of in metadata.items()}
    columns = {
        column: [values[row] for row in rows] for column, values in {CLASS: names, **others}.items()
    }
    return audit(columns, accepted[rows], ood[rows], wrong[rows])


def measure_shares(
    decisions: Sequence[Decision] | Sequence[LabelledDecision], dataset: str
) -> list[Measurement]:
    """The shares of a set that are accepted, deferred and OOD."""
    outcomes = [one.decision for one in decisions]
    return [
        Measurement(dataset, "policy", name, outcomes.count(outcome) / len(outcomes))
        for name, outcome in SHARES.items()
    ]


def rows_for_policy(
    predictions: Predictions, deferral: Deferral | None, *, named: bool
) -> tuple[Int[np.ndarray, " _"], list[str], list[str]]:
    """Rows of no group that the policy was fitted on, remarks and warnings.

    All rows, and a warning, if the set was named or there are no others.
    """
    everything = np.arange(len(predictions))
    if deferral is None:
        return everything, [], []
    used, related = deferral.cases_.among(predictions)
    unused = np.flatnonzero(~used & ~related)
    if len(unused) == len(predictions):
        return unused, [], []
    counted = f"the policy was fitted on {used.sum()} of these {len(used)} images"
    if related.any():
        counted += f", and on others of the groups of {related.sum()}"
    if named or not len(unused):
        return everything, [], [f"Warning: {counted}; the numbers of its decisions are optimistic"]
    return unused, [f"{counted}; its decisions are measured on the others"], []
