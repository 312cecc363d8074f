"""Collect the finished units of a reproduction: `results.csv` and the report's other inputs."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from misgiving.errors import DataError
from misgiving.reproduction.aggregate.documents import (
    exhibits,
    settings,
    timing,
    write_datasets,
    write_examples,
)
from misgiving.reproduction.aggregate.intervals import intervals, risk_curves
from misgiving.reproduction.config import swept
from misgiving.reproduction.policies import RELIABILITY
from misgiving.reproduction.protocol import units
from misgiving.reproduction.runner import is_finished
from misgiving.reproduction.trial_data import TrialData, code_fingerprint
from misgiving.results.formats import Row, read_document, read_table, write_document, write_table
from misgiving.results.predictions import Predictions
from misgiving.results.schema import (
    Confusion,
    EpochRecord,
    HistoryRow,
    ReliabilityBin,
    ReliabilityRow,
    Result,
    ResultInterval,
    RiskPoint,
    Unit,
)

COLLECTED = "collected.json"
COLLECTION = (
    "results.csv",
    "histories.csv",
    "intervals.csv",
    "confusions.csv",
    "reliability.csv",
    "risk_coverage.csv",
    "datasets.json",
    "manifests",
    "examples",
    "settings.json",
)


def collect(trial_data: TrialData, out: Path) -> None:
    """Write the collected tables and documents of all units that are finished.

    Does nothing where all of that has been made of the same units.

    Raises:
        DataError: No unit is finished.
    """
    finished = finished_units(trial_data, out)
    made_of = {
        "protocol": repr(trial_data.protocol),
        "units": [trial_data.record(unit) for unit in finished],
        "threads": [timing(out / unit.folder).threads for unit in finished],
        "code": code_fingerprint(left_out=("cli", "report")),
    }
    if _is_collected(out, made_of):
        return
    (out / COLLECTED).unlink(missing_ok=True)
    results = [
        row for unit in finished for row in read_table(out / unit.folder / "results.csv", Result)
    ]
    write_table(out / "results.csv", Result, results)
    histories = _of_units(finished, out, "run/history.csv", EpochRecord, HistoryRow)
    write_table(out / "histories.csv", HistoryRow, histories)
    write_table(out / "confusions.csv", Confusion, _confusions(trial_data, finished, out))
    compared = intervals(trial_data, finished, out, results)
    write_table(out / "intervals.csv", ResultInterval, compared)
    bins = _of_units(finished, out, RELIABILITY, ReliabilityBin, ReliabilityRow)
    write_table(out / RELIABILITY, ReliabilityRow, bins)
    write_table(out / "risk_coverage.csv", RiskPoint, risk_curves(trial_data, finished, out))
    shown = exhibits(trial_data)
    write_datasets(out, shown)
    write_examples(out / "examples", shown)
    write_document(out / "settings.json", settings(trial_data, finished, out))
    write_document(out / COLLECTED, made_of)


def finished_units(trial_data: TrialData, out: Path) -> list[Unit]:
    """The units of the protocol that are finished, with these settings, data and code."""
    finished = [
        unit
        for unit in units(trial_data.protocol)
        if (out / unit.folder).is_dir() and is_finished(out / unit.folder, trial_data.record(unit))
    ]
    if not finished:
        raise DataError(
            f"{out}: no unit is finished with these settings, data and code; "
            "run units before collecting"
        )
    return finished


def _is_collected(out: Path, made_of: dict[str, Any]) -> bool:
    if not all((out / name).exists() for name in COLLECTION):
        return False
    try:
        return read_document(out / COLLECTED, dict[str, Any]) == made_of
    except DataError:
        return False


def _of_units(
    finished: Sequence[Unit], out: Path, name: str, kind: type[Any], row: Callable[..., Row]
) -> Iterator[Row]:
    """The rows of a table of each unit, with its experiment, trial and model.

    A unit lacks its history where training diverged, and its bins where no policy could be set.
    """
    for unit in finished:
        path = out / unit.folder / name
        for found in read_table(path, kind) if path.exists() else ():
            yield row(*unit, *astuple(found))


def _confusions(trial_data: TrialData, finished: Sequence[Unit], out: Path) -> Iterator[Confusion]:
    """The images of each true class by predicted class, where there are any."""
    measured = trial_data.evaluation_sets.measured
    for unit in finished:
        path = out / unit.folder / "predictions" / f"{measured}.safetensors"
        if swept(unit.experiment) or not path.exists():  # none where training diverged
            continue
        found = Predictions.load(path)
        counts = Counter(zip(found.labels.tolist(), found.choices.tolist(), strict=True))
        for (true, choice), count in sorted(counts.items()):
            yield Confusion(*unit, found.classes[true], found.classes[choice], count)
