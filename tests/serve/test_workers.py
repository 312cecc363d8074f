"""Batches of work in threads."""

import subprocess
import sys
import threading

import pytest
from standin import Standin, picture
from waiting import until

from misgiving.serve import service as service_module
from misgiving.serve.service import Batcher


@pytest.fixture
def started():
    """Start a batcher that doubles numbers and fails on 0; gives it and its batches."""
    batchers = []

    def start(go_on=None, **options):
        def double(items):
            batches.append(list(items))
            assert go_on is None or go_on.wait(60)
            if 0 in items:
                raise ValueError("zero")
            return [2 * item for item in items]

        batches = []
        batchers.append(Batcher("test", double, **options))
        return batchers[-1], batches

    yield start
    for batcher in batchers:
        batcher.close()


def test_queued_items_are_processed_in_batches_and_closing_finishes_them(started):
    go_on = threading.Event()
    batcher, batches = started(go_on, size=4)
    first = batcher.submit(1)
    until(lambda: batches)
    others = [batcher.submit(number) for number in range(2, 10)]
    assert others.pop(3).cancel()
    go_on.set()
    batcher.close()
    assert [future.result(0) for future in [first, *others]] == [2, 4, 6, 8, 12, 14, 16, 18]
    assert batches == [[1], [2, 3, 4], [6, 7, 8, 9]]  # a cancelled item is skipped
    assert not batcher.alive


@pytest.mark.parametrize(("linger", "size"), [(600.0, 5), (0.05, 100)])
def test_a_first_item_lingers_until_the_batch_is_full_or_the_time_is_over(started, linger, size):
    batcher, batches = started(size=size, linger=linger)
    futures = [batcher.submit(number) for number in range(1, 6)]
    assert [future.result(60) for future in futures] == [2, 4, 6, 8, 10]
    assert linger < 1 or len(batches) == 1


@pytest.mark.parametrize("retried", [True, False])
def test_after_a_failure_each_item_is_tried_alone_unless_none_can_have_caused_it(started, retried):
    not_retried = KeyError if retried else ValueError
    batcher, batches = started(size=3, linger=600.0, not_retried=not_retried)
    first, bad, last = (batcher.submit(number) for number in (1, 0, 2))
    assert isinstance(bad.exception(60), ValueError)
    assert (first.exception(60) is None) == (last.exception(60) is None) == retried
    assert batches == [[1, 0, 2], *[[1], [0], [2]] * retried]
    assert batcher.alive


class Hanging(Standin):
    """Decodes nothing until it is released."""

    def __init__(self):
        self.go_on = threading.Event()

    def model_input(self, data, name):
        self.go_on.wait(60)
        return super().model_input(data, name)


def test_health_fails_while_all_decoding_threads_hang(serving, monkeypatch):
    monkeypatch.setattr(service_module, "MAX_DECODING_SECONDS", 0.0)
    model = Hanging()
    client = serving(model, timeout=0.1)
    assert client.get("/health").status_code == 200
    client.post("/decisions", content=picture(), headers={"Content-Type": "image/png"})
    until(lambda: client.get("/health").status_code == 503)
    assert "restart" in client.get("/health").json()["detail"]
    assert "misgiving_hung_threads 1.0" in client.get("/metrics").text
    model.go_on.set()
    until(lambda: client.get("/health").status_code == 200)


HANG = """
import threading
from misgiving.serve.service import Batcher

begun = threading.Event()
batcher = Batcher("test", lambda items: begun.set() or threading.Event().wait(), threads=2)
batcher.submit(1)
begun.wait()
batcher.close(0.01)
print("ended")
"""


def test_a_thread_that_hangs_does_not_keep_the_process_from_ending():
    done = subprocess.run([sys.executable, "-c", HANG], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr
