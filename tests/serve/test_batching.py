import threading

import pytest

from misgiving.serve.workers import Batcher, retry_singly


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


def test_what_waits_is_done_together_up_to_the_size(batching):
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


def test_a_first_item_does_not_linger_for_ever(batching):
    assert batching(doubled, size=100, linger=0.05).submit(3).result(60) == 6


def test_a_failure_is_told_to_those_of_the_batch_and_to_no_one_after_it(batching):
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


def test_after_a_failure_each_item_is_tried_alone():
    def fail_on_zero(items):
        if 0 in items:
            raise ValueError("zero")
        return items

    first, bad, last = retry_singly(fail_on_zero)([1, 0, 2])
    assert (first, last) == (1, 2)
    assert isinstance(bad, ValueError)


def test_what_was_cancelled_is_not_done(batching):
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


def test_closing_finishes_what_waits(batching):
    batcher = batching(doubled, size=2, linger=0.01)
    futures = [batcher.submit(number) for number in range(9)]
    batcher.close()
    assert [future.result(0) for future in futures] == [2 * number for number in range(9)]
    assert not batcher.alive
