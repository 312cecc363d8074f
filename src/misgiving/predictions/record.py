"""Predictions: all that any later step needs of a model and of the images that it saw."""

import csv
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import log_softmax

from misgiving.csv_tables import escape_formulas, unescape_formulas
from misgiving.errors import DataError, UsageError, explain_damage, visible
from misgiving.files import check_ordinary, whole_file
from misgiving.groups import one_per_group, unit_numbers
from misgiving.parquet_tables import CELL_BYTES, check_size, read_parquet
from misgiving.predictions import cells
from misgiving.predictions.schema import (
    ARRAY_OF_OPINION,
    NUMERIC,
    ONCE,
    WHOLE,
    columns_of,
    fields_of,
    named,
)
from misgiving.registry import Registry
from misgiving.scores.outputs import Outputs, TrainingOutputs

if TYPE_CHECKING:
    import pandas

FINGERPRINT_DIGITS = 12  # of a model's, which name its opinion
MAX_MESSAGE = 400  # characters of a message, which may quote a cell or name a thousand classes


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Predictions(TrainingOutputs):
    """The outputs of one model for a set of images, and what else is known of these.

    Attributes:
        labels: True classes as positions in `classes`; -1 where the class is not known.
        classes: Names of the classes, in the order of the logits.
        ids: Name of each image, each once.
        groups: Images that are not independent have the same one, as those of a patient; empty
            where an image is a group of its own.
        group_columns: Columns of the data that define the groups; none: each image is its own.
        hashes: SHA-256 of the content of each image file; None where it is not known.
        paths: Of the image files; None where they are not known.
        sets: `train`, `tune`, `calibrate`, `test` or `validation`; empty for an image that is in
            none of them, as a new one; `excluded` for one that is never used, such as a new image
            of a group on which the model was trained. None where no set is known.
        head: The last linear layer; None where the model has none of that kind, or in a CSV file.
        model: Fingerprint or name of the model; empty where unknown.
        class_weights: Of the loss that the estimator learned, by class; None for the plain
            cross-entropy.
        has_ids: Whether the ids are names of the images, and not numbers of rows.
        metadata: Other columns, by which decisions are audited.
        scores: Confidences by name that need the image itself, as ODIN's.
        readers: Positions in `classes` of the answers of people by name; -1 where one gave none.
        opinion_models: Fingerprints of the models of the second opinions that are known, by name;
            not in a file.
    """

    BY_ROW: ClassVar[tuple[str, ...]] = (
        *Outputs.BY_ROW,
        *("labels", "ids", "groups", "hashes", "paths", "sets", "metadata", "scores", "readers"),
    )

    classes: tuple[str, ...]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    group_columns: tuple[str, ...] = ()
    hashes: tuple[str, ...] | None = None
    paths: tuple[str, ...] | None = None
    sets: tuple[str, ...] | None = None
    model: str = ""
    class_weights: tuple[float, ...] | None = None
    has_ids: bool = True
    metadata: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    scores: Mapping[str, Float[np.ndarray, " n"]] = field(default_factory=dict)
    readers: Mapping[str, Int[np.ndarray, " n"]] = field(default_factory=dict)
    opinion_models: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        data: Any,
        *,
        classes: Sequence[str] | None = None,
        kind: str | None = None,
        name: str = "",
    ) -> "Predictions":
        """Take predictions from arrays, lists, tensors or a data frame.

        Args:
            data: A mapping or a data frame (pandas, polars, pyarrow) with the columns of a file, as
                `misgiving.predictions.schema` lists them; an array of outputs; a pair of one of
                these and labels; or predictions, which are returned as they are.
            classes: Names of the classes of an array without names; by default those of the labels,
                sorted, or 0 to K-1. Columns that are named by classes are put in this order.
            kind: Of an array without a name: `logits` or `probabilities`; None: probabilities if
                each row is from 0 to 1 and adds up to 1.
            name: Of the set; begins the ids of images that have none.

        Raises:
            DataError: A column is missing, or a value cannot be used; names its row and column.
            UsageError: `data` is nothing of these.
        """
        if isinstance(data, Predictions):
            return data
        values, *labels = data if isinstance(data, tuple) and len(data) == 2 else (data,)
        columns = cells.named_columns(values)
        if not columns and (hasattr(values, "ndim") or labels):
            values = cells.on_host(values)
            classes = classes or (cells.classes_of_labels(values, *labels) if labels else None)
            columns = {kind or ("logits", "probabilities")[cells.are_probabilities(values)]: values}
        if not columns or np.asarray(values).dtype.kind == "U":
            raise UsageError(
                f"{type(data).__name__} has no predictions; give logits, or a pair of logits and "
                "labels, or `Predictions.read(path)`"
            )
        if labels:
            columns["label"] = labels[0]
        if classes is not None and not columns.keys().isdisjoint(("logits", "probabilities")):
            columns.setdefault("classes", list(classes))
        return cls(**fields_of(columns, name=name, classes=classes))

    @classmethod
    def read(cls, path: str | Path, *, classes: Sequence[str] | None = None) -> "Predictions":
        """Read a file: `.csv`, `.parquet` or `.npz`.

        Args:
            path: Of the file.
            classes: Of a table of answers and confidences; None: those that it names.

        Raises:
            DataError: The file is missing, damaged, or has no predictions; the message names the
                row and column.
            UsageError: The suffix is none of `.csv`, `.parquet` and `.npz`.
        """
        path = Path(path)
        read_columns, _ = FILE_FORMATS[path.suffix.lower()]
        with explain_damage(path, remedy="check the path, or write the file again"):
            check_ordinary(path)
            columns = read_columns(path)
        try:
            return cls(**fields_of(columns, folder=path.parent, classes=classes))
        except DataError as error:
            raise DataError(f"{path}: {shorten(visible(str(error)), MAX_MESSAGE)}") from error

    def write(self, path: str | Path) -> None:
        """Write a file, whole or not at all, of which `read` makes the same predictions.

        Paths of images in its folder are relative to it. A CSV file has all numbers in float64,
        and no last layer.

        Raises:
            UsageError: The suffix is none of `.csv`, `.parquet` and `.npz`.
        """
        path = Path(path)
        _, write_columns = FILE_FORMATS[path.suffix.lower()]
        with whole_file(path) as partial:
            write_columns(partial, columns_of(vars(self), folder=path.parent))

    def with_opinion(self, other: "Predictions", name: str = "") -> "Predictions":
        """Add the probabilities by another model for these images as a second opinion.

        An image is found by its content where both know it, and else by its id; without ids the
        rows are the same.

        Args:
            other: Predictions of that model for all of these images, and possibly for others.
            name: Of that model; by default the first digits of its fingerprint.

        Raises:
            DataError: An image is missing or was used to train that model and not this one, or the
                classes are others. Images of the set `train` may be missing.
        """
        check_classes(self.classes, other.classes, name)
        kind = "ids" if None in (self.hashes, other.hashes) else "hashes"
        if kind == "ids" and not (self.has_ids and other.has_ids):
            first, second = self.labels, other.labels
            if len(first) != len(second) or (first != second)[(first >= 0) & (second >= 0)].any():
                raise DataError(
                    "the second opinion has other rows than the first; give both a column `id`"
                )
        rows = {key: row for row, key in enumerate(getattr(other, kind)) if key}
        keys = getattr(self, kind)
        lacks = np.array([key not in rows for key in keys], dtype=bool)
        own = np.array(self.sets or ("",) * len(self)) == "train"
        if missing := np.flatnonzero(lacks & ~own).tolist():
            raise DataError(
                f"the second opinion lacks {len(missing)} of {len(self)} images, the first is "
                f"{self.ids[missing[0]]!r}; predict the same images with both models"
            )
        chosen = other.select(np.array([rows.get(key, 0) for key in keys]))
        others = np.array(chosen.sets or "") == "train"
        if (used := others & ~own).any():
            raise DataError(
                f"the model of the second opinion was trained on {self.ids[used.argmax()]!r}, "
                "which is new to this one; train both on the same images"
            )
        name = name or other.model[:FINGERPRINT_DIGITS] or "other"
        probabilities = np.where(lacks[:, None], np.nan, chosen.probabilities)
        opinions = {**self.opinions, name: probabilities}
        models = {**self.opinion_models, **({name: other.model} if other.model else {})}
        return replace(self, opinions=opinions, opinion_models=models)

    @property
    def outputs(self) -> Outputs:
        """The outputs alone."""
        return Outputs(**{each.name: getattr(self, each.name) for each in fields(Outputs)})

    def in_set(self, *names: str) -> "Predictions":
        """Predictions for the images of these sets."""
        return self.select(np.flatnonzero(np.isin(np.array(self.sets or (), dtype=str), names)))

    @cached_property
    def units(self) -> Int[np.ndarray, " n"]:
        """Number of the group of each image; an image without a group has one of its own.

        Numbers are in the order of the groups' names and of the ids of images without a group.
        """
        return unit_numbers(self.groups, self.ids)

    def one_per_group(self, *, seed: int) -> Int[np.ndarray, " groups"]:
        """Draw one image of each group at random, the same whatever the order of the rows."""
        order = np.argsort(np.array(self.ids), kind="stable")
        return np.sort(order[one_per_group(self.units[order], seed=seed)])

    @property
    def choices(self) -> Int[np.ndarray, " n"]:
        """The predicted class of each image."""
        return np.asarray(self.logits.argmax(axis=1))

    @property
    def probabilities(self) -> Float[np.ndarray, "n classes"]:
        """Softmax of the logits, in float64."""
        return np.asarray(np.exp(self._log_probabilities))

    @property
    def errors(self) -> Bool[np.ndarray, " n"]:
        """True for each image whose predicted class is not the true one."""
        return np.asarray(self.choices != self.labels)

    def true_losses(self, class_weights: Sequence[float] | None = None) -> Float[np.ndarray, " n"]:
        """Cross-entropy of each image, in float64, times its class's weight where given."""
        losses = -self._log_probabilities[np.arange(len(self)), self.labels]
        weights = np.ones(len(self.classes)) if class_weights is None else np.array(class_weights)
        return np.asarray(losses * weights[self.labels])

    @property
    def _log_probabilities(self) -> Float[np.ndarray, "n classes"]:
        return np.asarray(log_softmax(self.logits.astype(np.float64), axis=1))

    def check_labelled(self) -> None:
        """Refuse predictions of which a true class is missing.

        Raises:
            DataError: Names the first such image.
        """
        unknown = self.labels == cells.UNKNOWN_CLASS
        if unknown.any():
            name = self.ids[int(unknown.argmax())]
            near = "".join(f", not {x}" for x in get_close_matches("label", self.metadata, n=1))
            raise DataError(
                f"{unknown.sum()} of {len(self)} rows have no label, the first is {name!r}; give "
                f"the true class of each as the column label{near}"
            )


