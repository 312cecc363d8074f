import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from coloured import coloured_set

from misgiving.data.batching import batches, sampling_order
from misgiving.data.decoding import LOOK_AHEAD, in_order
from misgiving.errors import DataError

IMBALANCED = np.repeat([0, 1, 2], [9000, 900, 100])


def fractions_of(pixels):
    return pixels.transpose(0, 3, 1, 2) / np.float32(255)


@pytest.mark.parametrize(("weighted", "power"), [("inverse", 1.0), ("sqrt", 0.5)])
def test_classes_are_drawn_in_proportion_to_their_weights(weighted, power):
    order = sampling_order(IMBALANCED, weighting=weighted, seed=0, epoch=0)
    counts = np.array([9000.0, 900.0, 100.0])
    expected = counts * counts**-power / (counts * counts**-power).sum()
    drawn = np.bincount(IMBALANCED[order]) / len(order)
    assert len(order) == len(IMBALANCED)
    np.testing.assert_allclose(drawn, expected, atol=0.02)


def test_without_weights_every_sample_is_drawn_once():
    order = sampling_order(IMBALANCED, weighting="none", seed=0, epoch=0)
    assert sorted(order.tolist()) == list(range(len(IMBALANCED)))
    assert order.tolist() != sorted(order.tolist())


@pytest.mark.parametrize("weighted", ["inverse", "none"])
def test_seed_and_epoch_decide_the_order(weighted):
    def order(seed, epoch):
        return sampling_order(
            np.arange(50) % 3, weighting=weighted, seed=seed, epoch=epoch
        ).tolist()

    first = order(1, 2)
    before = torch.manual_seed(77).get_state()
    assert order(1, 2) == first
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is left alone
    others = [order(1, 3), order(2, 2), order(2, 1), order(0, 3), order(3, 0)]
    assert first not in others
    assert order(0, 3) != order(3, 0)


def test_batches_follow_the_order_that_is_given_with_fractions_and_the_channels_first():
    prepared = coloured_set(8).select(np.array([5, 3, 0]))
    (first, _), (second, _) = batches(prepared, batch_size=2, order=np.array([2, 0, 2]))
    np.testing.assert_array_equal(first.numpy(), fractions_of(prepared.images[[0, 5]]))
    np.testing.assert_array_equal(second.numpy(), fractions_of(prepared.images[[0]]))
    assert first.is_contiguous()


class CountedPixels:
    """Counts how many batches have been read, and sets an event when there are three."""

    def __init__(self, array):
        self.array, self.read, self.third = array, 0, threading.Event()
        self.shape = array.shape

    def __getitem__(self, rows):
        self.read += 1
        if self.read == 3:
            self.third.set()
        if len(self.array) <= rows.max():
            raise DataError("the disk is gone")
        return self.array[rows]


def test_two_batches_are_read_while_the_first_is_used(as_in_use):  # noqa: ARG001
    prepared = coloured_set(12)
    counted = CountedPixels(prepared.images)
    running = batches(replace(prepared, images=counted), batch_size=1)
    next(running)
    assert counted.third.wait(60)


def test_an_error_while_reading_ahead_is_raised_when_its_batch_is_requested(
    as_in_use,  # noqa: ARG001
):
    prepared = coloured_set(4)
    broken = replace(prepared, images=CountedPixels(prepared.images[:3]))
    running = batches(broken, batch_size=1)
    for expected in fractions_of(prepared.images[:3]):
        np.testing.assert_array_equal(next(running)[0][0].numpy(), expected)
    with pytest.raises(DataError):
        next(running)


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
