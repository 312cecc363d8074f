"""Worker threads: a pool that decodes images, and batchers for the model and the store."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Waiting = tuple[Item, Future[Result]]


class WorkerPool:
    """Threads that decode images, and read and write their files.

    Args:
        threads: The number of threads.
        overdue: Seconds after which a thread that works on one file counts as hung.
    """

    def __init__(self, threads: int, *, overdue: float) -> None:
        self._threads, self._overdue = threads, overdue
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="worker")
        self._started: dict[int, float] = {}  # by thread

    async def run(self, work: Callable[..., Result], *data: bytes) -> Result:
        """Run `work` on the content of a file or on nothing, and return its result.

        The executor keeps cancelled work until a thread reaches it, so the content is passed in a
        box that is emptied on cancellation.
        """
        box = list(data)
        del data  # or a traceback would keep the content alive
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, self._timed, work, box)
        finally:
            box.clear()

    def _timed(self, work: Callable[..., Result], box: list[bytes]) -> Result:
        thread = threading.get_ident()
        self._started[thread] = time.monotonic()
        try:
            return work(*box)
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

    def close(self) -> None:
        """Finish the work that has started."""
        self._pool.shutdown()


class Batcher(Generic[Item, Result]):
    """A thread that processes queued items in batches.

    Args:
        name: Of the thread.
        work: Returns the results in the order of the items. After an exception, it is called again
            for each item alone.
        size: Most items in a batch.
        linger: Seconds that a first item waits for others.
        not_retried: Exceptions that no item causes: each item would fail as the batch did.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        size: int,
        linger: float = 0.0,
        not_retried: type[Exception] | tuple[()] = (),
    ) -> None:
        self._work, self._size, self._linger = work, size, linger
        self._not_retried = not_retried
        self._queue: queue.SimpleQueue[Waiting[Item, Result] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: Item) -> "Future[Result]":
        """Queue an item; a future that is cancelled in time saves the work."""
        future: Future[Result] = Future()
        self._queue.put((item, future))
        return future

    @property
    def alive(self) -> bool:
        """True while the thread runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Finish all queued items, and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, ended = self._fill(first)
            self._process([one for one in batch if one[1].set_running_or_notify_cancel()])
            if ended:
                return

    def _fill(self, first: Waiting[Item, Result]) -> tuple[list[Waiting[Item, Result]], bool]:
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

    def _process(self, batch: Sequence[Waiting[Item, Result]]) -> None:
        if not batch:
            return
        try:
            results = self._work([item for item, _ in batch])
        except Exception as failure:  # the thread keeps running
            self._handle_failure(batch, failure)
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)

    def _handle_failure(self, batch: Sequence[Waiting[Item, Result]], failure: Exception) -> None:
        """Process each item alone, so that one bad item fails only itself."""
        if len(batch) > 1 and not isinstance(failure, self._not_retried):
            for one in batch:
                self._process([one])
            return
        for _, future in batch:
            future.set_exception(failure)
