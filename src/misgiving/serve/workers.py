"""Worker threads: a pool that decodes images, and batchers for the model and the store."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cached_property
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Job = tuple[Item, Future[Result]]
Work = tuple[Callable[..., Any], list[bytes]]


class WorkerPool:
    """Threads that decode images, and read and write their files.

    Args:
        threads: Number of threads.
        overdue: Seconds after which a thread that works on one file counts as hung.
    """

    def __init__(self, threads: int, *, overdue: float) -> None:
        self._threads, self._overdue = threads, overdue
        self._started: dict[int, float] = {}  # by thread

    @cached_property
    def _pool(self) -> "Batcher[Work, Any]":
        """Threads that start at the first use, after `server.run` has limited their heaps."""
        return Batcher("worker", self._timed, size=1, threads=self._threads)

    async def run(self, work: Callable[..., Result], *data: bytes) -> Result:
        """Run `work` on the content of a file or on nothing, and return its result.

        The queue keeps cancelled work until a thread reaches it, so the content is passed in a box
        that is emptied on cancellation.
        """
        box = list(data)
        del data  # or a traceback would keep the content alive
        try:
            result: Result = await self._pool.result((work, box))
            return result
        finally:
            box.clear()

    def _timed(self, items: Sequence[Work]) -> Sequence[Any]:
        ((work, box),) = items
        thread = threading.get_ident()
        self._started[thread] = time.monotonic()
        try:
            return [work(*box)]
        finally:
            del self._started[thread]

    @property
    def hung(self) -> int:
        """Number of threads that have worked on one file for too long."""
        limit = time.monotonic() - self._overdue
        return sum(started < limit for started in list(self._started.values()))

    @property
    def alive(self) -> bool:
        """True while at least one thread is not hung."""
        return self.hung < self._threads

    def close(self, seconds: float | None = None) -> None:
        """Finish the work that has started, for at most these seconds: a thread may hang."""
        self._pool.close(seconds)


class Batcher(Generic[Item, Result]):
    """Threads that process queued items in batches; a process may end before they do.

    Args:
        name: Name of the threads.
        work: Returns the results in the order of the items. After an exception, it is called again
            for each item alone.
        size: Maximum number of items in a batch.
        linger: Seconds that a first item waits for others.
        not_retried: Exceptions that no item causes: each item would fail as the batch did.
        threads: Number of threads.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        size: int,
        linger: float = 0.0,
        not_retried: type[Exception] | tuple[()] = (),
        threads: int = 1,
    ) -> None:
        self._work, self._size, self._linger = work, size, linger
        self._not_retried = not_retried
        self._queue: queue.SimpleQueue[Job[Item, Result] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=name, daemon=True) for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, item: Item) -> "Future[Result]":
        """Queue an item; a future that is cancelled in time saves the work."""
        future: Future[Result] = Future()
        self._queue.put((item, future))
        return future

    async def result(self, item: Item) -> Result:
        """Queue an item, and wait for its result."""
        return await asyncio.wrap_future(self.submit(item))

    @property
    def alive(self) -> bool:
        """True while all threads run."""
        return all(thread.is_alive() for thread in self._threads)

    def close(self, seconds: float | None = None) -> None:
        """Finish all queued items, and end the threads; wait for at most these seconds."""
        for _ in self._threads:
            self._queue.put(None)
        deadline = None if seconds is None else time.monotonic() + seconds
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, ended = self._fill(first)
            self._process([job for job in batch if job[1].set_running_or_notify_cancel()])
            del first, batch  # while this thread waits, they would keep a result in memory
            if ended:
                return

    def _fill(self, first: Job[Item, Result]) -> tuple[list[Job[Item, Result]], bool]:
        """Collect a batch; the flag is True if the batcher is being closed."""
        batch, deadline = [first], time.monotonic() + self._linger
        while len(batch) < self._size:
            try:
                following = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if following is None:
                return batch, True
            batch.append(following)
        return batch, False

    def _process(self, batch: Sequence[Job[Item, Result]]) -> None:
        if not batch:
            return
        try:
            results = self._work([item for item, _ in batch])
        except Exception as failure:  # the thread keeps running
            self._handle_failure(batch, failure)
            del batch  # or its futures, the traceback and this frame would keep one another alive
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)

    def _handle_failure(self, batch: Sequence[Job[Item, Result]], failure: Exception) -> None:
        """Process each item alone, so that one bad item fails only itself."""
        if len(batch) > 1 and not isinstance(failure, self._not_retried):
            for job in batch:
                self._process([job])
            return
        for _, future in batch:
            future.set_exception(failure)
