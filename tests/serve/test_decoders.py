"""Processes that decode: pixels, limits of memory and time, turns of clients; batches."""

import asyncio
import hashlib
import threading
from contextlib import asynccontextmanager
from unittest.mock import Mock

import numpy as np
import pytest
from standin import PREPROCESSING, Standin, picture, sent

from misgiving.errors import DataError
from misgiving.serve.batcher import Batcher
from misgiving.serve.decoders import Decoders
from misgiving.serve.settings import ServiceSettings

JPEG = picture(kind="JPEG")
SLOW = JPEG[:2] + b"\xff" * 10_000_000 + JPEG[2:]  # Pillow reads them one by one


@asynccontextmanager
async def decoders():
    processes = Decoders([PREPROCESSING], ServiceSettings(threads=1, timeout=60.0))
    yield processes
    await processes.close()


def test_a_process_gives_the_input_and_the_hash_of_a_file():
    async def run():
        async with decoders() as processes:
            for kind in ("JPEG", "PNG", "TIFF", "WEBP"):  # all in the same process
                data = picture(colour=(10, 200, 90), kind=kind)
                (model_input,), sha256, _ = await processes.decode("a", data, "client")
                np.testing.assert_array_equal(model_input, PREPROCESSING.from_file(data, "a"))
                assert sha256 == hashlib.sha256(data).hexdigest()
            (decoder,) = processes._idle
            decoder.popen.kill()  # as the system may do
            decoder.popen.wait()
            assert (await processes.decode("a", data, "client"))[1] == sha256
            assert processes._idle != [decoder]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("data", "settings", "reason"),
    [
        (picture(size=(4000, 4000)), {"max_decoding_bytes": 40_000_000}, "too much memory or time"),
        (SLOW, {"max_decoding_seconds": 1.0}, "too much memory or time"),
        (picture(size=(4000, 4000)), {"max_pixels": 15_999_999}, "more than 15999999 pixels"),
        (picture(kind="BMP"), {}, "not an image in a supported format (JPEG, PNG, TIFF, WEBP)"),
        (picture(), {"formats": ("BMP",)}, "not an image in a supported format (BMP)"),
    ],
    ids=["memory", "time", "pixels", "format", "formats"],
)
def test_a_file_beyond_a_limit_is_refused_and_the_next_one_is_decided(
    serving, data, settings, reason
):
    client = serving(Standin(), **settings)
    answer = client.post("/decisions", files={"files": ("a", data)})
    assert answer.status_code == 422
    assert reason in answer.json()["detail"]
    assert sent(client, picture(0.9, kind=settings.get("formats", ["PNG"])[0])) is not None


def test_a_process_ends_with_a_caller_who_no_longer_waits():
    async def run():
        async with decoders() as processes:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.0):
                    await processes.decode("a", SLOW, "client")
            assert not processes._idle
            assert processes._turns._value == 2

    asyncio.run(run())


class Held(Decoders):
    """Its processes reply when the test says so."""

    async def _start(self):
        return Mock(popen=Mock(poll=lambda: None))

    async def _ask(self, _, name, __):
        self.asked.append(name)
        await self.go_on.wait()
        return {"error": name, "has_grown": False}, b""


def test_clients_take_turns_and_a_file_that_waits_for_its_turn_is_not_in_memory(tmp_path):
    async def run():
        processes = Held([PREPROCESSING], ServiceSettings(threads=1))  # one, and one more
        processes.asked, processes.go_on = [], asyncio.Event()
        files = ["a1", "a2", "a3", "a4", "b1", "b2", "c1"]
        later = tmp_path / "a4"
        decoded = [
            processes.decode(file, later if file == "a4" else b"", file[0]) for file in files
        ]
        check = processes.decode_now("check", b"")  # has no turn
        tasks = [*map(asyncio.create_task, (*decoded, check))]
        await asyncio.sleep(0.01)
        assert sorted(processes.asked) == ["a1", "b1", "check"]  # a leaves a process to others
        tasks[1].cancel()  # a2, which waits
        later.write_bytes(JPEG)  # it could not have been read before
        processes.go_on.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert sorted(processes.asked) == sorted({*files, "check"} - {"a2"})
        assert processes.asked.index("c1") < processes.asked.index("a4")
        assert [type(result) for result in results].count(DataError) == 7
        assert processes._turns._value == 2

    asyncio.run(run())


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
