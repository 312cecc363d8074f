"""From finished units to the files that the report is made of: results, intervals, histories."""

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from misgiving.errors import DataError
from misgiving.files import write_csv, write_json
from misgiving.reproduction.aggregate.image_sets import exhibits, write_account, write_examples
from misgiving.reproduction.aggregate.intervals import Interval, intervals
from misgiving.reproduction.aggregate.risk_curves import CurvePoint, risk_curves
from misgiving.reproduction.aggregate.settings import settings, timing
from misgiving.reproduction.policies import RELIABILITY, RELIABILITY_COLUMNS
from misgiving.reproduction.protocol import SWEEP, Unit, units
from misgiving.reproduction.runner import RESULT_COLUMNS, is_finished
from misgiving.reproduction.trial_data import TrialData, code_fingerprint
from misgiving.results.predictions import Predictions
from misgiving.training.records import EpochRecord

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
_HISTORY_COLUMNS = ("experiment", "trial", "model", *EpochRecord._fields)
_RELIABILITY_COLUMNS = ("experiment", "trial", "model", *RELIABILITY_COLUMNS)
_CONFUSION_COLUMNS = ("experiment", "trial", "model", "true", "predicted", "count")


def collect(trial_data: TrialData, out: Path) -> None:
    """Write what the report is made of from all units that are finished.

    Does nothing where all of that has been made of the same units.

    Raises:
        DataError: No unit is finished.
    """
    finished = finished_units(trial_data, out)
    made_of = {
        "protocol": repr(trial_data.protocol),
        "units": [trial_data.record(unit) for unit in finished],
        "threads": [timing(out / unit.folder)["threads"] for unit in finished],
        "code": code_fingerprint(left_out=("cli", "report")),
    }
    if _is_collected(out, made_of):
        return
    (out / COLLECTED).unlink(missing_ok=True)
    results = list(_results(finished, out))
    write_csv(out / "results.csv", RESULT_COLUMNS, results)
    write_csv(out / "histories.csv", _HISTORY_COLUMNS, _histories(finished, out))
    write_csv(out / "confusions.csv", _CONFUSION_COLUMNS, _confusions(trial_data, finished, out))
    write_csv(
        out / "intervals.csv", Interval._fields, intervals(trial_data, finished, out, results)
    )
    write_csv(out / RELIABILITY, _RELIABILITY_COLUMNS, _reliability(finished, out))
    write_csv(out / "risk_coverage.csv", CurvePoint._fields, risk_curves(trial_data, finished, out))
    shown = exhibits(trial_data)
    write_account(out, shown)
    write_examples(out / "examples", shown)
    write_json(out / "settings.json", settings(trial_data, finished, out))
    write_json(out / COLLECTED, made_of)


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
            "run the same command without --collect first"
        )
    return finished


def _is_collected(out: Path, made_of: dict[str, Any]) -> bool:
    if not all((out / name).exists() for name in COLLECTION):
        return False
    try:
        return bool(json.loads((out / COLLECTED).read_text(encoding="utf-8")) == made_of)
    except (OSError, ValueError):
        return False


def _results(finished: Sequence[Unit], out: Path) -> Iterator[tuple[str, ...]]:
    for unit in finished:
        yield from _rows(out / unit.folder / "results.csv")


def _histories(finished: Sequence[Unit], out: Path) -> Iterator[tuple[object, ...]]:
    for unit in finished:
        path = out / unit.folder / "run" / "history.csv"
        for row in _rows(path) if path.exists() else []:  # none where the training diverged
            yield (unit.experiment, unit.trial, unit.model, *row)


def _reliability(finished: Sequence[Unit], out: Path) -> Iterator[tuple[object, ...]]:
    for unit in finished:
        path = out / unit.folder / RELIABILITY
        for row in _rows(path) if path.exists() else []:  # none where no policy could be set
            yield (*unit, *row)


def _rows(path: Path) -> list[tuple[str, ...]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [tuple(row) for row in csv.reader(file)][1:]


def _confusions(
    trial_data: TrialData, finished: Sequence[Unit], out: Path
) -> Iterator[tuple[object, ...]]:
    """How often each true class was taken for each other, where that occurred."""
    for unit in finished:
        path = out / unit.folder / "predictions" / f"{trial_data.roles.measured}.safetensors"
        if unit.experiment.startswith(SWEEP) or not path.exists():  # none where training diverged
            continue
        found = Predictions.load(path)
        counts = Counter(zip(found.labels.tolist(), found.choices.tolist(), strict=True))
        for (true, choice), count in sorted(counts.items()):
            yield (*unit, found.classes[true], found.classes[choice], count)
