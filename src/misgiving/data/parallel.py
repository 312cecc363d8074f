"""Images are decoded, and batches read, by threads; they come in order."""

import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

WORKERS = min(8, os.cpu_count() or 1)
LOOK_AHEAD = 4 * WORKERS  # decoded images that may wait; bounds memory whatever the set's size


def in_order(
    work: Callable[[int], Result], count: int, *, ahead: int = LOOK_AHEAD, workers: int = WORKERS
) -> Generator[Result]:
    """Results of `work` for 0, 1 and so on, by threads that run at most so many ahead.

    Who stops early, or meets a failure, waits for the work that has begun and for no other.

    >>> list(in_order(lambda index: index**2, 4))
    [0, 1, 4, 9]
    """
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for index in range(count):
            pending.append(pool.submit(work, index))
            if len(pending) == ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