def check_classes(classes: Sequence[str], others: Sequence[str], name: str) -> None:
    """Check that the model of this second opinion has the same classes.

    Raises:
        DataError: It has others, or in another order.
    """
    if [*classes] != [*others]:
        raise DataError(
            f"the second opinion {name} is on {', '.join(others)}, and the predictions are on "
            f"{', '.join(classes)}; they must be the same classes in this order"
        )


def _read_csv(path: Path) -> dict[str, cells.Column]:
    import pandas

    with path.open(encoding="utf-8-sig", newline="") as file, warnings.catch_warnings():
        header = [unescape_formulas(name.strip()) for name in next(csv.reader(file), [])]
        file.seek(0)  # a pipe has no second reading, and fails
        if len(header) == 1:
            raise DataError(f"{path}: its only column is {header[0]!r}; separate columns by commas")
        kinds = {name: object for name in header if not named(name, NUMERIC)}
        warnings.simplefilter("error", pandas.errors.ParserWarning)  # of cells left out
        frame = pandas.read_csv(
            file,
            names=header,
            header=0,
            dtype=kinds,
            index_col=False,
            keep_default_na=False,
            low_memory=False,
        )
    columns = {name: frame[name].to_numpy() for name in header}
    for name in kinds:
        columns[name] = [  # of a short row, the last cells are NaN
            unescape_formulas(cell) if isinstance(cell, str) else "" for cell in columns[name]
        ]
    return columns


