"""Bands of metadata, so that a number such as an age divides cases into subgroups."""

import math
from bisect import bisect
from collections.abc import Sequence
from itertools import pairwise

AGES = (30, 50, 70)
AGE_BANDS = ("under 30", "30-49", "50-69", "70 or older")
MAX_VALUES = 12  # a column with at most so many values is kept as it is


def banded(name: str, values: Sequence[str]) -> tuple[str, ...]:
    """A column of few values as it is, and numbers in bands; empty if it is neither.

    An age is in one of four bands, another number in a quarter of the column.
    """
    if name == "age":
        return tuple(map(age_band, values))
    if len(set(values)) <= MAX_VALUES:
        return tuple(values)
    numbers = [_number(value) for value in values]
    if any(number is None for number, value in zip(numbers, values, strict=True) if value):
        return ()
    ascending = sorted(number for number in numbers if number is not None)
    bounds = sorted({ascending[len(ascending) * quarter // 4] for quarter in (1, 2, 3)})
    inner = (f"{low:g} to below {high:g}" for low, high in pairwise(bounds))
    bands = [f"below {bounds[0]:g}", *inner, f"{bounds[-1]:g} or more"]
    return tuple("" if number is None else bands[bisect(bounds, number)] for number in numbers)


def age_band(age: str) -> str:
    """Band of an age in years; empty if it is not a number.

    >>> age_band("45.0"), age_band("85"), age_band("unknown")
    ('30-49', '70 or older', '')
    """
    years = _number(age)
    return "" if years is None else AGE_BANDS[bisect(AGES, years)]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
