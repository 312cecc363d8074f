"""Work that is cheaper done together: what waits is taken in one batch, by one thread."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


Waiting = tuple[Item, Future[Result]]


class Batcher(Generic[Item, Result]):
    """Takes what waits, up to `size` items, and does it in one go.

    Args:
        work: Gives the results in the order of the items; an exception in place of a result fails
            that item alone, a raised one the whole batch.
        size: Of a batch, at most.
        linger: Seconds that a first item waits for others.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        *,
        size: int,
        linger: float = 0.0,
    ) -> None:
        self._work, self._size, self._linger = work, size, linger
        self._waiting: queue.SimpleQueue[Waiting[Item, Result] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: Item) -> "Future[Result]":
        """The result, some time; cancelling it before then spares the work."""
        future: Future[Result] = Future()
        self._waiting.put((item, future))
        return future

    @property
    def alive(self) -> bool:
        """Whether there is a thread that works."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Finish what waits, and end."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, ended = self._fill(first)
            self._do([one for one in batch if one[1].set_running_or_notify_cancel()])
            if ended:
                return

    def _fill(self, first: Waiting[Item, Result]) -> tuple[list[Waiting[Item, Result]], bool]:
        """The batch, and whether the end was reached."""
        batch, until = [first], time.monotonic() + self._linger
        while len(batch) < self._size:
            try:
                following = self._waiting.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if following is None:
                return batch, True
            batch.append(following)
        return batch, False

    def _do(self, batch: Sequence[Waiting[Item, Result]]) -> None:
        if not batch:
            return
        results: Sequence[Result | Exception]
        try:
            results = self._work([item for item, _ in batch])
        except Exception as failure:  # it is told to everyone who waits, and the thread lives on
            results = [failure] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


def singly_after_failure(
    work: Callable[[Sequence[Item]], Sequence[Result]],
    *,
    together: type[Exception] | tuple[type[Exception], ...] = (),
) -> Callable[[Sequence[Item]], Sequence[Result | Exception]]:
    """Where a batch fails, each item alone: one bad item does not fail its neighbours.

    Args:
        work: Gives the results in the order of the items.
        together: Failures that no item is to blame for: each alone would fail as the batch did.
    """

    def each(items: Sequence[Item]) -> Sequence[Result | Exception]:
        try:
            return work(items)
        except Exception as failure:
            if len(items) == 1 or isinstance(failure, together):
                return [failure] * len(items)
            return [result for item in items for result in each([item])]

    return each
