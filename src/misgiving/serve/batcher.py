"""Threads: a batcher, for what has come while they were busy, and one that repeats its work."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")
GATHERING_SECONDS = 0.005


class Batcher(Generic[Item, Answer]):
    """Threads that process items in batches: of what has come while they were busy, and soon after.

    A hung thread does not keep the process from ending. For the event loop's thread.

    Args:
        name: Name of the threads.
        work: Returns the results in the order of the items. After an exception, it is called again
            for each item alone.
        size: Maximum number of items in a batch.
        not_retried: Exceptions that no item causes: each item would fail as the batch did.
        threads: Number of threads.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Item]], Sequence[Answer]],
        *,
        size: int = 1,
        not_retried: type[Exception] | tuple[()] = (),
        threads: int = 1,
    ) -> None:
        self._work, self._size, self._not_retried = work, size, not_retried
        self._waiting: dict[asyncio.Future[Answer], Item] = {}
        self._free = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._batches: queue.SimpleQueue[dict[asyncio.Future[Answer], Item] | None]
        self._batches = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=name, daemon=True) for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def result(self, item: Item) -> asyncio.Future[Answer]:
        """Queue an item, for a caller that waits for its result; a cancelled one saves the work."""
        if self._loop is not (loop := asyncio.get_running_loop()):
            # nothing is delivered to an earlier loop, which has ended
            self._loop, self._free = loop, len(self._threads)
        future = loop.create_future()
        future.add_done_callback(lambda done: self._waiting.pop(done, None))
        self._waiting[future] = item
        self._start()
        return future

    def close(self, seconds: float) -> None:
        """Finish the batches that have started, and end the threads; wait for these seconds."""
        for _ in self._threads:
            self._batches.put(None)
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _start(self) -> None:
        """Give batches to the threads that are free."""
        while self._free and self._waiting:
            first = list(islice(self._waiting, self._size))
            self._batches.put({future: self._waiting.pop(future) for future in first})
            self._free -= 1

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            futures, results = list(batch), self._results(list(batch.values()))
            with suppress(RuntimeError):  # the loop has ended
                futures[0].get_loop().call_soon_threadsafe(self._deliver, futures, results)
            del batch, futures, results  # while this thread waits, they would stay in memory

    def _results(self, items: Sequence[Item]) -> Sequence[Answer | Exception]:
        """The result of each item; an exception for one whose work fails even alone."""
        try:
            return self._work(items)
        except Exception as failure:  # the thread keeps running
            if len(items) == 1 or isinstance(failure, self._not_retried):
                return [failure] * len(items)
        return [result for item in items for result in self._results([item])]

    def _deliver(
        self, futures: Sequence[asyncio.Future[Answer]], results: Sequence[Answer | Exception]
    ) -> None:
        for future, result in zip(futures, results, strict=True):
            if future.done():  # cancelled
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        # Many come: a batch costs as much as several items, so a larger one is worth a pause.
        pause = GATHERING_SECONDS if len(futures) > 1 else 0.0
        asyncio.get_running_loop().call_later(pause, self._rested)

    def _rested(self) -> None:
        self._free += 1
        self._start()


class Repetition(threading.Thread):
    """A thread that repeats its work until it is closed, whatever fails.

    Args:
        name: Name of the thread.
        work: Returns True where it must go on at once.
        on_failure: Called with each failure of the work.
        woken: Ends a rest.
        seconds: Longest rest, and the one after it that nothing ends.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], object],
        on_failure: Callable[[Exception], object],
        woken: threading.Event,
        *seconds: float,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._work, self._on_failure = work, on_failure
        self._woken, self._stopped, self._seconds = woken, threading.Event(), seconds
        self.start()

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                if self._work():
                    continue
            except Exception as failure:  # the thread keeps running
                self._on_failure(failure)
            for event, seconds in zip((self._woken, self._stopped), self._seconds, strict=False):
                event.wait(seconds)

    def close(self, seconds: float) -> None:
        """End the thread; wait for at most these seconds."""
        self._stopped.set()
        self._woken.set()
        self.join(seconds)
