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
classes as `classes` and the columns of each tap as `tap_widths`.

Three more columns mark a table that was written here: `outputs`, the kind of output that the logits
were made of, `group_columns`, the columns that `group` was made of, and `class_weights`, those of
the loss that the estimator learned. Its groups are read as they are; in any other table copies are
in one group, and logits that must be probabilities are refused.
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
from misgiving.scores.logits import Head

SETS = ("train", "tune", "calibrate", "test")
VALIDATION, EXCLUDED = "validation", "excluded"
UNKNOWN_CLASS = -1  # the label of an image whose true class is not known
ADDS_UP = 0.02  # how far probabilities, which may be rounded, may be from adding up to 1
MAX_OUTSIDE = 1e-6  # how far one may be outside of 0 to 1
LARGEST_NUMBER = np.finfo(np.float32).max
LEAST_PROBABILITY = 1e-12  # logits are finite
TEXT_FIELDS = {"id": "ids", "content_hash": "hashes", "path": "paths", "set": "sets"}
UNCHANGED = ("logits", "classes", "features", "taps", "tap_widths", "model", "outputs")
FIELDS = {**TEXT_FIELDS, "predicted_loss": "predicted_losses", **{name: name for name in UNCHANGED}}
"""Fields of `Predictions` by the column that holds them."""
WRITTEN = ("outputs", "group_columns", "class_weights")
ONCE = ("model", *WRITTEN)  # the same for all images
WHOLE = (*ONCE, "classes", "tap_widths", "head_weight", "head_bias")  # no value for each image
WIDE = {
    "logits": re.compile(r"logit_(.*)", re.DOTALL),
    "probabilities": re.compile(r"probability_([^@]*)"),
    "features": re.compile(r"feature_(\d+)"),
    "taps": re.compile(r"tap_(\d+)_(\d+)"),
}
"""Names of the columns that one array may replace, by its name."""
OPINION_COLUMN = re.compile(r"(?:probability_(.*)|probabilities)@([^@]+)", re.DOTALL)
"""Names of the columns of second opinions, and of the array that may replace them."""
ARRAY_OF_OPINION = "probabilities@"
SCORE_COLUMN, READER_COLUMN = (
    re.compile(f"{kind}_(.*)", re.DOTALL) for kind in ("score", "reader")
)
NUMERIC = (
    *WIDE.values(),
    OPINION_COLUMN,
    SCORE_COLUMN,
    *map(re.compile, (*WIDE, "predicted_loss")),
)
MEANINGS = (*NUMERIC, READER_COLUMN, *map(re.compile, (*TEXT_FIELDS, *UNITS, "label", *WHOLE)))
"""Names of all columns that are no metadata."""
ESCAPE = "metadata_"  # before the name of metadata that is the name of another column
NO_COLUMNS = "none"  # in `group_columns`, of groups of near duplicates alone

Matrix = Float[np.ndarray, "n columns"]
Column = Sequence[Any] | np.ndarray
Columns = Mapping[str, Column]


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
    table = {column: _on_host(values) for column, values in columns.items()}
    count = _count_rows(table)
    kind, classes, logits = _outputs(table)
    taps, places = _array(table, "taps")
    widths = table.get("tap_widths", [*Counter(tap for tap, _ in places).values()])
    head = [np.asarray(table[part]) for part in ("head_weight", "head_bias") if part in table]
    names = [column for column in (*TEXT_FIELDS, *UNITS, "label") if column in table]
    texts = {column: _texts(table[column]) for column in names}
    once = {column: _same_in_all(column, table.get(column, ())) for column in ONCE}
    ids = _ids(texts.get("id"), name, count)
    others = [column for column in table if not is_one_of(column, MEANINGS)]
    fields: dict[str, Any] = {
        "logits": logits,
        "labels": _positions("label", texts.get("label", [""] * count), classes, unused=others),
        "classes": classes,
        "ids": ids,
        "has_ids": "id" in texts,
        "hashes": tuple(texts["content_hash"]) if "content_hash" in texts else None,
        "paths": tuple(str(folder / path) if path else "" for path in texts["path"])
        if "path" in texts
        else None,
        "sets": tuple(texts["set"]) if any(texts.get("set", ())) else None,
        "features": _array(table, "features")[0],
        "taps": taps,
        "tap_widths": tuple(map(int, widths)),
        "predicted_losses": _numbers("predicted_loss", table["predicted_loss"])
        if "predicted_loss" in table
        else None,
        "head": Head(*head) if head else None,
        "model": once["model"],
        "outputs": kind,
        "metadata": {
            column.removeprefix(ESCAPE): tuple(_texts(table[column])) for column in others
        },
        "scores": {
            name: _numbers(column, table[column]) for column, (name,) in _named(table, SCORE_COLUMN)
        },
        "readers": answers_of(table, classes),
        "opinions": _opinions(table, classes),
    }
    is_written = any(once[column] for column in WRITTEN)
    fields |= _written_fields(texts, once, count) if is_written else _found_fields(texts, fields)
    _check_sets(texts.get("set", ()), fields["groups"])
    return fields


def _written_fields(
    texts: Mapping[str, Sequence[str]], once: Mapping[str, str], count: int
) -> dict[str, Any]:
    """Fields of a table that was written here, as `columns_of` had them."""
    groups, group_columns = groups_of_columns(texts, count)
    if once["group_columns"]:
        if others := [column for column in group_columns if column != "group"]:
            raise DataError(f"the groups are in the column group; put those of {others[0]} into it")
        group_columns = tuple(once["group_columns"].replace(NO_COLUMNS, "").split())
    return {
        "outputs": once["outputs"] or "logits",
        "groups": groups,
        "group_columns": group_columns,
        "class_weights": tuple(map(float, once["class_weights"].split())) or None,
    }