def _write_csv(path: Path, columns: Mapping[str, Any]) -> None:
    frame = _frame(columns)
    for name in frame.columns:
        if named(name, NUMERIC):
            frame[name] = frame[name].astype(np.float64)
        else:
            frame[name] = [escape_formulas(cell) for cell in frame[name]]
    frame.columns = [escape_formulas(name) for name in frame.columns]
    frame.to_csv(path, index=False, lineterminator="\r\n")  # so that either sign is quoted


def _read_parquet(path: Path) -> dict[str, cells.Column]:
    table = read_parquet(path)
    attributes = json.loads((table.schema.metadata or {}).get(b"PANDAS_ATTRS", b"{}"))
    frame = table.to_pandas()
    columns: dict[str, Any] = {name: frame[name].to_numpy() for name in frame.columns}
    return columns | {name: np.array(json.loads(value)) for name, value in attributes.items()}


def _write_parquet(path: Path, columns: Mapping[str, Any]) -> None:
    frame = _frame(columns)
    head = [name for name in ("head_weight", "head_bias") if name in columns]
    frame.attrs = {name: json.dumps(columns[name].tolist()) for name in head}
    frame.to_parquet(path, index=False)


def _frame(columns: Mapping[str, Any]) -> "pandas.DataFrame":
    """One column for each class, feature and channel, and values of all images in each row."""
    import pandas

    count, none = len(columns["label"]), np.zeros((0, 0))
    widths = columns.get("tap_widths", columns.get("taps", none).shape[1:])
    wide = {
        "logits": [f"logit_{label}" for label in columns["classes"]],
        "features": [f"feature_{at}" for at in range(columns.get("features", none).shape[1])],
        "taps": [f"tap_{tap}_{at}" for tap, width in enumerate(widths) for at in range(width)],
    }
    for opinion in columns:
        if opinion.startswith(ARRAY_OF_OPINION):
            name = opinion.removeprefix(ARRAY_OF_OPINION)
            wide[opinion] = [f"probability_{label}@{name}" for label in columns["classes"]]
    single = {name: columns[name] for name in columns if name not in (*WHOLE, *wide)}
    for array, names in wide.items():
        if array in columns:
            single |= dict(zip(names, columns[array].T, strict=True))
    single |= {name: [columns[name]] * count for name in ONCE if name in columns}
    whole = {name: x if isinstance(x, np.ndarray) else list(x) for name, x in single.items()}
    return pandas.DataFrame(whole)


def _read_npz(path: Path) -> dict[str, cells.Column]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        check_size(path, sum(entry.file_size for entry in arrays.zip.infolist()))
        columns = {name: arrays[name] for name in arrays.files}
    texts = [each.size for each in columns.values() if each.ndim == 1 and each.dtype.kind != "f"]
    check_size(path, CELL_BYTES * sum(texts))
    return columns


def _write_npz(path: Path, columns: Mapping[str, Any]) -> None:
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    for name, array in arrays.items():
        if array.dtype.kind in "OU":  # in UTF-8, which has a quarter of the bytes
            arrays[name] = np.char.encode(array.astype(str), "utf-8")
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # which has an option


Read = Callable[[Path], dict[str, cells.Column]]
Write = Callable[[Path, Mapping[str, Any]], None]
FILE_FORMATS: Registry[tuple[Read, Write]] = Registry(
    "kind of file",
    **{
        ".csv": (_read_csv, _write_csv),
        ".npz": (_read_npz, _write_npz),
        ".parquet": (_read_parquet, _write_parquet),
    },
)
"""Functions that read and write a kind of file, by its suffix."""
