"""Messages, failures and progress on standard error, tables on standard output."""

import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from misgiving.errors import StoppedError, visible

if TYPE_CHECKING:
    from misgiving.data.decoding import BadImage
    from misgiving.reproduction.config import Unit
    from misgiving.training.loop import Step

RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
SILENT_SECONDS = 60.0  # after which a log says how far the work is
FIRST_SECONDS = 10.0  # after which it does so first, with the time that is left
MAX_LISTED = 50  # bad images on the screen
console = Console(stderr=True, highlight=False, markup=False, emoji=False)


def process_number() -> int:
    """Rank among the processes of a command, or among tasks that were started together."""
    ranks = [os.environ.get(name, "") for name in RANKS]
    return max(int(rank) if rank.isdigit() else 0 for rank in ranks)


def silence_all_but_first_process() -> None:
    """Drop messages and tables in all but the first process of a command, which has them all."""
    console.quiet = process_number() > 0


def say(text: str) -> None:
    """Print a message on standard error, harmless to the terminal, which wraps long lines."""
    console.print("\n".join(map(visible, text.split("\n"))), soft_wrap=True)


def show_failure(message: str, images: "Sequence[BadImage]" = ()) -> None:
    """Print one line on standard error, and below it the images if there are several."""
    if message:
        sys.stderr.write(f"process {number}: " if (number := process_number()) else "")
        sys.stderr.write(f"error: {visible(' '.join(message.split()))}\n")
    if len(images) > 1:
        list_bad_images(images)


def say_skipped(bad: "Sequence[BadImage]") -> None:
    """Report the images that were left out, if any."""
    if bad:
        noun = "image" if len(bad) == 1 else "images"
        say(f"left out: {len(bad)} {noun} that cannot be read")
        list_bad_images(bad)


def list_bad_images(bad: "Sequence[BadImage]") -> None:
    """Print one line for each image, up to a number that fits the screen."""
    for image in bad[:MAX_LISTED]:
        sys.stderr.write(f"  {visible(str(image))}\n")
    if len(bad) > MAX_LISTED:
        sys.stderr.write(f"  and {len(bad) - MAX_LISTED} more; `misgiving data check` lists all\n")


def show_table(header: Sequence[str], rows: Iterable[Iterable[object]], title: str = "") -> None:
    """Print a table on standard output: whole cells, in lines that fit the terminal."""
    table = Table(title=title or None)
    for column in header:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(visible(str(cell)) for cell in row))
    Console(markup=False, emoji=False, highlight=False, quiet=console.quiet).print(table)


@contextmanager
def progress_bars(stop: str = "stopped; no partial output was left behind") -> Iterator[Progress]:
    """Bars on a terminal, lines in a log; a stop becomes an explained failure."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *(*columns, TimeRemainingColumn()),
        console=console,
        transient=True,
        speed_estimate_period=math.inf,  # units of work may take longer than rich's own 30 s
        disable=not console.is_terminal or console.is_dumb_terminal,
    ) as progress:
        try:
            yield progress
        except KeyboardInterrupt:
            raise StoppedError(stop) from None


class Bar:
    """A bar that appears with the first report, and starts anew when fewer are done.

    In a log it is a line after a few seconds, and then each minute.
    """

    def __init__(self, progress: Progress, description: str) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=None, visible=False)
        self._said = progress.get_time() + FIRST_SECONDS - SILENT_SECONDS
        self.done, self.total = 0, 0

    def at(self, done: int, total: int | None, **changes: Any) -> None:
        """Show how much is done; `changes` are of the task, such as its description."""
        if done < self.done:
            self._progress.reset(self._task)
        self.done, self.total = done, total or 0
        visible = total is None or done < total
        self._progress.update(self._task, completed=done, total=total, visible=visible, **changes)
        now = self._progress.get_time()
        if self._progress.disable and total and now - self._said >= SILENT_SECONDS:
            self._said, task = now, self._progress.tasks[self._task]
            left = task.time_remaining  # None: unknown
            times = [f"{timedelta(seconds=round(task.elapsed or 0))} elapsed"]
            times += [] if left is None else [f"about {timedelta(seconds=round(left))} left"]
            say(f"{task.description}  {done}/{total} ({', '.join(times)})")


class Steps(Bar):
    """The steps of a training, with the epoch and its mean loss so far."""

    def show(self, step: "Step") -> None:
        self.at(
            (step.epoch - 1) * step.steps + step.step,
            step.epochs * step.steps,
            description=f"epoch {step.epoch}/{step.epochs}  loss {step.primary:.3f}",
        )


class Units(Bar):
    """Number of finished units of work."""

    def start(self, todo: int, count: int) -> None:
        self.at(count - todo, count)
        finished = f"; {count - todo} were already finished" if count > todo else ""
        say(f"{todo} units to train and measure{finished}")

    def show(self, unit: "Unit") -> None:
        self.at(self.done + 1, self.total)
        say(f"[{self.done}/{self.total}] finished {unit}")
