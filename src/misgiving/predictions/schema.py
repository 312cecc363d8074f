"""Columns of predictions, one row for each image.

| column | content |
|---|---|
| `logit_CLASS` or `probability_CLASS` | outputs of the model, one column for each class;
  probabilities are ignored where there are logits |
| `probability_CLASS@NAME` | probabilities by another model of this name, for each class: a second
  opinion, which helps to judge the answer and never changes it |
| `prediction`, `confidence` | where nothing is known of each class: the answer of the model, and
  how certain it is of it, from 0 to 1. The answer never changes; below one part in as many as there
  are classes, confidences are tied |
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
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from misgiving.errors import DataError
from misgiving.groups import UNITS, chained, groups_of_columns, join_groups
from misgiving.predictions.cells import (
    Column,
    Matrix,
    are_probabilities,
    check_probabilities,
    error_at,
    in_order,
    numbers_of,
    on_host,
    positions_of,
    texts_of,
)
from misgiving.scores.outputs import CONFIDENCE, Head, logarithms_of

SETS = ("train", "tune", "calibrate", "test")
VALIDATION, EXCLUDED = "validation", "excluded"
TEXT_FIELDS = {"id": "ids", "content_hash": "hashes", "path": "paths", "set": "sets"}
UNCHANGED = ("logits", "classes", "features", "taps", "tap_widths", "model")
FIELDS = {
    **TEXT_FIELDS,
    "predicted_loss": "predicted_losses",
    "outputs": "kind",
    **{name: name for name in UNCHANGED},
}
"""Fields of `Predictions` by the column that holds them."""
WRITTEN = ("outputs", "group_columns", "class_weights")
ONCE = ("model", *WRITTEN)  # the same for all images
WHOLE = (*ONCE, "classes", "tap_widths", "head_weight", "head_bias")  # no value for each image
ARRAYS = {
    "logits": r"logit_(.*)",
    "probabilities": r"probability_([^@]*)",
    "features": r"feature_(\d+)",
    "taps": r"tap_(\d+)_(\d+)",
}
"""Names of the columns that one array may replace, by its name."""
OPINION_COLUMN = r"(?:probability_(.*)|probabilities)@([^@]+)"  # or an array in place of columns
SCORE_COLUMN, READER_COLUMN = r"score_(.*)", r"reader_(.*)"
NUMERIC = "|".join((*ARRAYS, *ARRAYS.values(), OPINION_COLUMN, SCORE_COLUMN, "predicted_loss"))
MEANINGS = "|".join((NUMERIC, READER_COLUMN, *TEXT_FIELDS, *UNITS, "label", *WHOLE))
"""Names of all columns that are no metadata."""
ARRAY_OF_OPINION = "probabilities@"
ANSWERS = ("prediction", "confidence")  # in a table without outputs for each class
ESCAPE = "metadata_"  # before the name of metadata that is the name of another column
NO_COLUMNS = "none"  # in `group_columns`, of groups of near duplicates alone

Columns = Mapping[str, Column]


def fields_of(
    columns: Mapping[str, Any],
    *,
    folder: Path = Path(),
    name: str = "",
    classes: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The fields of `Predictions` that columns have; see the documentation of this module.

    Args:
        columns: By name.
        folder: To which paths of images are relative.
        name: Of the set; begins the ids of images that have none.
        classes: Of answers alone, by default those in the columns `prediction` and `label`, sorted;
            also the order of the columns of outputs that have these names.

    Raises:
        DataError: A column is missing, or a value cannot be used; names its row and column.
    """
    table = {column: on_host(values) for column, values in columns.items()}
    count = _count_rows(table)
    kind, classes, logits = _outputs(table, classes)
    taps, places = _array(table, "taps")
    widths = table.get("tap_widths", [*Counter(tap for tap, _ in places).values()])
    head = [np.asarray(table[part]) for part in ("head_weight", "head_bias") if part in table]
    names = [column for column in (*TEXT_FIELDS, *UNITS, "label") if column in table]
    texts = {column: texts_of(table[column]) for column in names}
    once = {column: _same_in_all(column, table.get(column, ())) for column in ONCE}
    ids = _ids(texts.get("id"), name, count)
    answers = ANSWERS if kind == CONFIDENCE else ()
    others = [x for x in table if not (named(x, MEANINGS) or x in answers)]
    losses = table.get("predicted_loss")
    fields: dict[str, Any] = {
        "logits": logits,
        "labels": positions_of("label", texts.get("label", [""] * count), classes),
        "classes": classes,
        "ids": ids,
        "has_ids": "id" in texts,
        "hashes": tuple(texts.get("content_hash", ())) or None,
        "paths": tuple(str(folder / path) if path else "" for path in texts.get("path", ()))
        or None,
        "sets": tuple(texts["set"]) if any(texts.get("set", ())) else None,
        "features": _array(table, "features")[0],
        "taps": taps,
        "tap_widths": tuple(map(int, widths)),
        "predicted_losses": None if losses is None else numbers_of("predicted_loss", losses),
        "head": Head(*head) if head else None,
        "model": once["model"],
        "kind": kind,
        "metadata": {
            column.removeprefix(ESCAPE): tuple(texts_of(table[column])) for column in others
        },
        "scores": {
            name: numbers_of(column, table[column])
            for column, (name,) in _columns_named(table, SCORE_COLUMN)
        },
        "readers": reader_answers(table, classes),
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
        "kind": once["outputs"] or "logits",
        "groups": groups,
        "group_columns": group_columns,
        "class_weights": tuple(map(float, once["class_weights"].split())) or None,
    }


