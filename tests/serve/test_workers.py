"""The pool of decoding threads, and the batcher."""

import asyncio
import gc
import subprocess
import sys
import threading

import pytest
from standin import Standin, picture
from waiting import until

from misgiving.serve import service as service_module
from misgiving.serve.workers import Batcher, WorkerPool


@pytest.fixture
def batching():
    made = []

    def make(work, **options):
        made.append(Batcher("test", work, **options))
        return made[-1]

    yield make
    for batcher in made:
        batcher.close()


def doubled(items):
    return [2 * item for item in items]


def test_everyone_gets_the_result_of_their_own_item(batching):
    batcher = batching(doubled, size=4)
    futures = [batcher.submit(number) for number in range(50)]
    assert [future.result(60) for future in futures] == [2 * number for number in range(50)]


def test_queued_items_are_processed_in_batches(batching):
    sizes, started, go_on = [], threading.Event(), threading.Event()

    def slow(items):
        sizes.append(len(items))
        started.set()
        go_on.wait(60)
        return items

    batcher = batching(slow, size=4)
    first = batcher.submit(0)
    started.wait(60)
    others = [batcher.submit(number) for number in range(1, 8)]
    go_on.set()
    for future in [first, *others]:
        future.result(60)
    assert sizes == [1, 4, 3]


def test_a_first_item_lingers_until_the_batch_is_full(batching):
    sizes = []

    def note(items):
        sizes.append(len(items))
        return items

    batcher = batching(note, size=5, linger=600.0)
    futures = [batcher.submit(number) for number in range(5)]
    assert [future.result(60) for future in futures] == list(range(5))
    assert sizes == [5]


def test_a_first_item_does_not_linger_forever(batching):
    assert batching(doubled, size=100, linger=0.05).submit(3).result(60) == 6


def test_a_failure_affects_only_its_own_batch(batching):
    def fail_on_zero(items):
        if 0 in items:
            raise ValueError("zero")
        return items

    batcher = batching(fail_on_zero, size=1)
    bad, good = batcher.submit(0), batcher.submit(7)
    with pytest.raises(ValueError, match="zero"):
        bad.result(60)
    assert good.result(60) == 7
    assert batcher.alive


@pytest.mark.parametrize("retried", [True, False])
def test_after_a_failure_each_item_is_tried_alone_unless_none_can_have_caused_it(batching, retried):
    asked = []

    def fail_on_zero(items):
        asked.append(list(items))
        if 0 in items:
            raise ValueError("zero")
        return items

    not_retried = KeyError if retried else ValueError
    batcher = batching(fail_on_zero, size=3, linger=600.0, not_retried=not_retried)
    first, bad, last = (batcher.submit(number) for number in (1, 0, 2))
    assert isinstance(bad.exception(60), ValueError)
    assert (first.exception(60) is None) == (last.exception(60) is None) == retried
    assert asked == [[1, 0, 2], *[[1], [0], [2]] * retried]


def test_cancelled_items_are_skipped(batching):
    done, started, go_on = [], threading.Event(), threading.Event()

    def note(items):
        started.set()
        go_on.wait(60)
        done.extend(items)
        return items

    batcher = batching(note, size=1)
    batcher.submit("first")
    started.wait(60)
    assert batcher.submit("cancelled").cancel()
    last = batcher.submit("last")
    go_on.set()
    last.result(60)
    assert done == ["first", "last"]


def test_closing_finishes_queued_items(batching):
    batcher = batching(doubled, size=2, linger=0.01)
    futures = [batcher.submit(number) for number in range(9)]
    batcher.close()
    assert [future.result(0) for future in futures] == [2 * number for number in range(9)]
    assert not batcher.alive


class Hanging(Standin):
    """Decodes nothing until it is released."""

    def __init__(self):
        self.begun, self.go_on = threading.Event(), threading.Event()

    def square(self, data, name):
        self.begun.set()
        self.go_on.wait(60)
        return super().square(data, name)


def wait_for_health(client, status):
    until(lambda: client.get("/health").status_code == status)


def test_health_fails_while_all_decoding_threads_hang(serving, monkeypatch):
    monkeypatch.setattr(service_module, "MAX_DECODING_SECONDS", 0.0)
    model = Hanging()
    client = serving(model, timeout=0.1)
    assert client.get("/health").status_code == 200
    client.post("/decisions", content=picture(), headers={"Content-Type": "image/png"})
    wait_for_health(client, 503)
    assert "restart" in client.get("/health").json()["detail"]
    assert "misgiving_hung_threads 1.0" in client.get("/metrics").text
    model.go_on.set()
    wait_for_health(client, 200)


def test_a_cancelled_file_is_released_before_a_thread_reaches_it():
    started, go_on = threading.Event(), threading.Event()
    data = b"x" * 1000

    def hold(_):
        started.set()
        return go_on.wait(60)

    async def give_up_second():
        first = asyncio.create_task(workers.run(hold, b""))
        await asyncio.to_thread(started.wait, 60)
        held = [sys.getrefcount(data)]
        second = asyncio.create_task(workers.run(len, data))
        await asyncio.sleep(0)  # the task runs until it waits for a thread
        held.append(sys.getrefcount(data))
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        del second
        gc.collect()
        held.append(sys.getrefcount(data))
        go_on.set()
        assert await first
        return held

    workers = WorkerPool(1, overdue=9.0)
    before, waiting, after = asyncio.run(give_up_second())
    assert before == after < waiting
    workers.close()


HANG = """
import asyncio, threading
from misgiving.serve.workers import WorkerPool

async def hang():
    task = asyncio.create_task(workers.run(lambda: begun.set() or threading.Event().wait()))
    await asyncio.to_thread(begun.wait)
    task.cancel()

begun, workers = threading.Event(), WorkerPool(2, overdue=9.0)
asyncio.run(hang())
workers.close(0.01)
print("ended")
"""


def test_a_thread_that_hangs_does_not_keep_the_process_from_ending():
    done = subprocess.run([sys.executable, "-c", HANG], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


def test_a_worker_returns_results_and_raises_exceptions():
    async def ask():
        assert await workers.run(len, b"four") == 4
        with pytest.raises(ZeroDivisionError):
            await workers.run(lambda data: 1 // len(data), b"")
        return workers.hung

    workers = WorkerPool(2, overdue=-1.0)
    assert asyncio.run(ask()) == 0
    workers.close()
