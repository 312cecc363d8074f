"""Messages, progress bars and lines of a log on standard error, tables on standard output."""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from misgiving.errors import StoppedError

if TYPE_CHECKING:
    from misgiving.reproduction.config import Unit
    from misgiving.training.loop import Step

RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
SILENT_SECONDS = 60.0  # after which a log says how far the work is


def process_number() -> int:
    """Rank among the processes of a command, or among tasks that were started together."""
    ranks = [os.environ.get(name, "") for name in RANKS]
    return max(int(rank) if rank.isdigit() else 0 for rank in ranks)


console = Console(stderr=True, highlight=False, markup=False, emoji=False)


def say(text: str) -> None:
    """Print a message on standard error; the terminal wraps long lines."""
    console.print(text, soft_wrap=True)


def silence_all_but_first_process() -> None:
    """Drop messages and tables in all but the first process of a command, which has them all."""
    console.quiet = process_number() > 0


def show_table(header: Sequence[str], rows: Iterable[Iterable[object]], title: str = "") -> None:
    """Print a table on standard output: whole cells, in lines that fit the terminal."""
    table = Table(title=title or None)
    for column in header:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    Console(markup=False, emoji=False, highlight=False, quiet=console.quiet).print(table)


class LogLines(Progress):
    """Progress in a log: a line at each milestone, and after a minute without one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(
            console=console, disable=True, get_time=clock, speed_estimate_period=math.inf
        )
        self._started = self._last = clock()

    def update(self, task_id: TaskID, *, milestone: bool = False, **changes: Any) -> None:
        """Change a task; a milestone is a line at once."""
        super().update(task_id, **changes)
        if milestone or self.get_time() - self._last >= SILENT_SECONDS:
            self._say([task for task in self.tasks if task.visible or task.id == task_id])

    def _say(self, tasks: Sequence[Task]) -> None:
        self._last = self.get_time()
        counts = [
            f"{task.description}  {task.completed:.0f}/{task.total:.0f}"
            for task in tasks
            if task.total is not None
        ]
        times = [f"{timedelta(seconds=round(self._last - self._started))} elapsed"]
        left = next((task.time_remaining for task in tasks if task.time_remaining), None)
        times += [] if left is None else [f"about {timedelta(seconds=round(left))} left"]
        say(f"{', '.join(counts)} ({', '.join(times)})")


@contextmanager
def progress_bars(stop: str = "stopped; no partial output was left behind") -> Iterator[Progress]:
    """Bars on a terminal, lines in a log; a stop becomes an explained failure."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bars = console.is_terminal and not console.is_dumb_terminal
    with (
        Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
        if bars
        else LogLines()
    ) as progress:
        try:
            yield progress
        except KeyboardInterrupt:
            raise StoppedError(stop) from None


class Bar:
    """A bar that appears with the first report, and starts anew when fewer are done."""

    def __init__(self, progress: Progress, description: str) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=None, visible=False)
        self._done = 0

    def at(self, done: int, total: int | None) -> None:
        if done < self._done:
            self._progress.reset(self._task)
        self._done = done
        visible = total is None or done < total
        self._progress.update(self._task, completed=done, total=total, visible=visible)


class Steps:
    """The steps of a training, with the epoch and its mean losses so far.

    With `each_epoch`, the end of every epoch is a line in a log.
    """

    def __init__(self, progress: Progress, *, each_epoch: bool = False) -> None:
        self._progress, self._each_epoch = progress, each_epoch
        self._task = progress.add_task("training", visible=False)
        self._done = 0

    def show(self, step: "Step") -> None:
        done, total = (step.epoch - 1) * step.steps + step.step, step.epochs * step.steps
        if done <= self._done:  # the next training
            self._progress.reset(self._task)
        self._done = done
        auxiliary = "" if step.auxiliary != step.auxiliary else f"  auxiliary {step.auxiliary:.3f}"
        self._progress.update(
            self._task,
            description=f"epoch {step.epoch}/{step.epochs}  primary loss {step.primary:.3f}"
            f"{auxiliary}",
            total=total,
            completed=done,
            visible=done < total,
            milestone=self._each_epoch and step.step == step.steps,
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
