"""What every comparison of speed shares: two sides that take turns in one process, and a record.

A noisy machine slows both sides of a round, so that what is quoted is the median of the rounds'
ratios, with the lowest and the highest.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

RECORD = "MISGIVING_BENCH_RECORD"
"""Environment variable: the file to which comparisons are added, one JSON object a line."""

Measure = Literal["times as fast", "times the time"]


class Round(NamedTuple):
    """Seconds of either side, one after the other."""

    ours: float
    theirs: float


def alternate(
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    *,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Round]:
    """Time both sides `rounds` times, taking turns in going first, after a round to warm up."""
    _timed(ours, clock), _timed(theirs, clock)
    found = []
    for number in range(rounds):
        if number % 2:
            later = _timed(theirs, clock)
            found.append(Round(_timed(ours, clock), later))
        else:
            found.append(Round(_timed(ours, clock), _timed(theirs, clock)))
    return found


def _timed(side: Callable[[], Any], clock: Callable[[], float]) -> float:
    started = clock()
    side()
    return clock() - started


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One line of the table of results.

    Attributes:
        what: What was timed.
        against: The other side.
        measure: `times as fast` is theirs over ours; `times the time` is ours over theirs.
        bound: What the median must reach: at least this in the first case, at most in the other.
        rounds: The seconds.
        notes: What else was seen, such as by how much the results differ.
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
            return [round_.theirs / round_.ours for round_ in self.rounds]
        return [round_.ours / round_.theirs for round_ in self.rounds]

    @property
    def reached(self) -> bool:
        """Whether the median is as good as the bound."""
        middle = median(self.ratios)
        return middle >= self.bound if self.measure == "times as fast" else middle <= self.bound

    def report(self) -> None:
        """Print what was measured, and add it to the record where there is one."""
        ratios = self.ratios
        aim = "at least" if self.measure == "times as fast" else "at most"
        print(f"{self.what}, against {self.against}:")
        print(
            f"  median {median(ratios):.2f} {self.measure} (from {min(ratios):.2f} to "
            f"{max(ratios):.2f}, {len(ratios)} rounds); {aim} {self.bound:g} is "
            f"{'reached' if self.reached else 'NOT reached'}"
        )
        print(
            f"  median seconds: ours {median(r.ours for r in self.rounds):.4g}, "
            f"theirs {median(r.theirs for r in self.rounds):.4g}"
        )
        for note in self.notes:
            print(f"  {note}")
        _record(self)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One line of the table of results that is a value of ours alone.

    Attributes:
        what: What was measured.
        value: The value.
        unit: Its unit.
        bound: What the value may be at most.
        notes: What else was seen.
    """

    what: str
    value: float
    unit: str
    bound: float
    notes: tuple[str, ...] = ()

    @property
    def reached(self) -> bool:
        """Whether the value is as good as the bound."""
        return self.value <= self.bound

    def report(self) -> None:
        """Print what was measured, and add it to the record where there is one."""
        print(f"{self.what}:")
        print(
            f"  {self.value:.4g} {self.unit}; at most {self.bound:g} is "
            f"{'reached' if self.reached else 'NOT reached'}"
        )
        for note in self.notes:
            print(f"  {note}")
        _record(self)


def _record(line: "Comparison | Reading") -> None:
    if path := os.environ.get(RECORD):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(line)) + "\n")
