"""Columns of predictions and their cells, as numbers and texts; an error names row and column."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from misgiving.errors import DataError

ADDS_UP = 0.02  # how far probabilities, which may be rounded, may be from adding up to 1
MAX_CELL = 30  # characters of a cell in a message
MAX_OUTSIDE = 1e-6  # how far one may be outside of 0 to 1
LARGEST_NUMBER = np.finfo(np.float32).max
UNKNOWN_CLASS = -1  # the label of an image whose true class is not known

Matrix = Float[np.ndarray, "n columns"]
Column = Sequence[Any] | np.ndarray


def on_host(values: Any) -> Column:
    """Values as they are, or as an array: of a tensor, and of a column of a data frame."""
    if hasattr(values, "detach"):
        tensor = values.detach().cpu()
        is_half = tensor.is_floating_point() and tensor.element_size() < 4  # as bfloat16
        return np.asarray(tensor.float() if is_half else tensor)
    return values if isinstance(values, list | tuple) else np.atleast_1d(np.asarray(values))


def numbers_of(name: str, values: Column, *, axes: int = 1) -> Float[np.ndarray, "n ..."]:
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
            raise error_at(row, name, f"{str(cell)[:MAX_CELL]!r} is not a number") from error
        raise DataError(f"column {name}: {error}; give as many values for each image") from None
    if numbers.ndim != axes:
        raise DataError(f"{name} has the shape {numbers.shape}; give a row for each image")
    usable = np.abs(numbers) <= LARGEST_NUMBER  # NaN is not
    if not usable.all():
        row = int(np.argwhere(~usable)[0][0])
        problem = f"{numbers[~usable][0]} is not a finite number of single precision"
        raise error_at(row, name, problem)
    return np.asarray(numbers)


def are_probabilities(values: Any) -> bool:
    """True for an array of which each row is from 0 to 1 and adds up to 1, but for rounding."""
    array = np.asarray(values)
    is_table = array.dtype.kind in "fiub" and array.ndim == 2 and array.shape[1] > 0
    return is_table and bool(_mark_probabilities(array).all())


def _mark_probabilities(values: Matrix) -> Bool[np.ndarray, " n"]:
    """Mark the rows that are probabilities."""
    inside = (values.min(axis=1) >= -MAX_OUTSIDE) & (values.max(axis=1) <= 1 + MAX_OUTSIDE)
    return np.asarray(inside & (np.abs(values.sum(axis=1) - 1) <= ADDS_UP))


def check_probabilities(probabilities: Matrix) -> None:
    """Check that each row is from 0 to 1 and adds up to 1."""
    right = _mark_probabilities(probabilities)
    if not right.all():
        row = int(right.argmin())
        least, most, total = (function(probabilities[row]) for function in (np.min, np.max, np.sum))
        raise DataError(
            f"row {row + 1}: the probabilities are {least:.4g} to {most:.4g} and add up to "
            f"{total:.4g}; give one from 0 to 1 for each class, in all 1, or give logits"
        )


def texts_of(values: Column) -> list[str]:
    """Cells as text without surrounding space; None and NaN become empty, whole numbers plain."""
    cells = values.tolist() if isinstance(values, np.ndarray) else values
    return [cell.strip() if type(cell) is str else _text(cell) for cell in cells]


def _text(cell: Any) -> str:
    if cell is None or type(cell).__name__ == "NAType" or cell != cell:  # pandas' missing value
        return ""
    if isinstance(cell, bytes):
        return cell.decode().strip()
    return str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell).strip()


def error_at(row: int, column: str, problem: str) -> DataError:
    """A problem with its place; rows are counted from 1."""
    return DataError(f"row {row + 1}, column {column}: {problem}")


def positions_of(
    column: str, texts: Sequence[str], classes: Sequence[str]
) -> Int[np.ndarray, " n"]:
    """Positions of classes, from their names, or from positions where none is a name."""
    names = [*classes] if {*texts} & {*classes} else [*map(str, range(len(classes)))]
    position_of = {"": UNKNOWN_CLASS} | {name: position for position, name in enumerate(names)}
    positions = [position_of.get(text) for text in texts]
    if None in positions:
        row = positions.index(None)
        problem = f"unknown class {texts[row]!r:.60}; choose from {', '.join(classes)}"
        raise error_at(row, column, problem)
    return np.array(positions, dtype=np.int64)


def classes_of_labels(outputs: Any, *labels: Any) -> list[str] | None:
    """Name of the class of each column of outputs, by all labels, sorted as scikit-learn does.

    None where the labels are positions of columns, or unknown.

    >>> classes_of_labels([[0.1, 0.9], [0.8, 0.2]], [True, False])
    ['False', 'True']

    Raises:
        DataError: The labels are no list of classes, or are not as many classes as columns.
    """
    present: dict[str, Any] = {}
    for each in map(on_host, labels):
        if (shape := np.shape(each)) != (len(each),):
            raise DataError(f"the labels have the shape {shape}; give one class for each row")
        present |= dict(zip(texts_of(each), each, strict=True))
    if len(shape := np.shape(outputs)) != 2:
        raise DataError(
            f"the outputs have the shape {shape}; give a row for each case, of a number by class"
        )
    columns = shape[1]
    if present.keys() <= {"", *map(str, range(columns))}:
        return None
    present.pop("", None)
    if len(present) != columns:
        raise DataError(
            f"the outputs have {columns} columns, and the labels are of {len(present)} classes; "
            "name the class of each column by `classes`"
        )
    return sorted(present, key=lambda name: present[name])


def in_order(
    values: Matrix, names: Sequence[str], known: Sequence[str]
) -> tuple[Matrix, Sequence[Any]]:
    """Columns of outputs and their classes; in a known order, where these are the classes."""
    if names and sorted(names) == sorted(known):
        return values[:, [names.index(name) for name in known]], known
    return values, names or [*range(values.shape[1])]


def named_columns(data: Any) -> dict[str, Any]:
    """Columns of a data frame or a mapping; none of other data."""
    import narwhals  # 4 MB, which a service does not need

    frame = narwhals.from_native(data, eager_only=True, pass_through=True)
    if isinstance(frame, narwhals.DataFrame):
        return {str(name): frame[name].to_numpy() for name in frame.columns}
    return {str(name): x for name, x in data.items()} if isinstance(data, Mapping) else {}
