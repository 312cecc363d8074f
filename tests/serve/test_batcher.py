import asyncio
import threading

import pytest

from misgiving.serve.batcher import Batcher


@pytest.mark.parametrize("retried", [True, False])
def test_a_batch_that_fails_is_tried_item_by_item_unless_none_can_have_caused_it(retried):
    def double(items):
        batches.append(list(items))
        go_on.wait(60)
        if 0 in items:
            raise ValueError("zero")
        return [2 * item for item in items]

    async def run():
        results = [batcher.result(number) for number in (3, 1, 0, 2)]
        go_on.set()
        return await asyncio.gather(*results, return_exceptions=True)

    batches, go_on, not_retried = [], threading.Event(), KeyError if retried else ValueError
    batcher = Batcher("test", double, size=3, not_retried=not_retried)
    _, first, bad, last = asyncio.run(run())
    assert isinstance(bad, ValueError)
    assert (first == 2) == (last == 4) == retried
    assert batches == [[3], [1, 0, 2], *[[1], [0], [2]] * retried]
    batcher.close(60.0)


def test_items_that_come_while_a_thread_works_are_a_batch_without_those_that_were_cancelled():
    def record(items):
        batches.append(list(items))
        if items == ["first"]:
            go_on.wait(60)
        return items

    async def run():
        first, *rest = (batcher.result(item) for item in ("first", "a", "b", "c"))
        rest[1].cancel()
        go_on.set()
        assert await asyncio.gather(first, rest[0], rest[2]) == ["first", "a", "c"]
        async with asyncio.timeout(60):
            assert await batcher.result("d") == "d"

    batches, go_on = [], threading.Event()
    batcher = Batcher("test", record, size=9)
    asyncio.run(run())
    assert batches == [["first"], ["a", "c"], ["d"]]
    batcher.close(60.0)
