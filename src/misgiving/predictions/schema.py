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
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
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
NUMBERED = {"features": re.compile(r"feature_(\d+)"), "taps": re.compile(r"tap_(\d+)_(\d+)")}
TEXTS = {"id": "ids", "content_hash": "hashes", "path": "paths", "set": "sets"}
UNCHANGED = ("logits", "classes", "features", "taps", "tap_widths", "model", "outputs")
FIELDS = {**TEXTS, "predicted_loss": "predicted_losses", **{name: name for name in UNCHANGED}}
"""Fields of `Predictions` by the column that holds them."""
ONCE = ("model", "outputs", "group_columns", "class_weights")  # the same for all images
WHOLE = (*ONCE, "classes", "tap_widths", "head_weight", "head_bias")  # no value for each image
NUMBERS = ("logit_", "probability_", "feature_", "tap_", "score_", "predicted_loss")
"""Beginnings of the names of columns of numbers."""
ESCAPE = "metadata_"  # before the name of metadata that is the name of another column
NO_COLUMNS = "none"  # in `group_columns`, of groups of near duplicates alone

Matrix = Float[np.ndarray, "n columns"]
Column = Sequence[Any] | np.ndarray


def fields_of(columns: Mapping[str, Any], *, folder: Path = Path()) -> dict[str, Any]:
    """The fields of `Predictions` that columns have; see the documentation of this module.

    Args:
        columns: By name.
        folder: To which paths of images are relative.

    Raises:
        DataError: A column is missing, or a value cannot be used; names its row and column.
    """
    left = {name: _on_host(values) for name, values in columns.items() if name != "prefix"}
    count = _count_rows(left)
    once = {name: _same_in_all(name, left.pop(name, ())) for name in ONCE}
    outputs, classes, logits = _take_outputs(left)
    features, _ = _take_numbered(left, "features")
    taps, places = _take_numbered(left, "taps")
    widths = left.pop("tap_widths", None)
    head = [np.asarray(left.pop(name)) for name in ("head_weight", "head_bias") if name in left]
    losses = left.pop("predicted_loss", None)
    scores = [name for name in left if name.startswith("score_")]
    scores_of = {name.removeprefix("score_"): _numbers(name, left.pop(name)) for name in scores}
    texts = {name: _texts(left.pop(name)) for name in (*TEXTS, *UNITS, "label") if name in left}
    metadata = {name.removeprefix(ESCAPE): tuple(_texts(left[name])) for name in left}
    groups, group_columns = groups_of_columns(texts, [""] * count)
    if once["group_columns"]:
        groups = tuple(texts["group"])
        group_columns = tuple(once["group_columns"].replace(NO_COLUMNS, "").split())
    _check_sets(texts.get("set", ()), groups)
    paths = [str(folder / path) if path else "" for path in texts.get("path", ())]
    return {
        "logits": logits,
        "labels": _labels(texts.get("label"), classes, count),
        "classes": classes,
        "ids": _ids(texts.get("id"), str(columns.get("prefix", "")), count),
        "has_ids": "id" in texts,
        "groups": groups,
        "group_columns": group_columns,
        "hashes": tuple(texts["content_hash"]) if "content_hash" in texts else None,
        "paths": tuple(paths) if "path" in texts else None,
        "sets": tuple(texts["set"]) if any(texts.get("set", ())) else None,
        "features": features,
        "taps": taps,
        "tap_widths": tuple(map(int, widths))
        if widths is not None
        else tuple(Counter(layer for layer, _ in places).values()),
        "predicted_losses": None if losses is None else _numbers("predicted_loss", losses),
        "head": Head(*head) if head else None,
        "model": once["model"],
        "class_weights": tuple(map(float, once["class_weights"].split())) or None,
        "outputs": once["outputs"] or outputs,
        "metadata": metadata,
        "scores": scores_of,
    }


