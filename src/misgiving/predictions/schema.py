"""Columns of predictions, one row for each image.

| column | content |
|---|---|
| `logit_CLASS` or `probability_CLASS` | outputs of the model, one column for each class;
  probabilities are ignored where there are logits |
| `label` | true class; empty where it is not known |
| `id` | name of the image, each once; by default the number of its row, counted from 1 |
| `group`, `patient`, `lesion` | images that are not independent have the same value; empty where an
  image is a group of its own |
| `set` | `train`, `tune`, `calibrate`, `test` or `validation`; empty for an image of none of them;
  `excluded` for one that is never used |
| `feature_0`, ... | input of the model's last layer |
| `tap_0_0`, ... | averages of the activations that a loss estimator reads, by layer and channel |
| `predicted_loss` | higher means more likely wrong |
| `score_NAME` | another confidence: higher means more likely correct, or in-distribution |
| `path` | path of the image file, in a file relative to it |
| `content_hash` | SHA-256 of the content of the image file |
| `model` | name of the model, the same in all rows |
| any other | metadata, by which decisions are audited |

Instead of columns for each class, feature or channel there may be arrays with a row for each image:
`logits`, `probabilities`, `features` and `taps`, with the names of the classes as `classes` and the
columns of each tap as `tap_widths`. Three columns serve to read what was written: `outputs`, the
kind of output that the logits were made of, `group_columns`, the columns that `group` was made of,
and `class_weights`, those of the loss that the estimator learned.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from misgiving.errors import DataError
from misgiving.groups import UNITS, groups_of_columns
from misgiving.scores.outputs import Head

SETS = ("train", "tune", "calibrate", "test")
VALIDATION, EXCLUDED = "validation", "excluded"
UNKNOWN = -1  # the label of an image whose true class is not known
ADDS_UP = 0.02  # how far probabilities, which may be rounded, may be from adding up to 1
LEAST_PROBABILITY = 1e-12  # logits are finite
OUTPUTS = {"logits": "logit_", "probabilities": "probability_"}
TEXTS = {"id": "ids", "content_hash": "hashes", "path": "paths", "set": "sets"}
ONCE = ("model", "outputs", "group_columns", "class_weights")  # the same for all images
WHOLE = (*ONCE, "classes", "tap_widths", "head_weight", "head_bias")  # no value for each image
NUMBERS = ("logit_", "probability_", "feature_", "tap_", "score_", "predicted_loss")
"""How the names of columns of numbers begin."""
ESCAPE = "metadata_"  # before the name of metadata that is the name of another column
NO_COLUMNS = "none"  # in `group_columns`, of groups of near duplicates alone
TAP = re.compile(r"tap_(\d+)_(\d+)")

Matrix = Float[np.ndarray, "n columns"]
Column = Sequence[Any] | np.ndarray


def fields_of(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Predictions` that columns have; see the documentation of this module.

    Raises:
        DataError: A column is missing, or a value cannot be used; names its row and column.
    """
    left = dict(columns)
    prefix = left.pop("prefix", "")
    left = {name: _on_host(values) for name, values in left.items()}
    count = _count_rows(left)
    once = {name: _same_in_all(name, left.pop(name, ())) for name in ONCE}
    kind, classes, logits = _take_outputs(left)
    texts = {name: _texts(name, left.pop(name)) for name in (*TEXTS, *UNITS) if name in left}
    labels = _labels(_texts("label", left.pop("label", [])), classes, count)
    losses = left.pop("predicted_loss", None)
    head = [np.asarray(left.pop(name)) for name in ("head_weight", "head_bias") if name in left]
    taps, tap_widths = _take_taps(left)
    features = _take_features(left)
    scores = [name for name in left if name.startswith("score_")]
    fields: dict[str, Any] = {
        **{TEXTS[name]: tuple(texts[name]) for name in TEXTS if name in texts},
        "scores": {name.removeprefix("score_"): _numbers(name, left.pop(name)) for name in scores},
        "metadata": {
            name.removeprefix(ESCAPE): tuple(_texts(name, values)) for name, values in left.items()
        },
    }
    names, has_ids = _ids(texts.get("id"), prefix, count)
    groups, group_columns = groups_of_columns(texts, [""] * count)
    if once["group_columns"]:
        groups = tuple(texts["group"])
        group_columns = tuple(once["group_columns"].replace(NO_COLUMNS, "").split())
    _check_sets(texts.get("set"), groups)
    return fields | {
        "logits": logits,
        "classes": classes,
        "labels": labels,
        "ids": names,
        "has_ids": has_ids,
        "groups": groups,
        "group_columns": group_columns,
        "sets": fields["sets"] if any(fields.get("sets", ())) else None,
        "features": features,
        "taps": taps,
        "tap_widths": tap_widths,
        "predicted_losses": None if losses is None else _numbers("predicted_loss", losses),
        "head": Head(*head) if head else None,
        "model": once["model"],
        "class_weights": tuple(map(float, once["class_weights"].split())) or None,
        "outputs": once["outputs"] or kind,
    }


