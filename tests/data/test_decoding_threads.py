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


@pytest.mark.parametrize("fails", [True, False])
def test_a_failure_or_stopping_early_does_not_wait_for_work_that_has_not_begun(fails):
    begun = []

    def work(index):
        begun.append(index)
        time.sleep(0.1 * (index > 0))
        if fails:
            raise ValueError(index)

    with closing(in_order(work, 1000, ahead=500)) as results:
        try:
            next(results)
        except ValueError:
            assert fails
    assert len(begun) <= 10 * WORKERS
