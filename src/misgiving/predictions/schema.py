"""Columns of predictions, one row for each image.

| column | content |
|---|---|
| `logit_CLASS` or `probability_CLASS` | outputs of the model, one column for each class;
  probabilities are ignored where there are logits |
| `probability_CLASS@NAME` | probabilities by another model of this name, for each class: a second
  opinion, which helps to judge the answer and never changes it |
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
| `reader_NAME` | class that this reader gave, without seeing the model's; empty where unread |
| `path` | path of the image file, in a file relative to it |
| `content_hash` | SHA-256 of the content of the image file; copies are in one group |
| `model` | name of the model, the same in all rows |
| any other | metadata, by which decisions are audited |

Instead of columns for each class, feature or channel there may be arrays with a row for each image:
`logits`, `probabilities`, `probabilities@NAME`, `features` and `taps`, with the names of the
classes as `classes` and the columns of each tap as `tap_widths`. Three columns serve to read what
was written: `outputs`, the kind of output that the logits were made of, `group_columns`, the
columns that `group` was made of, and `class_weights`, those of the loss that the estimator learned.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from misgiving.errors import DataError
from misgiving.groups import UNITS, chained, groups_of_columns, join_groups
from misgiving.scores.outputs import Head, logarithms_of

SETS = ("train", "tune", "calibrate", "test")
VALIDATION, EXCLUDED = "validation", "excluded"
UNKNOWN = -1  # the label of an image whose true class is not known
ADDS_UP = 0.02  # how far probabilities, which may be rounded, may be from adding up to 1
ROUNDING = 1e-6  # how far one may be outside of 0 to 1
LARGEST = np.finfo(np.float32).max
WIDE = {
    "logits": re.compile(r"logit_(.*)", re.DOTALL),
    "probabilities": re.compile(r"probability_([^@]*)"),
    "features": re.compile(r"feature_(\d+)"),
    "taps": re.compile(r"tap_(\d+)_(\d+)"),
}
"""Names of the columns that one array may replace, by its name."""
OPINION = re.compile(r"(?:probability_(.*)|probabilities)@([^@]+)", re.DOTALL)
"""Names of the columns of second opinions, and of the array that may replace them."""
TEXTS = {"id": "ids", "content_hash": "hashes", "path": "paths", "set": "sets"}
UNCHANGED = ("logits", "classes", "features", "taps", "tap_widths", "model")
FIELDS = {
    **TEXTS,
    "predicted_loss": "predicted_losses",
    "outputs": "kind",
    **{name: name for name in UNCHANGED},
}
"""Fields of `Predictions` by the column that holds them."""
ONCE = ("model", "outputs", "group_columns", "class_weights")  # the same for all images
WHOLE = (*ONCE, "classes", "tap_widths", "head_weight", "head_bias")  # no value for each image
ARRAY_OF_OPINION = "probabilities@"
NUMBERS = (
    *("logit_", "probability_", "feature_", "tap_", "score_", "predicted_loss"),
    ARRAY_OF_OPINION,
)
"""Beginnings of the names of columns of numbers."""
READER = "reader_"  # before the name of a reader
ESCAPE = "metadata_"  # before the name of metadata that is the name of another column
NO_COLUMNS = "none"  # in `group_columns`, of groups of near duplicates alone

Matrix = Float[np.ndarray, "n columns"]
Column = Sequence[Any] | np.ndarray


def fields_of(
    columns: Mapping[str, Any], *, folder: Path = Path(), name: str = ""
) -> dict[str, Any]:
    """The fields of `Predictions` that columns have; see the documentation of this module.

    Args:
        columns: By name.
        folder: To which paths of images are relative.
        name: Of the set; begins the ids of images that have none.

    Raises:
        DataError: A column is missing, or a value cannot be used; names its row and column.
    """
    left = {column: on_host(values) for column, values in columns.items()}
    count = _count_rows(left)
    once = {column: _same_in_all(column, left.pop(column, ())) for column in ONCE}
    was_written = bool(once["outputs"])  # by `columns_of`; then nothing is inferred
    kind, classes, logits = _take_outputs(left)
    opinions = _take_opinions(left, classes)
    if not was_written and kind == "logits" and are_probabilities(logits):
        raise DataError(
            "each row of the logits is from 0 to 1 and adds up to 1, as probabilities do; name "
            "them so: dict(probabilities=P, label=y), or columns probability_CLASS"
        )
    features, _ = _take_wide(left, "features")
    taps, places = _take_wide(left, "taps")
    widths = left.pop("tap_widths", [*Counter(tap for tap, _ in places).values()])
    head = [np.asarray(left.pop(part)) for part in ("head_weight", "head_bias") if part in left]
    numbers = {
        column: _numbers(column, left.pop(column))
        for column in [*left]
        if column == "predicted_loss" or column.startswith("score_")
    }
    texts = {
        column: _texts(left.pop(column)) for column in (*TEXTS, *UNITS, "label") if column in left
    }
    readers = take_readers(left, classes)
    ids = _ids(texts.get("id"), name, count)
    groups, group_columns = groups_of_columns(texts, [""] * count)
    if not was_written:
        groups = join_groups(groups, ids, chained(texts.get("content_hash", ())))
    if once["group_columns"]:
        if others := [column for column in UNITS if column in texts and column != "group"]:
            raise DataError(f"the groups are in the column group; put those of {others[0]} into it")
        groups = tuple(texts["group"])
        group_columns = tuple(once["group_columns"].replace(NO_COLUMNS, "").split())
    _check_sets(texts.get("set", ()), groups)
    return {
        "logits": logits,
        "labels": _positions("label", texts.get("label", [""] * count), classes, unused=left),
        "classes": classes,
        "ids": ids,
        "has_ids": "id" in texts,
        "groups": groups,
        "group_columns": group_columns,
        "hashes": tuple(texts["content_hash"]) if "content_hash" in texts else None,
        "paths": tuple(str(folder / path) if path else "" for path in texts["path"])
        if "path" in texts
        else None,
        "sets": tuple(texts["set"]) if any(texts.get("set", ())) else None,
        "features": features,
        "taps": taps,
        "tap_widths": tuple(map(int, widths)),
        "predicted_losses": numbers.pop("predicted_loss", None),
        "head": Head(*head) if head else None,
        "model": once["model"],
        "class_weights": tuple(map(float, once["class_weights"].split())) or None,
        "kind": once["outputs"] or kind,
        "metadata": {column.removeprefix(ESCAPE): tuple(_texts(left[column])) for column in left},
        "scores": {column.removeprefix("score_"): numbers[column] for column in numbers},
        "readers": readers,
        "opinions": opinions,
    }


def take_readers(
    columns: dict[str, Any], classes: Sequence[str]
) -> dict[str, Int[np.ndarray, " n"]]:
    """Take the columns `reader_NAME`: positions of classes by name, -1 where there is no answer.

    Raises:
        DataError: A class is unknown; names its row and column.
    """
    return {
        column.removeprefix(READER): _positions(column, _texts(columns.pop(column)), classes)
        for column in [*columns]
        if column.startswith(READER)
    }


def columns_of(fields: Mapping[str, Any], *, folder: Path) -> dict[str, Any]:
    """Columns of the fields of `Predictions`, of which `fields_of` makes the same fields."""
    columns = {column: fields[field] for column, field in FIELDS.items()}
    names = np.array([*fields["classes"], ""], dtype=object)
    columns["label"] = names[fields["labels"]]
    columns |= {f"{READER}{name}": names[answers] for name, answers in fields["readers"].items()}
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
    taken = {*columns, *UNITS, "id", "probabilities"}
    columns |= {f"score_{name}": values for name, values in fields["scores"].items()}
    columns |= {f"{ARRAY_OF_OPINION}{name}": each for name, each in fields["opinions"].items()}
    for name, values in fields["metadata"].items():
        is_taken = name in taken or name.startswith((*NUMBERS, READER, ESCAPE))
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


def _at(row: int, column: str, problem: str) -> DataError:
    """A problem with its place; rows are counted from 1."""
    return DataError(f"row {row + 1}, column {column}: {problem}")


def on_host(values: Any) -> Column:
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
    taken = {kind: _take_wide(columns, kind) for kind in ("logits", "probabilities")}
    kind = "probabilities" if taken["logits"][0] is None else "logits"
    values, places = taken[kind]
    if values is None:
        raise DataError(
            f"no column logit_CLASS or probability_CLASS among {', '.join(names)}; give one for "
            "each class, such as probability_melanoma, and separate columns by commas"
        )
    if listed is None:
        listed = [name for (name,) in places] or [*range(values.shape[1])]
    classes = tuple(_texts(listed))
    distinct = {*classes} - {""}
    if not 2 <= len(distinct) == len(classes) == values.shape[1]:
        raise DataError(
            f"{kind} have {values.shape[1]} columns, and the classes {classes}; give two classes "
            "or more, with different names"
        )
    if kind == "probabilities":
        _check_probabilities(values)
        values = logarithms_of(values)
    return kind, classes, values


def _take_opinions(columns: dict[str, Column], classes: Sequence[str]) -> dict[str, Matrix]:
    """Take the probabilities by other models, by their names, in the order of the classes."""
    taken: dict[str, dict[Any, Column]] = {}
    for column in [*columns]:
        if match := OPINION.fullmatch(column):
            label, name = match.groups()
            values = _numbers(column, columns.pop(column), axes=2 if label is None else 1)
            labels = (*classes, *range(values.shape[1])) if label is None else (label,)
            taken.setdefault(name, {}).update(zip(labels, np.atleast_2d(values.T), strict=False))
    opinions = {}
    for name, by_class in taken.items():
        if by_class.keys() != {*classes}:
            raise DataError(
                f"the opinion of {name} is not on the classes {', '.join(classes)}; give a column "
                f"probability_CLASS@{name} for each"
            )
        opinions[name] = np.stack([by_class[label] for label in classes], axis=1)
        _check_probabilities(opinions[name])
    return opinions


def _take_wide(
    columns: dict[str, Column], name: str
) -> tuple[Matrix | None, list[tuple[str, ...]]]:
    """Take the array of this name, or its single columns and what their names end in."""
    if name in columns:
        values = _numbers(name, columns.pop(name), axes=2)
        return values if values.shape[1] else None, []
    matches = {column: WIDE[name].fullmatch(column) for column in columns}
    places = {column: match.groups() for column, match in matches.items() if match}
    if name in ("features", "taps"):  # in the order of their numbers
        places = dict(sorted(places.items(), key=lambda place: [*map(int, place[1])]))
    parts = [_numbers(column, columns.pop(column)) for column in places]
    return np.stack(parts, axis=1) if parts else None, [*places.values()]


def are_probabilities(values: Any) -> bool:
    """True for an array of which each row is from 0 to 1 and adds up to 1, but for rounding."""
    array = np.asarray(values)
    is_table = array.dtype.kind in "fiub" and array.ndim == 2 and array.shape[1] > 0
    return is_table and bool(_mark_probabilities(array).all())


def _mark_probabilities(values: Matrix) -> Bool[np.ndarray, " n"]:
    """Mark the rows that are probabilities."""
    inside = (values.min(axis=1) >= -ROUNDING) & (values.max(axis=1) <= 1 + ROUNDING)
    return np.asarray(inside & (np.abs(values.sum(axis=1) - 1) <= ADDS_UP))


def _check_probabilities(probabilities: Matrix) -> None:
    right = _mark_probabilities(probabilities)
    if not right.all():
        row = int(right.argmin())
        least, most, total = (function(probabilities[row]) for function in (np.min, np.max, np.sum))
        raise DataError(
            f"row {row + 1}: the probabilities are {least:.4g} to {most:.4g} and add up to "
            f"{total:.4g}; give one from 0 to 1 for each class, in all 1, or give logits"
        )


def _numbers(name: str, values: Column, *, axes: int = 1) -> Float[np.ndarray, "n ..."]:
    """A column of finite numbers, or with two axes an array with a row for each image."""
    try:
        array = np.asarray(values)
        if axes == 2 and array.dtype == object:
            array = np.stack([*array])
        is_wide = array.dtype.kind == "f" and array.itemsize >= np.float32().itemsize
        numbers = array if is_wide else array.astype(np.float64)
    except (TypeError, ValueError) as error:
        for row, cell in enumerate(values):
            with suppress(TypeError, ValueError):
                np.asarray(cell, dtype=np.float64)
                continue
            raise _at(row, name, f"{str(cell)!r} is not a number") from error
        raise DataError(f"column {name}: {error}; give as many values for each image") from None
    if numbers.ndim != axes:
        raise DataError(f"{name} has the shape {numbers.shape}; give a row for each image")
    usable = np.abs(numbers) <= LARGEST  # NaN is not
    if not usable.all():
        row = int(np.argwhere(~usable)[0][0])
        raise _at(row, name, f"{numbers[~usable][0]} is not a finite number of single precision")
    return np.asarray(numbers)


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
    first = {"": -1}
    for row, name in enumerate(texts):
        if first.setdefault(name, row) != row:
            problem = f"is also in row {first[name] + 1}" if name else "is empty"
            raise _at(row, "id", f"{name!r} {problem}; name each image once, or give no ids")
    return tuple(texts)


def _positions(
    column: str, texts: Sequence[str], classes: Sequence[str], *, unused: Iterable[str] = ()
) -> Int[np.ndarray, " n"]:
    """Positions of classes, from their names, or from positions where none is a name."""
    names = [*classes] if {*texts} & {*classes} else [*map(str, range(len(classes)))]
    position_of = {"": UNKNOWN} | {name: position for position, name in enumerate(names)}
    positions = [position_of.get(text) for text in texts]
    if None in positions:
        row, others = positions.index(None), ", ".join(unused)
        problem = f"unknown class {texts[row]!r:.60}; choose from {', '.join(classes)}"
        meaning = f" (columns without a meaning: {others})" if others else ""
        raise _at(row, column, f"{problem}{meaning}")
    return np.array(positions, dtype=np.int64)


def _check_sets(texts: Sequence[str], groups: Sequence[str]) -> None:
    """Check that each set is known, and that no group is in two of those that must be apart."""
    first: dict[str, str] = {}
    for row, (name, group) in enumerate(zip(texts, groups, strict=False)):
        problem = ""
        if name and name not in (*SETS, VALIDATION, EXCLUDED):
            problem = f"{name!r} is none of {', '.join(SETS)}"
        elif group and name in SETS and first.setdefault(group, name) != name:
            sets = f"{first[group]} and {name}"
            problem = f"group {group!r} is in the sets {sets}; put each group into one set"
        if problem:
            raise _at(row, "set", problem)
