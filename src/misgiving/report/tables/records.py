"""Choose rows among the tables of a reproduction."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from misgiving.results.schema import (
    Confusion,
    HistoryRow,
    ReliabilityRow,
    Result,
    ResultInterval,
    RiskPoint,
)

__all__ = ["Confusion", "HistoryRow", "ReliabilityRow", "Result", "ResultInterval", "RiskPoint"]
MODELS = ("vanilla", "mse", "detached", "proposed", "proposed+logits")


Row = TypeVar("Row", Result, ResultInterval, HistoryRow, Confusion, ReliabilityRow, RiskPoint)


def select(rows: Iterable[Row], **wanted: object) -> list[Row]:
    """The rows whose named fields hold the wanted values."""
    return [
        row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())
    ]


def distinct(rows: Iterable[Row], field: str) -> list[str]:
    """The values of a field, each once, in order of appearance."""
    return list(dict.fromkeys(getattr(row, field) for row in rows))


def models_of(rows: Iterable[Row]) -> list[str]:
    """The models that occur: the known ones from plain to proposed, then any others."""
    found = distinct(rows, "model")
    return [name for name in MODELS if name in found] + [
        name for name in found if name not in MODELS
    ]


def main_model(models: Sequence[str]) -> str:
    """The model that is spoken of first: the proposed one, or the first that there is.

    >>> main_model(["vanilla", "proposed"]), main_model(["vanilla"])
    ('proposed', 'vanilla')
    """
    return "proposed" if "proposed" in models else models[0]


def find(intervals: Iterable[ResultInterval], **wanted: object) -> ResultInterval | None:
    """The first interval with the wanted fields; None where there is none."""
    return next(iter(select(intervals, **wanted)), None)
