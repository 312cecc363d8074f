"""Batches of work in threads."""

import pytest

from misgiving.serve.service import Batcher


@pytest.mark.parametrize("retried", [True, False])
def test_a_batch_that_fails_is_tried_item_by_item_unless_none_can_have_caused_it(retried):
    def double(items):
        batches.append(list(items))
        if 0 in items:
            raise ValueError("zero")
        return [2 * item for item in items]

    batches, not_retried = [], KeyError if retried else ValueError
    batcher = Batcher("test", double, size=3, linger=600.0, not_retried=not_retried)
    first, bad, last = (batcher.submit(number) for number in (1, 0, 2))
    assert isinstance(bad.exception(60), ValueError)
    assert (first.exception(60) is None) == (last.exception(60) is None) == retried
    assert batches == [[1, 0, 2], *[[1], [0], [2]] * retried]
    fourth = batcher.submit(4)
    batcher.close()  # which finishes what is queued
    assert fourth.result(0) == 8