def _found_fields(texts: Mapping[str, Sequence[str]], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of any other table: copies are in one group.

    Raises:
        DataError: The logits are probabilities.
    """
    if fields["kind"] == "logits" and are_probabilities(fields["logits"]):
        raise DataError(
            "each row of the logits is from 0 to 1 and adds up to 1, as probabilities do; name "
            "them so: dict(probabilities=P, label=y), or columns probability_CLASS"
        )
    groups, group_columns = groups_of_columns(texts, len(fields["ids"]))
    groups = join_groups(groups, fields["ids"], chained(texts.get("content_hash", ())))
    return {"groups": groups, "group_columns": group_columns}


def reader_answers(columns: Columns, classes: Sequence[str]) -> dict[str, Int[np.ndarray, " n"]]:
    """Positions of the classes that readers gave, by their names; -1 where there is no answer.

    Raises:
        DataError: A class is unknown; names its row and column.
    """
    return {
        name: positions_of(column, texts_of(columns[column]), classes)
        for column, (name,) in _columns_named(columns, READER_COLUMN)
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
        columns["path"] = [path and _relative(path, folder.absolute()) for path in fields["paths"]]
    if not fields["has_ids"]:
        del columns["id"]
    columns |= {f"score_{name}": values for name, values in fields["scores"].items()}
    columns |= {f"{ARRAY_OF_OPINION}{name}": each for name, each in fields["opinions"].items()}
    for name, values in fields["metadata"].items():
        is_taken = name.startswith(ESCAPE) or named(name, MEANINGS)
        columns[f"{ESCAPE}{name}" if is_taken else name] = values
    return {
        name: values
        for name, values in columns.items()
        if values is not None and not (name in WHOLE and len(values) == 0)
    }


def _relative(path: str, folder: Path) -> str:
    place = Path(path).absolute()
    return str(place.relative_to(folder) if place.is_relative_to(folder) else place)


def named(column: str, pattern: str) -> re.Match[str] | None:
    """Match of the name of a column, all of it."""
    return re.fullmatch(pattern, column, re.DOTALL)


def _columns_named(table: Columns, pattern: str) -> list[tuple[str, tuple[Any, ...]]]:
    """Columns whose names match, and the parts of these."""
    return [(column, match.groups()) for column in table if (match := named(column, pattern))]


def _count_rows(table: Columns) -> int:
    counts = {name: len(values) for name, values in table.items() if name not in WHOLE}
    first, count = next(iter(counts.items()), ("", 0))
    for name, other in counts.items():
        if other != count:
            problem = f"column {name} has {other} rows, and {first} has {count}"
            raise DataError(f"{problem}; give one value for each image")
    if not count:
        raise DataError("no rows; give one for each image")
    return count


def _same_in_all(name: str, values: Column) -> str:
    """The value of a column that is the same in all rows."""
    distinct = sorted(set(texts_of(values)))
    if len(distinct) > 1:
        raise DataError(f"column {name}: names {distinct[0]!r} and {distinct[1]!r}; give one alone")
    return "".join(distinct)


def _outputs(table: Columns, known: Sequence[str] | None) -> tuple[str, tuple[str, ...], Matrix]:
    """The kind of outputs, the classes, and the logits or the logarithms of probabilities."""
    kind = "logits"
    values, places = _array(table, kind)
    if values is None:
        kind = "probabilities"
        values, places = _array(table, kind)
    if values is None and table.keys() >= {*ANSWERS}:
        return CONFIDENCE, *_answers(table, known)
    if values is None:
        raise DataError(
            f"no column logit_CLASS or probability_CLASS among {', '.join(table)}; give one for "
            "each class, such as probability_melanoma, or the columns prediction and confidence, "
            "and separate columns by commas"
        )
    values, listed = in_order(values, [name for (name,) in places], known or ())
    classes = tuple(texts_of(table.get("classes", listed)))
    distinct = {*classes} - {""}
    if not 2 <= len(distinct) == len(classes) == values.shape[1]:
        raise DataError(
            f"{kind} have {values.shape[1]} columns, and the classes {classes}; give two classes "
            "or more, with different names"
        )
    if kind == "probabilities":
        check_probabilities(values)
        values = logarithms_of(values)
    return kind, classes, values


def _answers(table: Columns, known: Sequence[str] | None) -> tuple[tuple[str, ...], Matrix]:
    """The classes, and logarithms of the confidence and of what is left for each other class."""
    texts = [texts_of(table[column]) for column in ("prediction", "label") if column in table]
    listed = table.get("classes", known)
    named_classes = sorted({*chain(*texts)} - {""}) if listed is None else texts_of(listed)
    classes = tuple(named_classes)
    if len(classes) < 2:
        raise DataError(f"the predictions name the classes {classes}; give two or more")
    answers = positions_of("prediction", texts[0], classes)
    confidences = numbers_of("confidence", table["confidence"])
    for row in np.flatnonzero((answers < 0) | ~((confidences >= 0) & (confidences <= 1)))[:1]:
        if answers[row] < 0:
            raise error_at(int(row), "prediction", "is empty; give the answer of the model")
        raise error_at(
            int(row),
            "confidence",
            f"{confidences[row]:g} is not from 0 to 1; map it there in the same order, as "
            "exp(x) does a logarithm of a probability",
        )
    least = (1 + 1e-6) / len(classes)  # the answer has the largest probability
    values = np.repeat(
        ((1 - confidences.clip(least)) / (len(classes) - 1))[:, None], len(classes), 1
    )
    values[np.arange(len(answers)), answers] = confidences.clip(least)
    return classes, logarithms_of(values)


def _opinions(table: Columns, classes: Sequence[str]) -> dict[str, Matrix]:
    """Probabilities by other models, by their names, in the order of the classes."""
    given: dict[str, dict[Any, Column]] = {}
    for column, (label, name) in _columns_named(table, OPINION_COLUMN):
        values = np.atleast_2d(numbers_of(column, table[column], axes=2 if label is None else 1).T)
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
        check_probabilities(opinions[name])
    return opinions


def _array(table: Columns, name: str) -> tuple[Matrix | None, list[tuple[str, ...]]]:
    """The array of this name, or of its single columns, with what the names of these end in."""
    if name in table:
        values = numbers_of(name, table[name], axes=2)
        return values if values.shape[1] else None, []
    places = _columns_named(table, ARRAYS[name])
    if name in ("features", "taps"):  # in the order of their numbers
        places.sort(key=lambda place: [*map(int, place[1])])
    parts = [numbers_of(column, table[column]) for column, _ in places]
    return np.stack(parts, axis=1) if parts else None, [place for _, place in places]


def _ids(texts: Sequence[str] | None, prefix: str, count: int) -> tuple[str, ...]:
    """Names of the images, each once; numbers of rows where the columns have none."""
    if texts is None:
        return tuple(f"{prefix} {number}".strip() for number in range(1, count + 1))
    first = {"": -1}
    for row, name in enumerate(texts):
        if first.setdefault(name, row) != row:
            problem = f"is also in row {first[name] + 1}" if name else "is empty"
            raise error_at(row, "id", f"{name!r} {problem}; name each image once, or give no ids")
    return tuple(texts)


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
            raise error_at(row, "set", problem)