def columns_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of the fields of `Predictions`, of which `fields_of` makes the same fields."""
    classes, head = fields["classes"], fields["head"]
    head_weight, head_bias = (None, None) if head is None else head
    columns: dict[str, Any] = {
        "id": fields["ids"] if fields["has_ids"] else None,
        "content_hash": fields["hashes"],
        "path": fields["paths"],
        "set": fields["sets"],
        "group": fields["groups"] if any(fields["groups"]) else None,
        "label": np.array([*classes, ""], dtype=object)[fields["labels"]],  # -1 is the last
        "logits": fields["logits"],
        "classes": classes,
        "predicted_loss": fields["predicted_losses"],
        "features": fields["features"],
        "taps": fields["taps"],
        "tap_widths": fields["tap_widths"] or None,
        "head_weight": head_weight,
        "head_bias": head_bias,
        "model": fields["model"] or None,
        "outputs": fields["outputs"],
        "group_columns": " ".join(fields["group_columns"])
        or (NO_COLUMNS if any(fields["groups"]) else None),
        "class_weights": " ".join(map(repr, fields["class_weights"] or ())) or None,
    }
    taken = {*columns, *UNITS, "probabilities", "prefix"}
    columns |= {f"score_{name}": values for name, values in fields["scores"].items()}
    for name, values in fields["metadata"].items():
        is_taken = name in taken or name.startswith((*NUMBERS, ESCAPE))
        columns[f"{ESCAPE}{name}" if is_taken else name] = values
    return {name: values for name, values in columns.items() if values is not None}


def at(row: int, column: str, problem: str) -> DataError:
    """A problem with its place; rows are counted from 1."""
    return DataError(f"row {row + 1}, column {column}: {problem}")


def _on_host(values: Any) -> Column:
    """Values as they are, or as an array: of a tensor, and of a column of a data frame."""
    if isinstance(values, list | tuple) and any(hasattr(value, "detach") for value in values[:1]):
        return np.stack([np.asarray(_on_host(value)) for value in values])
    if isinstance(values, list | tuple):
        return values
    if not hasattr(values, "detach"):
        return np.atleast_1d(np.asarray(values))
    tensor = values.detach().cpu()
    try:
        return np.asarray(tensor)
    except TypeError:  # NumPy has no bfloat16
        return np.asarray(tensor.float())


def _count_rows(columns: Mapping[str, Column]) -> int:
    counts = {name: len(values) for name, values in columns.items() if name not in WHOLE}
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


def _same_in_all(name: str, values: Column) -> str:
    """The value of a column that is the same in all rows."""
    distinct = sorted(set(_texts(name, values)))
    if len(distinct) > 1:
        raise DataError(f"column {name}: names {distinct[0]!r} and {distinct[1]!r}; give one alone")
    return "".join(distinct)


def _take_outputs(columns: dict[str, Column]) -> tuple[str, tuple[str, ...], Matrix]:
    """Take the kind of outputs, the classes, and the logits or the logarithms of probabilities."""
    listed = columns.pop("classes", None)
    matrices = {kind: _take_matrix(columns, kind, prefix) for kind, prefix in OUTPUTS.items()}
    kind = next((kind for kind, matrix in matrices.items() if matrix is not None), None)
    if kind is None:
        raise DataError(
            "no column logit_CLASS or probability_CLASS; give one for each class, such as "
            "probability_melanoma"
        )
    names, values = matrices[kind] or ((), np.zeros((0, 0)))
    if listed is not None:
        names = tuple(_texts("classes", listed))
        if len(names) != values.shape[1]:
            raise DataError(f"classes has {len(names)} names, and {kind} {values.shape[1]} columns")
    if len(set(names)) != len(names) or len(names) < 2 or not all(names):
        raise DataError(f"{kind} need two classes or more with different names, got {names}")
    return kind, names, values if kind == "logits" else _logarithms(values, names)


def _take_matrix(
    columns: dict[str, Column], name: str, prefix: str
) -> tuple[tuple[str, ...], Matrix] | None:
    """Take the array of this name, or the columns with this prefix, with what follows it."""
    wide = columns.pop(name, None)
    narrow = [column for column in columns if column.startswith(prefix)]
    parts = [(column, columns.pop(column)) for column in narrow]
    if wide is not None:
        values = _matrix(name, wide, prefix)
        return tuple(map(str, range(values.shape[1]))), values
    if not parts:
        return None
    values = np.stack([_numbers(column, part) for column, part in parts], axis=1)
    return tuple(column.removeprefix(prefix) for column, _ in parts), values


def _matrix(name: str, values: Column, prefix: str) -> Matrix:
    """An array of finite numbers with a row for each image."""
    try:
        array = np.asarray(values)
        array = np.stack([*array]) if array.dtype == object and array.ndim == 1 else array
    except ValueError as error:  # as for lists of different lengths
        raise DataError(f"column {name}: {error}; give as many values for each image") from error
    if array.ndim != 2:
        raise DataError(f"{name} has the shape {array.shape}; give a row for each image")
    if array.dtype.kind == "f" and np.isfinite(array).all():
        return array
    columns = [_numbers(f"{prefix}{column}", part) for column, part in enumerate(array.T)]
    return np.stack(columns, axis=1) if columns else np.zeros(array.shape)


def _take_features(columns: dict[str, Column]) -> Matrix | None:
    """Take the features, in the order of their numbers; no columns are no features."""
    matrix = _take_matrix(columns, "features", "feature_")
    if matrix is None or not matrix[0]:
        return None
    names, values = matrix
    expected = [*map(str, range(len(names)))]
    if [*names] == expected:
        return values
    if sorted(names) != sorted(expected):
        other = next(name for name in names if name not in expected)
        raise DataError(
            f"feature_{other} is not one of feature_0 to feature_{len(names) - 1}; number the "
            "columns of features from 0, in the order of the model"
        )
    return values[:, [names.index(number) for number in expected]]


def _take_taps(columns: dict[str, Column]) -> tuple[Matrix | None, tuple[int, ...]]:
    """Take the averages of the taps and the columns of each, in the order of their numbers."""
    widths = tuple(int(width) for width in columns.pop("tap_widths", ()))
    if "taps" in columns:
        return _matrix("taps", columns.pop("taps"), "tap_0_"), widths
    places = {name: match.groups() for name in columns if (match := TAP.fullmatch(name))}
    order = sorted(places, key=lambda name: (*map(int, places[name]),))
    if not order:
        return None, widths
    counts: dict[int, int] = {}
    for name in order:
        layer = int(places[name][0])
        counts[layer] = counts.get(layer, 0) + 1
    values = np.stack([_numbers(name, columns.pop(name)) for name in order], axis=1)
    return values, tuple(counts.values())


def _logarithms(probabilities: Matrix, classes: Sequence[str]) -> Matrix:
    outside = (probabilities < 0) | (probabilities > 1)
    if outside.any():
        row, column = map(int, np.argwhere(outside)[0])
        value = probabilities[row, column]
        raise at(row, f"probability_{classes[column]}", f"{value:g} is not from 0 to 1")
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


def _numbers(name: str, values: Column) -> Float[np.ndarray, " n"]:
    """A column of finite numbers."""
    array = np.asarray(_flat(name, values))
    try:
        numbers = array if array.dtype.kind == "f" else array.astype(np.float64, casting="unsafe")
    except (TypeError, ValueError):
        row = next(row for row, value in enumerate(array.tolist()) if not _is_number(value))
        raise at(row, name, f"{values[row]!r} is not a number") from None
    if not np.isfinite(numbers).all():
        row = int(np.isfinite(numbers).argmin())
        raise at(row, name, f"{numbers[row]} is not a finite number")
    return np.asarray(numbers)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _flat(name: str, values: Column) -> Column:
    if isinstance(values, np.ndarray) and (values.ndim != 1 or values.dtype.kind in "cV"):
        raise DataError(
            f"{name} has the shape {values.shape} and the type {values.dtype}; give one value for "
            "each image"
        )
    return values


def _texts(name: str, values: Column) -> list[str]:
    """Cells as text without surrounding space; None and NaN become empty, whole numbers plain."""
    values = _flat(name, values)
    cells = values.tolist() if isinstance(values, np.ndarray) else values
    return [cell.strip() if type(cell) is str else _text(cell) for cell in cells]


def _text(cell: Any) -> str:
    if cell is None or type(cell).__name__ == "NAType" or cell != cell:  # pandas' missing value
        return ""
    if isinstance(cell, bytes):
        return cell.decode().strip()
    return str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell).strip()


def _ids(texts: Sequence[str] | None, prefix: str, count: int) -> tuple[tuple[str, ...], bool]:
    """Names of the images, and whether the columns have any; else they are numbers of rows."""
    if texts is None:
        numbers = map(str, range(1, count + 1))
        return tuple(f"{prefix} {number}" if prefix else number for number in numbers), False
    first: dict[str, int] = {}
    for row, name in enumerate(texts):
        if not name:
            raise at(row, "id", "is empty; name every image, or leave out the column")
        if first.setdefault(name, row) != row:
            raise at(row, "id", f"{name!r} is also in row {first[name] + 1}")
    return tuple(texts), True


def _labels(texts: Sequence[str], classes: Sequence[str], count: int) -> Int[np.ndarray, " n"]:
    """Positions of the true classes, from their names, or from positions where none is a name."""
    if not texts:
        return np.full(count, UNKNOWN)
    positions = {name: position for position, name in enumerate(classes)}
    if not any(text in positions for text in texts):
        positions = {str(position): position for position in range(len(classes))}
    positions = {"": UNKNOWN} | positions
    labels = [positions.get(text) for text in texts]
    if None in labels:
        row = labels.index(None)
        remedy = f"choose from {', '.join(map(str, classes))}"
        if [*classes] == [*map(str, range(len(classes)))] and not _is_number(texts[row]):
            remedy = "give `classes`, the names in the order of the columns"
        raise at(row, "label", f"unknown class {texts[row]!r}; {remedy}")
    return np.array(labels, dtype=np.int64)


def _check_sets(texts: Sequence[str] | None, groups: Sequence[str]) -> None:
    """Refuse an unknown set, and a group in two of the sets that must be apart."""
    first: dict[str, str] = {}
    for row, (name, group) in enumerate(zip(texts or (), groups, strict=False)):
        if name and name not in (*SETS, VALIDATION, EXCLUDED):
            raise at(row, "set", f"{name!r} is none of {', '.join(SETS)}")
        if group and name in SETS and first.setdefault(group, name) != name:
            raise at(
                row,
                "set",
                f"group {group!r} is in the sets {first[group]} and {name}; put each group into "
                "one set",
            )