def columns_of(fields: Mapping[str, Any], *, folder: Path) -> dict[str, Any]:
    """Columns of the fields of `Predictions`, of which `fields_of` makes the same fields."""
    columns = {column: fields[field] for column, field in FIELDS.items()}
    columns["label"] = np.array([*fields["classes"], ""], dtype=object)[fields["labels"]]
    columns["head_weight"], columns["head_bias"] = fields["head"] or (None, None)
    columns["class_weights"] = " ".join(map(repr, fields["class_weights"] or ()))
    columns["group"] = columns["group_columns"] = None
    if any(fields["groups"]):
        columns["group"] = fields["groups"]
        columns["group_columns"] = " ".join(fields["group_columns"]) or NO_COLUMNS
    if fields["paths"] is not None:
        columns["path"] = [_relative(path, folder.absolute()) for path in fields["paths"]]
    if not fields["has_ids"]:
        del columns["id"]
    taken = {*columns, *UNITS, "id", "probabilities", "prefix"}
    columns |= {f"score_{name}": values for name, values in fields["scores"].items()}
    for name, values in fields["metadata"].items():
        is_taken = name in taken or name.startswith((*NUMBERS, ESCAPE))
        columns[f"{ESCAPE}{name}" if is_taken else name] = values
    return {
        name: values
        for name, values in columns.items()
        if values is not None and not (name in WHOLE and len(values) == 0)
    }


def _relative(path: str, folder: Path) -> str:
    if not path:
        return ""
    place = Path(path).absolute()
    return str(place.relative_to(folder) if place.is_relative_to(folder) else place)


def at(row: int, column: str, problem: str) -> DataError:
    """A problem with its place; rows are counted from 1."""
    return DataError(f"row {row + 1}, column {column}: {problem}")


def _on_host(values: Any) -> Column:
    """Values as they are, or as an array: of a tensor, and of a column of a data frame."""
    if hasattr(values, "detach"):
        tensor = values.detach().cpu()
        is_half = tensor.is_floating_point() and tensor.element_size() < 4  # as bfloat16
        return np.asarray(tensor.float() if is_half else tensor)
    return values if isinstance(values, list | tuple) else np.atleast_1d(np.asarray(values))


def _count_rows(columns: Mapping[str, Column]) -> int:
    counts = {name: len(values) for name, values in columns.items() if name not in WHOLE}
    first, count = next(iter(counts.items()), ("", 0))
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
    distinct = sorted(set(_texts(values)))
    if len(distinct) > 1:
        raise DataError(f"column {name}: names {distinct[0]!r} and {distinct[1]!r}; give one alone")
    return "".join(distinct)


def _take_outputs(columns: dict[str, Column]) -> tuple[str, tuple[str, ...], Matrix]:
    """Take the kind of outputs, the classes, and the logits or the logarithms of probabilities."""
    names = [*columns]
    listed = columns.pop("classes", None)
    given: dict[str, tuple[tuple[str, ...], Matrix]] = {}
    for kind, prefix in OUTPUTS.items():
        single = [name for name in names if name.startswith(prefix)]
        parts = {name.removeprefix(prefix): _numbers(name, columns.pop(name)) for name in single}
        if kind in columns:
            values = _numbers(kind, columns.pop(kind), axes=2)
            given[kind] = tuple(map(str, range(values.shape[1]))), values
        elif parts:
            given[kind] = tuple(parts), np.stack([*parts.values()], axis=1)
    if not given:
        raise DataError(
            f"no column logit_CLASS or probability_CLASS among {', '.join(names)}; give one for "
            "each class, such as probability_melanoma, and separate columns by commas"
        )
    kind, (classes, values) = next(iter(given.items()))
    classes = classes if listed is None else tuple(_texts(listed))
    distinct = {*classes} - {""}
    if not 2 <= len(distinct) == len(classes) == values.shape[1]:
        raise DataError(
            f"{kind} have {values.shape[1]} columns, and the classes {classes}; give two classes "
            "or more, with different names"
        )
    return kind, classes, values if kind == "logits" else _logarithms(values, classes)


