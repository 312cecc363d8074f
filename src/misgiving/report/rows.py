"""Selection among the rows of a reproduction's tables."""

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple, TypeVar

from misgiving.results.schema import Result, ResultInterval

MODELS = ("vanilla", "mse", "detached", "proposed", "proposed+logits")
Row = TypeVar("Row", bound=tuple[Any, ...])


def select(rows: Iterable[Row], **wanted: object) -> list[Row]:
    """The rows whose named fields hold the wanted values."""
    return [
        row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())
    ]


def distinct(rows: Iterable[tuple[Any, ...]], field: str) -> list[str]:
    """The values of a field, each once, in order of appearance."""
    return list(dict.fromkeys(getattr(row, field) for row in rows))


def models_of(rows: Iterable[tuple[Any, ...]]) -> list[str]:
    """The models that occur: known ones from vanilla to proposed, then any others."""
    found = distinct(rows, "model")
    return sorted(found, key=lambda name: MODELS.index(name) if name in MODELS else len(MODELS))


def main_model(models: Sequence[str]) -> str:
    """The model that findings are about: the proposed one, or the first that there is.

    >>> main_model(["vanilla", "proposed"]), main_model(["vanilla"])
    ('proposed', 'vanilla')
    """
    return "proposed" if "proposed" in models or not models else models[0]


def find(intervals: Iterable[ResultInterval], **wanted: object) -> ResultInterval | None:
    """The first interval with the wanted fields; None where there is none."""
    return next(iter(select(intervals, **wanted)), None)


class Spread(NamedTuple):
    """A value over trials; the standard deviation (n - 1) is None for a single trial."""

    mean: float
    deviation: float | None
    values: tuple[float, ...]


def spread(rows: Iterable[Result]) -> Spread | None:
    """Mean, standard deviation and values of rows that differ in the trial alone.

    >>> spread([])
    """
    return spread_of([row.value for row in rows])


def spread_of(numbers: Iterable[float]) -> Spread | None:
    """Mean, standard deviation and values; None where there are none."""
    values = tuple(numbers)
    if not values:
        return None
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None, values)
