"""Files of an evaluation: predictions, measurements, decisions and subgroups."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from misgiving.evaluation.evaluate import Evaluation
from misgiving.evaluation.measures import Measurement
from misgiving.files import check_not_input, write_rows
from misgiving.metrics.subgroups import Subgroup

REPORT, MEASUREMENTS = "report.html", "measurements.csv"
FILES = ("predictions.npz", "skipped.csv", "decisions.csv", "subgroups.csv", REPORT, MEASUREMENTS)
"""In the order in which those of an earlier evaluation are removed."""


class SkippedImage(NamedTuple):
    """One row of `skipped.csv`: an image that cannot be read, and why."""

    set: str
    image: str
    reason: str


class LabelledDecision(NamedTuple):
    """One row of `decisions.csv`: the decision on a labelled image."""

    id: str
    true_class: str
    predicted_class: str
    probability: float
    error_probability: float | None
    expected_loss: float | None
    ood_p_value: float | None
    decision: str
    reason: str
    acceptance_score: float | None
    ood_score: float | None


def check_folder(folder: Path, inputs: Sequence[Path]) -> None:
    """Refuse a folder where an evaluation would replace or remove a file that it reads."""
    for name in FILES:
        check_not_input(folder / name, inputs)


def write_evaluation(
    evaluation: Evaluation, folder: Path, *, skipped: Sequence[SkippedImage] = ()
) -> None:
    """Write all tables of an evaluation, in place of those of an earlier one.

    Without its measurements there was none, and files of these names are someone else's.

    Args:
        evaluation: To write.
        folder: Made if it does not exist.
        skipped: Images that could not be read.
    """
    if (folder / MEASUREMENTS).exists():
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
    evaluation.predictions.write(folder / "predictions.npz")
    if skipped:
        write_rows(folder / "skipped.csv", SkippedImage, skipped)
    if evaluation.decisions is not None:
        write_rows(folder / "decisions.csv", LabelledDecision, _decisions(evaluation))
        subgroups = (harm.decisions for harm in evaluation.harms if harm.decisions)
        write_rows(folder / "subgroups.csv", Subgroup, subgroups)
    write_rows(folder / MEASUREMENTS, Measurement, evaluation.measurements)


def _decisions(evaluation: Evaluation) -> Iterator[LabelledDecision]:
    judged = evaluation.judged
    names = (judged.classes[label] for label in judged.labels)
    fields = LabelledDecision._fields[2:]  # those of a decision
    for identity, name, decision in zip(judged.ids, names, evaluation.decisions or (), strict=True):
        yield LabelledDecision(identity, name, *(getattr(decision, field) for field in fields))
