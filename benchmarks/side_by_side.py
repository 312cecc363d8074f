"""Comparisons of speed: two sides that take turns in one process, and a record of the results.

A noisy machine slows both sides of a round, so that the result is the median of the rounds' ratios,
with the lowest and the highest.
"""

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

RECORD = "MISGIVING_BENCH_RECORD"
"""Environment variable: the file to which comparisons are added, one JSON object a line."""

Measure = Literal["times as fast", "times the time"]


class Round(NamedTuple):
    """Seconds of either side, one after the other."""

    candidate: float
    reference: float


def alternate(
    candidate: Callable[[], Any],
    reference: Callable[[], Any],
    *,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Round]:
    """Time both sides `rounds` times, taking turns in going first, after a round to warm up."""
    _timed(candidate, clock), _timed(reference, clock)
    times = []
    for number in range(rounds):
        if number % 2:
            later = _timed(reference, clock)
            times.append(Round(_timed(candidate, clock), later))
        else:
            times.append(Round(_timed(candidate, clock), _timed(reference, clock)))
    return times


def _timed(side: Callable[[], Any], clock: Callable[[], float]) -> float:
    started = clock()
    side()
    return clock() - started


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One line of the table of results.

    Attributes:
        what: Name of what was timed.
        against: The other side.
        measure: `times as fast` is theirs over ours, `times the time` ours over theirs.
        bound: The least median that is good enough in the first case, the most in the other.
        rounds: The seconds.
        notes: Further results, such as by how much the results differ.
    """

    what: str
    against: str
    measure: Measure
    bound: float
    rounds: list[Round]
    notes: tuple[str, ...] = ()

    @property
    def ratios(self) -> list[float]:
        """One ratio for each round."""
        if self.measure == "times as fast":
            return [round_.reference / round_.candidate for round_ in self.rounds]
        return [round_.candidate / round_.reference for round_ in self.rounds]

    @property
    def reached(self) -> bool:
        """True if the median is as good as the bound."""
        middle = median(self.ratios)
        return middle >= self.bound if self.measure == "times as fast" else middle <= self.bound

    @property
    def aim(self) -> str:
        """The bound in words."""
        side = "at least" if self.measure == "times as fast" else "at most"
        return f"{side} {self.bound:g} {self.measure}"

    @property
    def measured(self) -> str:
        """The median with its spread."""
        return _with_spread(self.ratios)

    @property
    def seconds(self) -> str:
        """The median time of either side."""
        candidate, reference = (median(side) for side in zip(*self.rounds, strict=True))
        return f"median seconds: ours {candidate:.4g}, theirs {reference:.4g}"

    def report(self) -> None:
        """Print the result, and add it to the record if there is one."""
        _print(f"{self.what}, against {self.against}", self, len(self.rounds))
        _say_more((self.seconds, *self.notes))
        _record(self)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One line of the table of results that is no ratio, and has an upper bound.

    Attributes:
        what: Name of what was measured.
        bound: Upper bound of the median.
        values: Those of each round.
        unit: Of the values.
        notes: Further results.
    """

    what: str
    bound: float
    values: list[float]
    unit: str = "s"
    notes: tuple[str, ...] = ()

    @property
    def reached(self) -> bool:
        """True if the median is as good as the bound."""
        return median(self.values) <= self.bound

    @property
    def aim(self) -> str:
        """The bound in words."""
        return f"at most {self.bound:g} {self.unit}"

    @property
    def measured(self) -> str:
        """The median with its spread."""
        return f"{_with_spread(self.values)} {self.unit}"

    def report(self) -> None:
        """Print the result, and add it to the record if there is one."""
        _print(self.what, self, len(self.values))
        _say_more(self.notes)
        _record(self)


def read_record(path: Path) -> list[Comparison | Reading]:
    """Read the results that scripts have added to a record, in their order."""
    return [_from(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _from(fields: dict[str, Any]) -> Comparison | Reading:
    fields["notes"] = tuple(fields["notes"])
    if "values" in fields:
        return Reading(**fields)
    return Comparison(**{**fields, "rounds": [Round(*times) for times in fields["rounds"]]})


def _with_spread(numbers: list[float]) -> str:
    return f"{median(numbers):.2f} ({min(numbers):.2f} to {max(numbers):.2f})"


def _print(what: str, result: Comparison | Reading, rounds: int) -> None:
    print(f"{what}:")
    reached = "reached" if result.reached else "NOT reached"
    print(f"  median {result.measured} in {rounds} rounds; {result.aim} is {reached}")


def _say_more(notes: Iterable[str]) -> None:
    for note in notes:
        print(f"  {note}")


def _record(result: Comparison | Reading) -> None:
    if path := os.environ.get(RECORD):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")
