"""The files of a reproduction folder as records, and how rows are chosen among them."""

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from misgiving.errors import DataError

MODELS = ("vanilla", "mse", "detached", "proposed", "proposed+logits")


class Result(NamedTuple):
    """One line of `results.csv`: a fraction, or for `errors`, `temperature` and so on a number."""

    experiment: str
    trial: int
    model: str
    dataset: str
    detector: str
    metric: str
    value: float


class Interval(NamedTuple):
    """One line of `intervals.csv`: a value, or where `baseline` is set, model minus baseline.

    The bounds are None where no interval can be given; `n` counts independent groups.
    """

    experiment: str
    model: str
    baseline: str
    dataset: str
    detector: str
    metric: str
    estimate: float
    lower: float | None
    upper: float | None
    n: int | None
    trials: int | None
    tuned: bool


class Epoch(NamedTuple):
    """One line of `histories.csv`; what was not measured is None."""

    experiment: str
    trial: int
    model: str
    epoch: int
    part: str
    primary_loss: float | None
    auxiliary_loss: float | None
    accuracy: float | None
    balanced_accuracy: float | None
    rank_correlation: float | None
    spread_ratio: float | None
    r_squared: float | None


class Confusion(NamedTuple):
    """One line of `confusions.csv`: how many images of a class were taken for which."""

    experiment: str
    trial: int
    model: str
    true: str
    predicted: str
    images: int  # `count` in the file, which every tuple has already


class Bin(NamedTuple):
    """One line of `reliability.csv`: what was predicted of images on average, and observed."""

    experiment: str
    trial: int
    model: str
    quantity: str
    predicted: float
    observed: float
    images: int  # `count` in the file


class RiskPoint(NamedTuple):
    """One line of `risk_coverage.csv`: the error among the accepted, with its 95 % interval."""

    model: str
    detector: str
    coverage: float
    risk: float
    lower: float | None
    upper: float | None


CONFUSION_COLUMNS = (*Confusion._fields[:-1], "count")
RELIABILITY_COLUMNS = (*Bin._fields[:-1], "count")
Row = TypeVar("Row", Result, Interval, Epoch, Confusion, Bin, RiskPoint)


def read_results(folder: Path) -> list[Result]:
    """Read `results.csv`, leaving out what could not be measured (an empty value or NaN)."""
    path = folder / "results.csv"
    rows = _read_rows(path, Result.__annotations__, optional=())
    results = [Result(**row) for row in rows if row["value"] is not None]
    if not results:
        raise DataError(f"{path} holds no results; run `misgiving reproduce` again")
    return results


def read_intervals(folder: Path) -> list[Interval]:
    """Read `intervals.csv`; empty where there is no such file."""
    path = folder / "intervals.csv"
    optional = ("lower", "upper", "n", "trials", "tuned")
    rows = _read_rows(path, Interval.__annotations__, optional=optional) if path.exists() else []
    return [Interval(**row) for row in rows if row["estimate"] is not None]


def read_histories(folder: Path) -> list[Epoch]:
    """Read `histories.csv`; empty where there is no such file."""
    path = folder / "histories.csv"
    rows = (
        _read_rows(path, Epoch.__annotations__, optional=Epoch._fields[5:]) if path.exists() else []
    )
    return [Epoch(**row) for row in rows]


def read_confusions(folder: Path) -> list[Confusion]:
    """Read `confusions.csv`; empty where there is no such file."""
    path = folder / "confusions.csv"
    kinds = dict(zip(CONFUSION_COLUMNS, Confusion.__annotations__.values(), strict=True))
    rows = _read_rows(path, kinds, optional=()) if path.exists() else []
    return [Confusion(*row.values()) for row in rows]


def read_reliability(folder: Path) -> list[Bin]:
    """Read `reliability.csv`; empty where there is no such file."""
    path = folder / "reliability.csv"
    kinds = dict(zip(RELIABILITY_COLUMNS, Bin.__annotations__.values(), strict=True))
    rows = _read_rows(path, kinds, optional=()) if path.exists() else []
    return [Bin(*row.values()) for row in rows]


def read_risk_coverage(folder: Path) -> list[RiskPoint]:
    """Read `risk_coverage.csv`, leaving out what was not measured; empty without such a file."""
    path, bounds = folder / "risk_coverage.csv", ("lower", "upper")
    rows = _read_rows(path, RiskPoint.__annotations__, optional=bounds) if path.exists() else []
    return [RiskPoint(**row) for row in rows if row["risk"] is not None]


def _read_rows(
    path: Path, kinds: Mapping[str, Any], *, optional: Sequence[str]
) -> list[dict[str, Any]]:
    columns = {name: _parser(kind) for name, kind in kinds.items()}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = csv.DictReader(file, strict=True)
            _refuse_missing(columns.keys() - set(optional) - set(lines.fieldnames or ()))
            return [_parsed(line, columns, place=lines.line_num) for line in lines]
    except (OSError, ValueError, csv.Error) as reason:
        raise DataError(
            f"{path} cannot be used: {reason}; run `misgiving reproduce` again"
        ) from reason


def _refuse_missing(columns: Iterable[str]) -> None:
    if missing := sorted(columns):
        raise ValueError(f"column {', '.join(missing)} is missing")


def _parsed(
    line: Mapping[str, str | None], columns: Mapping[str, Callable[[str], Any]], *, place: int
) -> dict[str, Any]:
    if None in line.values():  # csv fills a line that breaks off
        raise ValueError(f"line {place} is cut short")
    try:
        return {name: parse(line.get(name) or "") for name, parse in columns.items()}
    except ValueError as reason:
        raise ValueError(f"line {place}: {reason}") from reason


def _parser(kind: object) -> Callable[[str], Any]:
    parsers: dict[object, Callable[[str], Any]] = {str: str, int: int, bool: bool}
    parsers[int | None] = lambda text: int(text) if text else None
    return parsers.get(kind, _number)


def _number(text: str) -> float | None:
    """A finite number; None where nothing was measured."""
    number = float(text or "nan")
    if math.isinf(number):
        raise ValueError("an infinite value")
    return None if math.isnan(number) else number


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


def find(intervals: Iterable[Interval], **wanted: object) -> Interval | None:
    """The first interval with the wanted fields; None where there is none."""
    return next(iter(select(intervals, **wanted)), None)
