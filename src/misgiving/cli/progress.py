"""Messages and progress bars on standard error, tables on standard output."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from misgiving.errors import StoppedError

if TYPE_CHECKING:
    from misgiving.results.schema import Unit
    from misgiving.training.loop import Step

RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


def process_number() -> int:
    """Rank among the processes of a command; only the first, 0, shows messages."""
    return max(int(found) if (found := os.environ.get(name, "")).isdigit() else 0 for name in RANKS)


console = Console(
    stderr=True, highlight=False, markup=False, emoji=False, quiet=process_number() > 0
)


def say(text: str) -> None:
    """Print a message on standard error; the terminal wraps long lines."""
    console.print(text, soft_wrap=True)


def show_table(header: Sequence[str], rows: Iterable[Iterable[object]], title: str = "") -> None:
    """Print a table on standard output."""
    table = Table(*header, title=title or None)
    for row in rows:
        table.add_row(*map(str, row))
    Console().print(table)


@contextmanager
def progress_bars(stop: str = "stopped; no partial output was left behind") -> Iterator[Progress]:
    """Bars on a terminal, none elsewhere; a stop becomes an explained failure."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        try:
            yield progress
        except KeyboardInterrupt:
            raise StoppedError(stop) from None


class Bar:
    """A bar that appears with the first report."""

    def __init__(self, progress: Progress, description: str) -> None:
        self._progress, self._description = progress, description
        self._task: Any = None

    def at(self, done: int, total: int) -> None:
        if self._task is None or done <= 1:
            self._task = self._progress.add_task(self._description, total=total)
        self._progress.update(self._task, completed=done, visible=done < total)


class Bytes:
    """A bar in megabytes for each file of a transfer."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    def at(self, name: str, done: int, total: int | None) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(f"{name}, MB", total=None)
        whole = None if total is None else round(total / 1e6)
        finished = total is not None and done >= total
        self._progress.update(
            self._tasks[name], completed=round(done / 1e6), total=whole, visible=not finished
        )


class Steps:
    """The running epoch, with its mean losses so far."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("training", visible=False)

    def show(self, step: "Step") -> None:
        auxiliary = "" if step.auxiliary != step.auxiliary else f"  auxiliary {step.auxiliary:.3f}"
        description = (
            f"epoch {step.epoch}/{step.epochs}  primary loss {step.primary:.3f}{auxiliary}"
        )
        self._progress.update(
            self._task,
            description=description,
            total=step.steps,
            completed=step.step,
            visible=True,
        )


class Units:
    """Number of finished units of work."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("units", visible=False)
        self._done, self._count = 0, 0

    def start(self, todo: int, count: int) -> None:
        self._done, self._count = count - todo, count
        self._progress.update(self._task, total=count, completed=self._done, visible=todo > 0)
        if self._done:
            self._progress.console.print(f"{self._done} of {count} units were already finished")

    def show(self, unit: "Unit") -> None:
        self._done += 1
        self._progress.update(self._task, completed=self._done)
        self._progress.console.print(f"[{self._done}/{self._count}] finished {unit}")
