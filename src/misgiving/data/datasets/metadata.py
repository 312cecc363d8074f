"""What a table says of an image besides its class, as groups in which results can be compared."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from misgiving.data.tables import TableRow

Metadata = Mapping[str, tuple[str, ...]]
"""By column one value for each image; empty where it is not known."""

AGES = (30, 50, 70)
FEW = 12  # different values that a column may have as it is
PARTS = 4  # of the numbers of a column that has more


def metadata_of_rows(rows: Sequence[TableRow], columns: Mapping[str, str]) -> Metadata:
    """The columns of these rows under other names; ages and other numbers in bands.

    Args:
        rows: One for each image.
        columns: From the name in the table to the name of the result. A column that the table
            lacks is left out, and so is one of words that differ in most images, such as a name.
    """
    there = rows[0].cells if rows else {}
    found = {
        name: [row.cells[column].strip() for row in rows]
        for column, name in columns.items()
        if column in there
    }
    grouped = {name: _groups(name, values) for name, values in found.items()}
    return {name: values for name, values in grouped.items() if values}


def _groups(name: str, values: Sequence[str]) -> tuple[str, ...]:
    if name == "age":
        return tuple(age_band(value) for value in values)
    if len(set(values)) <= FEW:
        return tuple(values)
    numbers = [_number(value) for value in values]
    if any(number is None for number, value in zip(numbers, values, strict=True) if value):
        return ()
    return _bands(numbers)


def age_band(age: str) -> str:
    """The band of an age in years; empty where it is not a number.

    >>> age_band("45.0"), age_band("85"), age_band("unknown")
    ('30-49', '70 or older', '')
    """
    years = _number(age)
    if years is None:
        return ""
    if years < AGES[0]:
        return f"under {AGES[0]}"
    for start, end in pairwise(AGES):
        if years < end:
            return f"{start}-{end - 1}"
    return f"{AGES[-1]} or older"


def _bands(numbers: Sequence[float | None]) -> tuple[str, ...]:
    """Quarters of the known numbers, named by their bounds."""
    known = sorted(number for number in numbers if number is not None)
    bounds = sorted({known[len(known) * part // PARTS] for part in range(1, PARTS)})

    def band(number: float | None) -> str:
        if number is None:
            return ""
        above = [bound for bound in bounds if number < bound]
        return f"below {above[0]:g}" if above else f"{bounds[-1]:g} or more"

    return tuple(band(number) for number in numbers)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
