"""The files of units and the tables that are collected: by schema, and the scores of each set."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from safetensors import safe_open
from safetensors.numpy import save_file

from misgiving.csv_tables import unescape_formulas, write_csv
from misgiving.data.cache import ImageSet
from misgiving.errors import explain_damage
from misgiving.files import whole_file
from misgiving.groups import names_of_groups
from misgiving.predictions.record import Predictions

RUN_AGAIN = "run the command that wrote it again"
TABLES = ("results", "histories", "intervals", "confusions", "reliability", "risk_coverage")
"""Names of the collected tables."""

Scores = Mapping[str, Float[np.ndarray, " _"]]
"""Confidences by the name of a score."""


Folders = Mapping[str, Mapping[int, Path]]
"""The folders of an experiment's units, by model and trial."""

ValuesByTrial = Mapping[tuple[str, ...], Mapping[int, float]]
"""Values by trial, of (experiment, dataset, detector, metric, model)."""


UNIT = {"experiment": "str", "trial": "int64", "model": "str"}
MEASUREMENT = {"dataset": "str", "detector": "str", "metric": "str", "value": "float64"}
EPOCH = {
    **{"epoch": "int64", "set": "str"},
    **dict.fromkeys(("primary_loss", "auxiliary_loss", "accuracy", "balanced_accuracy"), "float64"),
    **dict.fromkeys(("rank_correlation", "spread_ratio", "r_squared"), "float64"),
}
CONFUSION = {"true": "str", "predicted": "str", "images": "int64"}
BIN = {"quantity": "str", "predicted": "float64", "observed": "float64", "images": "int64"}
SCHEMAS = {
    "results.csv": UNIT | MEASUREMENT,
    "intervals.csv": {
        **{"experiment": "str", "model": "str", "baseline": "str", "dataset": "str"},
        **{"detector": "str", "metric": "str"},
        **dict.fromkeys(("estimate", "lower", "upper"), "float64"),
        **{"n": "int64", "trials": "int64", "tuned": "bool"},
        **dict.fromkeys(("trial_lower", "trial_upper", "p_value"), "float64"),
    },
    "history.csv": EPOCH,
    "confusion.csv": CONFUSION,
    "bins.csv": BIN,
    "histories.csv": UNIT | EPOCH,
    "confusions.csv": UNIT | CONFUSION,
    "reliability.csv": UNIT | BIN,
    "risk_coverage.csv": {
        **{"model": "str", "detector": "str", "coverage": "float64", "risk": "float64"},
        **{"lower": "float64", "upper": "float64"},
    },
}
"""Columns by file, with their types; `history.csv`, `confusion.csv` and `bins.csv` are of one unit.

A row of `results.csv` is a measurement of one model in one trial; a share is a fraction, and a
value that is not defined has no row. A row of `intervals.csv` with a `baseline` is the paired
difference model - baseline, where the baseline is a model, or `msp` for the difference of the
detector from MSP in one model: `lower` and `upper` are of the bootstrap over trials and groups
(empty where no interval can be given), `n` counts independent groups (of the smaller of two sets,
and for a sensitivity of its class), `tuned` says whether the detector was tuned on this set,
`trial_lower` and `trial_upper` are of the t-interval over trials, and `p_value` is two-sided, not
adjusted. `risk_coverage.csv` has the mean error among the accepted.
"""


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a table whole or not at all; NaN becomes an empty cell."""
    write_csv(path, list(frame), frame.itertuples(index=False, name=None))


def read_table(path: Path, schema: str | None = None) -> pd.DataFrame:
    """Read what `write_table` wrote, by a schema; None: that of the file's name.

    Raises:
        DataError: The file is missing or damaged, a column is missing, or a cell has another type.
    """
    columns = SCHEMAS[schema or path.name]
    with explain_damage(path, remedy=RUN_AGAIN):
        cells = pd.read_csv(
            path, dtype="object", usecols=list(columns), keep_default_na=False, encoding="utf-8"
        )
        return pd.DataFrame({name: _column(cells[name], columns[name]) for name in columns})


def _column(cells: pd.Series, kind: str) -> pd.Series:
    """The values of a column; numbers exactly as they are written."""
    if kind == "str":
        return cells.map(unescape_formulas).astype("object")
    if kind == "bool":
        return cells.map({"yes": 1, "no": 0}).astype("int64").astype("bool")
    return cells.replace("", "nan").astype(kind) if kind == "float64" else cells.astype(kind)


def table_of(rows: Iterable[tuple[object, ...]], schema: str) -> pd.DataFrame:
    """A table of this schema with these rows; None is a missing value."""
    columns = SCHEMAS[schema]
    types = {name: "object" if kind == "str" else kind for name, kind in columns.items()}
    return pd.DataFrame(list(rows), columns=list(columns)).astype(types)


def values_by_trial(results: pd.DataFrame) -> ValuesByTrial:
    """The values of `results.csv`, by trial."""
    values: dict[tuple[str, ...], dict[int, float]] = {}
    for row in results.itertuples(index=False):
        key = (row.experiment, row.dataset, row.detector, row.metric, row.model)
        values.setdefault(key, {})[row.trial] = row.value
    return values


def predictions_path(folder: Path, name: str) -> Path:
    """The file of a unit's predictions for a set."""
    return folder / "predictions" / f"{name}.npz"


def group_names(images: Predictions | ImageSet) -> Shaped[np.ndarray, " n"]:
    """Name of the group of each image, and its own id where it has none, as in all trials."""
    return np.array(names_of_groups(images.groups, images.ids))


def scores_path(folder: Path, name: str) -> Path:
    """The file of a set's confidences."""
    return folder / "scores" / f"{name.replace('/', '-')}.safetensors"


def save_scores(
    folder: Path, name: str, scores: Scores, groups: Sequence[str] | Shaped[np.ndarray, " n"]
) -> None:
    """Keep the confidences of one set, so that intervals need no model."""
    arrays = {detector: np.ascontiguousarray(values) for detector, values in scores.items()}
    with whole_file(scores_path(folder, name)) as partial:
        save_file(arrays, partial, {"groups": json.dumps(list(map(str, groups)))})


def load_scores(folder: Path, name: str) -> tuple[Scores, tuple[str, ...]]:
    """Read the confidences of a set by detector, and the group of each image.

    Raises:
        DataError: The file is missing or damaged.
    """
    path = scores_path(folder, name)
    with (
        explain_damage(path, remedy="delete the folder of this unit and run it again"),
        safe_open(path, framework="np") as file,
    ):
        scores = {detector: file.get_tensor(detector) for detector in file.keys()}  # noqa: SIM118  # not a dict
        return scores, tuple(json.loads(file.metadata()["groups"]))
