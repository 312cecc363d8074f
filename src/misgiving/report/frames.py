"""Selections from tables of results, and values over trials."""

from collections.abc import Iterable
from statistics import fmean, stdev
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import UInt8

from misgiving.report.figures import STYLES

Value = TypeVar("Value")
Picture = UInt8[np.ndarray, "height width 3"]


class Spread(NamedTuple):
    """A value over trials; the standard deviation (n - 1) is None for a single trial."""

    mean: float
    deviation: float | None
    values: tuple[float, ...]


def spread_of(numbers: Iterable[float]) -> Spread | None:
    """Mean, standard deviation and values; None where there are none.

    >>> spread_of([])
    """
    values = tuple(numbers)
    if not values:
        return None
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None, values)


def select(frame: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    """The rows whose columns hold these values."""
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return frame


def distinct(values: Iterable[Value]) -> list[Value]:
    """Each value once, in order of appearance."""
    return list(dict.fromkeys(values))


def models_of(frame: pd.DataFrame) -> list[str]:
    """The models that occur: known ones from vanilla to proposed, then any others."""
    order = list(STYLES)
    models = distinct(frame["model"])
    return sorted(models, key=lambda name: order.index(name) if name in order else len(order))
