"""Threads that work on files: they hold none that nobody waits for, and it is seen if one hangs."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class Readers:
    """Decode images, and read and write their files.

    Args:
        threads: How many.
        overdue: Seconds after which work on one file has hung.
    """

    def __init__(self, threads: int, *, overdue: float) -> None:
        self._threads, self._overdue = threads, overdue
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="reading")
        self._begun: dict[int, float] = {}  # of what is being done, by thread

    async def run(self, work: Callable[..., Result], *data: bytes) -> Result:
        """What `work` makes, of a file or none; a file is let go where this is cancelled before.

        The pool itself holds what was cancelled until a thread comes to it.
        """
        box = list(data)
        del data  # a traceback would hold it, too
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, self._timed, work, box)
        finally:
            box.clear()

    def _timed(self, work: Callable[..., Result], box: list[bytes]) -> Result:
        me = threading.get_ident()
        self._begun[me] = time.monotonic()
        try:
            return work(*box)
        finally:
            del self._begun[me]

    @property
    def hung(self) -> int:
        """Threads that have been at one file for too long."""
        until = time.monotonic() - self._overdue
        return sum(begun < until for begun in list(self._begun.values()))

    @property
    def alive(self) -> bool:
        """Whether there is a thread that works."""
        return self.hung < self._threads

    def close(self) -> None:
        """Finish what has begun."""
        self._pool.shutdown()