def _found_fields(texts: Mapping[str, Sequence[str]], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of any other table: copies are in one group.

    Raises:
        DataError: The logits are probabilities.
    """
    if fields["outputs"] == "logits" and _are_probabilities(fields["logits"]).all():
        raise DataError(
            "each row of the logits is from 0 to 1 and adds up to 1, as probabilities do; name "
            "them so: dict(probabilities=P, label=y), or columns probability_CLASS"
        )
    groups, group_columns = groups_of_columns(texts, len(fields["ids"]))
    groups = join_groups(groups, fields["ids"], chained(texts.get("content_hash", ())))
    return {"groups": groups, "group_columns": group_columns}


def answers_of(columns: Columns, classes: Sequence[str]) -> dict[str, Int[np.ndarray, " n"]]:
    """Positions of the classes that readers gave, by their names; -1 where there is no answer.

    Raises:
        DataError: A class is unknown; names its row and column.
    """
    return {
        name: _positions(column, _texts(columns[column]), classes)
        for column, (name,) in _named(columns, READER_COLUMN)
    }


def columns_of(fields: Mapping[str, Any], *, folder: Path) -> dict[str, Any]:
    """Columns of the fields of `Predictions`, of which `fields_of` makes the same fields."""
    columns = {column: fields[field] for column, field in FIELDS.items()}
    names = np.array([*fields["classes"], ""], dtype=object)
    columns["label"] = names[fields["labels"]]
    columns |= {f"reader_{name}": names[answers] for name, answers in fields["readers"].items()}
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
    columns |= {f"score_{name}": values for name, values in fields["scores"].items()}
    columns |= {f"{ARRAY_OF_OPINION}{name}": each for name, each in fields["opinions"].items()}
    for name, values in fields["metadata"].items():
        is_taken = name.startswith(ESCAPE) or is_one_of(name, MEANINGS)
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


def is_one_of(column: str, patterns: Iterable[re.Pattern[str]]) -> bool:
    """True if the name of a column matches one of these."""
    return any(pattern.fullmatch(column) for pattern in patterns)


def _named(columns: Iterable[str], pattern: re.Pattern[str]) -> list[tuple[str, tuple[Any, ...]]]:
    """Columns whose names match a pattern, and the parts of these."""
    matches = ((column, pattern.fullmatch(column)) for column in columns)
    return [(column, match.groups()) for column, match in matches if match]


def _at(row: int, column: str, problem: str) -> DataError:
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


def _outputs(table: Columns) -> tuple[str, tuple[str, ...], Matrix]:
    """The kind of outputs, the classes, and the logits or the logarithms of probabilities."""
    kind = "logits"
    values, places = _array(table, kind)
    if values is None:
        kind = "probabilities"
        values, places = _array(table, kind)
    if values is None:
        raise DataError(
            f"no column logit_CLASS or probability_CLASS among {', '.join(table)}; give one for "
            "each class, such as probability_melanoma, and separate columns by commas"
        )
    listed = table.get("classes", [name for (name,) in places] or [*range(values.shape[1])])
    classes = tuple(_texts(listed))
    distinct = {*classes} - {""}
    if not 2 <= len(distinct) == len(classes) == values.shape[1]:
        raise DataError(
            f"{kind} have {values.shape[1]} columns, and the classes {classes}; give two classes "
            "or more, with different names"
        )
    if kind == "probabilities":
        _check_probabilities(values)
        values = np.asarray(np.log(np.maximum(values, LEAST_PROBABILITY)))
    return kind, classes, values


def _opinions(table: Columns, classes: Sequence[str]) -> dict[str, Matrix]:
    """Probabilities by other models, by their names, in the order of the classes."""
    given: dict[str, dict[Any, Column]] = {}
    for column, (label, name) in _named(table, OPINION_COLUMN):
        values = np.atleast_2d(_numbers(column, table[column], axes=2 if label is None else 1).T)
        labels = (*classes, *range(len(values))) if label is None else (label,)
        given.setdefault(name, {}).update(zip(labels, values, strict=False))
    opinions = {}
    for name, by_class in given.items():
        if by_class.keys() != {*classes}:
            raise DataError(
                f"the opinion of {name} is not on the classes {', '.join(classes)}; give a column "
                f"probability_CLASS@{name} for each"
            )
        opinions[name] = np.stack([by_class[label] for label in classes], axis=1)
        _check_probabilities(opinions[name])
    return opinions


def _array(table: Columns, name: str) -> tuple[Matrix | None, list[tuple[str, ...]]]:
    """The array of this name, or of its single columns, with what the names of these end in."""
    if name in table:
        values = _numbers(name, table[name], axes=2)
        return values if values.shape[1] else None, []
    places = _named(table, WIDE[name])
    if name in ("features", "taps"):  # in the order of their numbers
        places.sort(key=lambda place: [*map(int, place[1])])
    parts = [_numbers(column, table[column]) for column, _ in places]
    return np.stack(parts, axis=1) if parts else None, [place for _, place in places]


def _are_probabilities(values: Matrix) -> Bool[np.ndarray, " n"]:
    """Mark the rows that are from 0 to 1 and add up to 1, but for rounding."""
    inside = (values.min(axis=1) >= -MAX_OUTSIDE) & (values.max(axis=1) <= 1 + MAX_OUTSIDE)
    return np.asarray(inside & (np.abs(values.sum(axis=1) - 1) <= ADDS_UP))


def _check_probabilities(probabilities: Matrix) -> None:
    right = _are_probabilities(probabilities)
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
    usable = np.abs(numbers) <= LARGEST_NUMBER  # NaN is not
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
    position_of = {"": UNKNOWN_CLASS} | {name: position for position, name in enumerate(names)}
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
