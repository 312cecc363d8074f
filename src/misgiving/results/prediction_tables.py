"""Predictions of a model of any origin as a table, one row for each image.

| column | content |
|---|---|
| `logit_CLASS` or `probability_CLASS` | outputs of the model, one column for each class;
  probabilities are ignored where there are logits |
| `label` | true class; empty where it is not known |
| `id` | name of the image, each once; by default the number of its row, counted from 1 |
| `group`, `patient`, `lesion` | images that are not independent have the same value |
| `set` | `train`, `tune`, `calibrate` or `test` |
| `feature_0`, ... | input of the model's last layer |
| `predicted_loss` | higher means more likely wrong |
| `image` | path of the image file, in a file relative to it |
| `model` | name of the model, the same in all rows |
| any other | metadata, by which decisions are audited |

A file is `.csv`, `.parquet`, or `.npz` with an array for each column; it may instead have `logits`,
`probabilities` and `features` as arrays with a row for each image, and the names of the classes as
`classes`. What `misgiving evaluate` writes (`.safetensors`) is read as well.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from misgiving.errors import DataError, explain_damage, visible
from misgiving.groups import UNITS, NamedGroups, groups_of_columns, own_group
from misgiving.results.prediction_files import READERS, Column, at, is_number
from misgiving.results.predictions import Predictions

SETS = ("train", "tune", "calibrate", "test")
NOT_NUMBERS = "cVmM"  # complex values, records and times, of which NumPy would take a part
UNKNOWN = -1  # the label of an image whose true class is not known
ADDS_UP = 0.02  # how far probabilities, which may be rounded, may be from adding up to 1
LONGEST = 400  # characters of a message, which may quote a cell or name a thousand classes
LEAST_PROBABILITY = 1e-12  # logits are finite
OUTPUTS = {"logits": "logit_", "probabilities": "probability_"}
OWN_COLUMNS = ("label", "id", "set", "predicted_loss", "image", "model", *UNITS)
REMEDY = "write the file again"

Matrix = Float[np.ndarray, "n columns"]


@runtime_checkable
class Columns(Protocol):
    """Columns by name: a mapping, or a data frame."""

    def keys(self) -> Iterable[Any]: ...

    def __getitem__(self, name: Any, /) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class PredictionTable:
    """Predictions, and what else is known of the images.

    Attributes:
        predictions: Outputs, labels (-1 where the true class is not known), ids and groups.
        sets: Set of each image; None where the table does not say.
        images: Path of each image; None where the table does not say.
        group_columns: Columns that define the groups; none: each image is its own.
        metadata: Other columns by name.
        outputs: `logits`, or `probabilities`, of which the logits are then the logarithms; empty
            where it is not known.
        has_ids: Whether the ids are names of the images, and not numbers of rows.
    """

    predictions: Predictions
    outputs: str = ""
    has_ids: bool = True
    sets: tuple[str, ...] | None = None
    images: tuple[str, ...] | None = None
    group_columns: tuple[str, ...] = ()
    metadata: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.predictions)

    @property
    def own_groups(self) -> tuple[str, ...]:
        """The group of each image where no column has a value for it."""
        ids = self.predictions.ids
        return tuple(map(own_group, ids)) if self.group_columns else ids

    def select(self, rows: Int[np.ndarray, " _"]) -> "PredictionTable":
        """The table of these rows alone, in this order."""

        def chosen(values: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(values[row] for row in rows)

        return replace(
            self,
            predictions=self.predictions.select(rows),
            sets=None if self.sets is None else chosen(self.sets),
            images=None if self.images is None else chosen(self.images),
            metadata={name: chosen(values) for name, values in self.metadata.items()},
        )

    def rows_of(self, set_name: str) -> Int[np.ndarray, " _"]:
        """Positions of the images of a set."""
        return np.flatnonzero(np.array(self.sets or ()) == set_name)

    def refuse_unlabelled(self) -> None:
        """Refuse a table in which a true class is missing."""
        unknown = self.predictions.labels == UNKNOWN
        if unknown.any():
            name = self.predictions.ids[int(unknown.argmax())]
            raise DataError(
                f"{unknown.sum()} of {len(self)} rows have no label, the first is {name!r}; give "
                "the true class of each as the column label"
            )

    @classmethod
    def of(cls, predictions: Predictions) -> "PredictionTable":
        """A table of predictions that name the groups, and not the columns that define them."""
        counts = Counter(predictions.groups)
        cells = [
            "" if group in (name, own_group(name)) and counts[group] == 1 else group
            for group, name in zip(predictions.groups, predictions.ids, strict=True)
        ]
        named = groups_of_columns({"group": cells}, [*map(own_group, predictions.ids)])
        if not named.columns:
            return cls(predictions=predictions)
        grouped = replace(predictions, groups=named.groups)
        return cls(predictions=grouped, group_columns=named.columns)

    @classmethod
    def from_columns(cls, columns: Columns) -> "PredictionTable":
        """Make a table of arrays, lists or tensors by name, or of a pandas data frame.

        Columns are those of a file; see the documentation of this module.

        Raises:
            DataError: A column is missing, or a value cannot be used; names its row and column.
        """
        known = {str(name): _on_host(columns[name]) for name in columns.keys()}  # noqa: SIM118  # a frame is no dict
        count = _refuse_lengths(known)
        outputs, classes, logits = _outputs(known, count)
        given = [name for name in OWN_COLUMNS if name in known]
        texts = {
            name: _texts(_flat(name, known.pop(name))) for name in given if name != "predicted_loss"
        }
        ids = _ids(texts, count)
        named = groups_of_columns(texts, [*map(own_group, ids)])
        losses = known.pop("predicted_loss", None)
        sets = _sets(texts.get("set"), named)
        return cls(
            predictions=Predictions(
                logits=logits,
                features=_features(known, count),
                predicted_losses=None if losses is None else _numbers("predicted_loss", losses),
                labels=_labels(texts.get("label"), classes, count),
                ids=ids,
                groups=named.groups if named.columns else ids,
                classes=classes,
                model=_model(texts.get("model")),
            ),
            outputs=outputs,
            has_ids="id" in texts,
            sets=sets,
            images=tuple(texts["image"]) if "image" in texts else None,
            group_columns=named.columns,
            metadata={name: tuple(_texts(_flat(name, of))) for name, of in known.items()},
        )

    @classmethod
    def read(cls, path: Path) -> "PredictionTable":
        """Read a file.

        Raises:
            DataError: The file is missing, damaged, or no table of predictions; the message names
                the row and column.
        """
        if not path.is_file():  # reading a pipe would block for ever
            raise DataError(f"{path}: no such file, or not an ordinary file; check the path")
        suffix = path.suffix.lower()
        if suffix == ".safetensors":
            return cls.of(Predictions.load(path))
        try:
            with explain_damage(path, remedy=REMEDY):
                columns = READERS[suffix](path)
            table = cls.from_columns(columns)
            if table.images is None:
                return table
            found = (str(path.parent / name) if name else "" for name in table.images)
            return replace(table, images=tuple(found))
        except DataError as error:
            name = f"{path}: "
            raise DataError(name + _shortened(visible(str(error).removeprefix(name)))) from error
        except MemoryError as error:
            raise DataError(f"{path}: does not fit into memory; give fewer rows") from error


def _shortened(message: str) -> str:
    """A message with its place and its remedy, and without the middle of what is quoted."""
    return message if len(message) <= LONGEST else f"{message[:LONGEST]} ... {message[-100:]}"


def _on_host(values: Any) -> Column:
    """Values as they are, or as an array: of a tensor, and of a column of a data frame."""
    if isinstance(values, list | tuple) and any(hasattr(one, "detach") for one in values[:1]):
        return np.stack([np.asarray(_on_host(one)) for one in values])
    if isinstance(values, list | tuple | np.ndarray):
        return values
    if not hasattr(values, "detach"):
        return np.asarray(values)
    tensor = values.detach().cpu()
    try:
        return np.asarray(tensor)
    except TypeError:  # NumPy has no bfloat16
        return np.asarray(tensor.float())


def _refuse_lengths(columns: Mapping[str, Column]) -> int:
    """The number of rows."""
    counts = {name: len(values) for name, values in columns.items() if name != "classes"}
    if not counts:
        raise DataError("no columns; give logit_CLASS or probability_CLASS for each class")
    first, count = next(iter(counts.items()))
    for name, other in counts.items():
        if other != count:
            raise DataError(
                f"column {name} has {other} rows, and {first} has {count}; give one value "
                "for each image"
            )
    if not count:
        raise DataError("no rows; give one for each image")
    return count


def _outputs(columns: dict[str, Column], count: int) -> tuple[str, tuple[str, ...], Matrix]:
    """Take the kind of outputs, the classes, and the logits or the logarithms of probabilities."""
    listed = columns.pop("classes", None)
    found = {kind: _matrix(columns, kind, prefix) for kind, prefix in OUTPUTS.items()}
    kind = next((kind for kind, of in found.items() if of is not None), None)
    if kind is None:
        raise DataError(
            "no column logit_CLASS or probability_CLASS; give one for each class, such as "
            "probability_melanoma"
        )
    names, values = found[kind] or ((), np.zeros((count, 0)))
    if not all(names):
        raise DataError(f"a column is named {OUTPUTS[kind]} without a class; add the class's name")
    if listed is not None:
        names = tuple(_texts(listed))
        if len(names) != values.shape[1]:
            raise DataError(f"classes has {len(names)} names, and {kind} {values.shape[1]} columns")
    if len(set(names)) != len(names) or len(names) < 2:
        raise DataError(f"{kind} need two classes or more with different names, got {names}")
    return kind, names, values if kind == "logits" else _log(values, OUTPUTS[kind], names)


def _matrix(
    columns: dict[str, Column], name: str, prefix: str
) -> tuple[tuple[str, ...], Matrix] | None:
    """Take the array of this name, or the columns with this prefix, with what follows it."""
    wide = columns.pop(name, None)
    narrow = [column for column in columns if column.startswith(prefix)]
    parts = [(column, columns.pop(column)) for column in narrow]
    if wide is not None:
        values = np.asarray(wide)
        if values.ndim != 2:
            raise DataError(f"{name} has the shape {values.shape}; give a row for each image")
        parts = [(f"{prefix}{number}", column) for number, column in enumerate(values.T)]
    if not parts:
        return None
    values = np.stack([_numbers(column, of) for column, of in parts], axis=1)
    return tuple(column.removeprefix(prefix) for column, _ in parts), values


def _log(probabilities: Matrix, prefix: str, classes: Sequence[str]) -> Matrix:
    outside = (probabilities < 0) | (probabilities > 1)
    if outside.any():
        row, column = map(int, np.argwhere(outside)[0])
        value = probabilities[row, column]
        raise DataError(at(row, f"{prefix}{classes[column]}", f"{value:g} is not from 0 to 1"))
    totals = probabilities.sum(axis=1)
    off = np.abs(totals - 1) > ADDS_UP
    if off.any():
        row = int(off.argmax())
        raise DataError(
            f"row {row + 1}: the probabilities add up to {totals[row]:.4g} instead of 1; give one "
            "for each class, or logits"
        )
    logarithms: Matrix = np.log(np.maximum(probabilities, LEAST_PROBABILITY))
    return logarithms


def _features(columns: dict[str, Column], count: int) -> Matrix:
    """Take the features, in the order of their numbers."""
    found = _matrix(columns, "features", "feature_")
    if found is None:
        return np.zeros((count, 0))
    names, values = found
    expected = [*map(str, range(len(names)))]
    if sorted(names) != sorted(expected):
        other = next(name for name in names if name not in expected)
        raise DataError(
            f"feature_{other} is not one of feature_0 to feature_{len(names) - 1}; number the "
            "columns of features from 0, in the order of the model"
        )
    return values[:, [names.index(number) for number in expected]]


def _numbers(name: str, values: Column) -> Float[np.ndarray, " n"]:
    """A column of finite numbers."""
    array = _flat(name, values)
    if getattr(array, "dtype", np.dtype(float)).kind in NOT_NUMBERS:
        raise DataError(at(0, name, f"{array[0]!r} is not a number"))
    try:
        numbers: Float[np.ndarray, " n"] = np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError):
        row = next(row for row, value in enumerate(array) if not is_number(value))
        raise DataError(at(row, name, f"{array[row]!r} is not a number")) from None
    if not np.isfinite(numbers).all():
        row = int(np.isfinite(numbers).argmin())
        raise DataError(at(row, name, f"{numbers[row]} is not a finite number"))
    return numbers


def _flat(name: str, values: Column) -> Column:
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise DataError(f"{name} has the shape {values.shape}; give one value for each image")
    return values


def _texts(values: Column) -> list[str]:
    """Cells as text without surrounding space; None and NaN become empty, whole numbers plain."""
    cells = values.tolist() if isinstance(values, np.ndarray) else values
    return [cell.strip() if type(cell) is str else _text(cell) for cell in cells]


def _text(cell: Any) -> str:
    if cell is None or type(cell).__name__ == "NAType" or cell != cell:  # pandas' missing value
        return ""
    if isinstance(cell, bytes):
        return cell.decode().strip()
    return str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell).strip()


def _ids(texts: Mapping[str, list[str]], count: int) -> tuple[str, ...]:
    ids = texts.get("id")
    if ids is None:
        return tuple(map(str, range(1, count + 1)))
    first: dict[str, int] = {}
    for row, name in enumerate(ids):
        if not name:
            raise DataError(at(row, "id", "is empty; name every image, or leave out the column"))
        if first.setdefault(name, row) != row:
            raise DataError(at(row, "id", f"{name!r} is also in row {first[name] + 1}"))
    return tuple(ids)


def _labels(
    texts: Sequence[str] | None, classes: Sequence[str], count: int
) -> Int[np.ndarray, " n"]:
    """Positions of the true classes, from their names, or from positions where none is a name."""
    if texts is None:
        return np.full(count, UNKNOWN)
    positions = {name: position for position, name in enumerate(classes)}
    if not any(text in positions for text in texts):
        positions = {str(position): position for position in range(len(classes))}
    positions = {"": UNKNOWN} | positions
    found = [positions.get(text) for text in texts]
    if None in found:
        row = found.index(None)
        remedy = f"choose from {', '.join(map(str, classes))}"
        if [*classes] == [*map(str, range(len(classes)))] and not is_number(texts[row]):
            remedy = "give `classes`, the names in the order of the columns"
        raise DataError(at(row, "label", f"unknown class {texts[row]!r}; {remedy}"))
    return np.array(found, dtype=np.int64)


def _sets(texts: Sequence[str] | None, named: NamedGroups) -> tuple[str, ...] | None:
    if texts is None or not any(texts):
        return None
    first: dict[str, str] = {}
    for row, (name, group) in enumerate(zip(texts, named.groups, strict=True)):
        if name not in SETS:
            raise DataError(at(row, "set", f"{name!r} is none of {', '.join(SETS)}"))
        if first.setdefault(group, name) != name:
            raise DataError(
                at(row, "set", f"group {group!r} is in the sets {first[group]} and {name}; ")
                + "put each group into one set"
            )
    return tuple(texts)


def _model(texts: Sequence[str] | None) -> str:
    names = sorted(set(texts or ()))
    if len(names) > 1:
        raise DataError(f"column model: names {names[0]!r} and {names[1]!r}; give one model alone")
    return "".join(names)
