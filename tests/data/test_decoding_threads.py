import threading
import time
from contextlib import closing

import pytest

from misgiving.data.decoding import LOOK_AHEAD, WORKERS, in_order


def test_results_come_in_order_whichever_is_ready_first():
    def work(index):
        time.sleep(0.02 * (index % 3 == 0))
        return index

    assert list(in_order(work, 30)) == list(range(30))


@pytest.mark.parametrize("ahead", [1, 2, LOOK_AHEAD, 3 * LOOK_AHEAD])
def test_work_runs_so_far_ahead_and_no_further(ahead):
    begun, most, count = [], [], 4 * LOOK_AHEAD
    for taken, _ in enumerate(in_order(begun.append, count, ahead=ahead)):
        deadline = time.monotonic() + 120
        while len(begun) < min(taken + ahead, count) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.002)  # the threads would go on if they could
        most.append(len(begun) - taken)
    assert max(most) == ahead


def test_work_goes_on_while_a_result_is_used():
    begun = threading.Semaphore(0)
    with closing(in_order(lambda _: begun.release(), 10, ahead=5)) as results:
        next(results)
        assert all(begun.acquire(timeout=120) for _ in range(5))


def test_a_failure_does_not_wait_for_work_that_has_not_begun():
    begun = []

    def work(index):
        begun.append(index)
        time.sleep(0.1 * (index > 0))
        raise ValueError(index)

    with pytest.raises(ValueError, match="0"):
        list(in_order(work, 1000, ahead=500))
    assert len(begun) <= 10 * WORKERS


def test_stopping_early_does_not_wait_for_work_that_has_not_started():
    begun = []

    def work(index):
        begun.append(index)
        time.sleep(0.1 * (index > 0))

    with closing(in_order(work, 1000, ahead=500)) as results:
        next(results)
    assert len(begun) <= 100