def _take_numbered(
    columns: dict[str, Column], name: str
) -> tuple[Matrix | None, list[tuple[int, ...]]]:
    """Take the array of this name, or its single columns, in the order of their numbers."""
    if name in columns:
        values = _numbers(name, columns.pop(name), axes=2)
        return values if values.shape[1] else None, []
    matches = {column: NUMBERED[name].fullmatch(column) for column in columns}
    numbers = {column: tuple(map(int, m.groups())) for column, m in matches.items() if m}
    order = sorted(numbers, key=numbers.__getitem__)
    parts = [_numbers(column, columns.pop(column)) for column in order]
    return np.stack(parts, axis=1) if parts else None, [numbers[column] for column in order]


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


def _numbers(name: str, values: Column, *, axes: int = 1) -> Float[np.ndarray, "n ..."]:
    """A column of finite numbers, or with two axes an array with a row for each image."""
    try:
        array = np.asarray(values)
        if axes == 2 and array.dtype == object:
            array = np.stack([*array])
        numbers = array if array.dtype.kind == "f" else array.astype(np.float64)
    except (TypeError, ValueError) as error:
        cells = values.tolist() if isinstance(values, np.ndarray) else values
        if (row := _first_text(cells)) is not None:
            raise at(row, name, f"{cells[row]!r} is not a number") from None
        raise DataError(f"column {name}: {error}; give as many values for each image") from error
    if numbers.ndim != axes:
        raise DataError(f"{name} has the shape {numbers.shape}; give a row for each image")
    finite = np.isfinite(numbers)
    if not finite.all():
        row = int(np.argwhere(~finite)[0][0])
        raise at(row, name, f"{numbers[~finite][0]} is not a finite number")
    return np.asarray(numbers)


def _first_text(cells: Sequence[Any]) -> int | None:
    """Row of the first cell that is neither a number nor a list of numbers."""
    for row, cell in enumerate(cells):
        try:
            np.asarray(cell, dtype=np.float64)
        except (TypeError, ValueError):
            return row
    return None


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


def _ids(texts: Sequence[str] | None, prefix: str, count: int) -> tuple[str, ...]:
    """Names of the images, each once; numbers of rows where the columns have none."""
    if texts is None:
        return tuple(f"{prefix} {number}".strip() for number in range(1, count + 1))
    first: dict[str, int] = {}
    for row, name in enumerate(texts):
        if not name:
            raise at(row, "id", "is empty; name every image, or leave out the column")
        if first.setdefault(name, row) != row:
            raise at(row, "id", f"{name!r} is also in row {first[name] + 1}")
    return tuple(texts)


def _labels(
    texts: Sequence[str] | None, classes: Sequence[str], count: int
) -> Int[np.ndarray, " n"]:
    """Positions of the true classes, from their names, or from positions where none is a name."""
    if texts is None:
        return np.full(count, UNKNOWN)
    names = [*classes] if {*texts} & {*classes} else [*map(str, range(len(classes)))]
    positions = {"": UNKNOWN} | {name: position for position, name in enumerate(names)}
    labels = [positions.get(text) for text in texts]
    if None in labels:
        row = labels.index(None)
        raise at(row, "label", f"unknown class {texts[row]!r}; choose from {', '.join(classes)}")
    return np.array(labels, dtype=np.int64)


def _check_sets(texts: Sequence[str], groups: Sequence[str]) -> None:
    """Check that each set is known, and that no group is in two of those that must be apart."""
    first: dict[str, str] = {}
    for row, (name, group) in enumerate(zip(texts, groups, strict=False)):
        if name and name not in (*SETS, VALIDATION, EXCLUDED):
            raise at(row, "set", f"{name!r} is none of {', '.join(SETS)}")
        if group and name in SETS and first.setdefault(group, name) != name:
            raise at(
                row,
                "set",
                f"group {group!r} is in the sets {first[group]} and {name}; put each group into "
                "one set",
            )
