"""Collect the finished units of a reproduction: `results.csv` and the report's other inputs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from misgiving.errors import DataError
from misgiving.evaluation.evaluate import POLICY_SET
from misgiving.evaluation.measures import UNSEEN_SET
from misgiving.files import read_json, write_json
from misgiving.predictions.record import Predictions
from misgiving.reproduction.config import Unit, learning_rate_of
from misgiving.reproduction.documents import (
    exhibits,
    settings,
    timing,
    write_datasets,
    write_examples,
)
from misgiving.reproduction.intervals import (
    MeasuredSet,
    intervals_of,
    risk_curves,
    values_by_trial,
)
from misgiving.reproduction.policies import RELIABILITY
from misgiving.reproduction.protocol import EXPERIMENTS, rate_experiments, units
from misgiving.reproduction.runner import is_finished
from misgiving.reproduction.tables import (
    REMEDY,
    predictions_path,
    read_table,
    table_of,
    write_table,
)
from misgiving.reproduction.trial_data import TrialData, code_fingerprint
from misgiving.reproduction.workers import mapped

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


def collect(trial_data: TrialData, out: Path, *, jobs: int = 1) -> None:
    """Write the collected tables and documents of all units that are finished.

    Does nothing where all of that has been made of the same units.

    Args:
        trial_data: The prepared images.
        out: Folder of the reproduction.
        jobs: Processes that compute intervals.

    Raises:
        DataError: No unit is finished.
        TrainingError: A process was killed, as happens when memory runs out.
    """
    finished = finished_units(trial_data, out)
    made_of = {
        "protocol": repr(trial_data.protocol),
        "units": [trial_data.record(unit) for unit in finished],
        "threads": [timing(out / unit.folder)["threads"] for unit in finished],
        "code": code_fingerprint(),
    }
    if _is_collected(out, made_of):
        return
    (out / COLLECTED).unlink(missing_ok=True)
    results = _of_units(finished, out, "results.csv")
    sets = list(_measured_sets(trial_data, finished, out, results))
    with mapped(intervals_of, sets, jobs) as intervals:
        write_table(out / "results.csv", results)
        write_table(out / "histories.csv", _of_units(finished, out, "run/history.csv"))
        write_table(out / "confusions.csv", _confusions(trial_data, finished, out))
        write_table(out / RELIABILITY, _of_units(finished, out, RELIABILITY, schema="bins.csv"))
        write_table(out / "risk_coverage.csv", _risk_curves(trial_data, finished, out))
        sets_of_images = exhibits(trial_data)
        write_datasets(out, sets_of_images)
        write_examples(out / "examples", sets_of_images)
        write_json(out / "settings.json", settings(trial_data, finished, out))
        write_table(out / "intervals.csv", pd.concat(intervals))
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
            "run units before collecting"
        )
    return finished


def _is_collected(out: Path, made_of: dict[str, Any]) -> bool:
    if not all((out / name).exists() for name in (COLLECTED, *COLLECTION)):
        return False
    try:
        return read_json(out / COLLECTED, remedy=REMEDY) == made_of
    except DataError:
        return False


def _measured_sets(
    trial_data: TrialData, finished: Sequence[Unit], out: Path, results: pd.DataFrame
) -> Iterator[MeasuredSet]:
    """All sets of all experiments, each with the experiment whose units measured it."""
    values, protocol = values_by_trial(results), trial_data.protocol
    measured = trial_data.evaluation_sets.measured
    unseen = (UNSEEN_SET, *(f"unseen/{name}" for name in protocol.unseen))
    sets = [
        *((name, measured, name) for name in EXPERIMENTS),
        ("generalization", POLICY_SET, "generalization"),
        *(("ood_detection", name, "ood_detection") for name in protocol.ood_sets),
        *(("new_classes", name, "ood_detection") for name in unseen),
        *((name, measured, name) for name in rate_experiments(protocol)),
    ]
    for seed, (experiment, dataset, measured_by) in enumerate(sets, protocol.seed):
        where = (experiment, dataset)
        yield MeasuredSet(
            experiment=experiment,
            dataset=dataset,
            folders=_folders(finished, out, measured_by),
            measured=measured,
            tuned=where == ("ood_detection", protocol.odin.tuning_set),
            values=values.get(where, {}),
            split_ratio=trial_data.split_ratio(measured_by),
            replicates=protocol.replicates,
            seed=seed,
        )


def _folders(finished: Sequence[Unit], out: Path, experiment: str) -> dict[str, dict[int, Path]]:
    """The folders of an experiment's units, by model and trial."""
    folders: dict[str, dict[int, Path]] = {}
    for unit in finished:
        if unit.experiment == experiment:
            folders.setdefault(unit.model, {})[unit.trial] = out / unit.folder
    return folders


def _risk_curves(trial_data: TrialData, finished: Sequence[Unit], out: Path) -> pd.DataFrame:
    folders, protocol = _folders(finished, out, "generalization"), trial_data.protocol
    return risk_curves(
        {name: folders[name] for name in protocol.models if name in folders},
        trial_data.evaluation_sets.measured,
        replicates=protocol.replicates,
        seed=protocol.seed,
    )


def _of_units(finished: Sequence[Unit], out: Path, name: str, *, schema: str = "") -> pd.DataFrame:
    """The rows of a table of each unit, with its experiment, trial and model.

    A unit lacks its history where training diverged, and its bins where no policy could be set.
    """
    tables = []
    for unit in finished:
        if (path := out / unit.folder / name).exists():
            table = read_table(path, schema=schema)
            columns = {key: value for key, value in unit._asdict().items() if key not in table}
            tables.append(pd.DataFrame({**columns, **table}))
    return pd.concat(tables) if tables else table_of([], schema or Path(name).name)


def _confusions(trial_data: TrialData, finished: Sequence[Unit], out: Path) -> pd.DataFrame:
    """The images of each true class by predicted class, where there are any."""
    measured, rows = trial_data.evaluation_sets.measured, []
    for unit in finished:
        path = predictions_path(out / unit.folder, measured)
        if learning_rate_of(unit.experiment) or not path.exists():  # none where training diverged
            continue
        predictions = Predictions.read(path)
        pairs = zip(predictions.labels.tolist(), predictions.choices.tolist(), strict=True)
        classes = predictions.classes
        for (true, choice), count in sorted(Counter(pairs).items()):
            rows.append((*unit, classes[true], classes[choice], count))
    return table_of(rows, "confusions.csv")
