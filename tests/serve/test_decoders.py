"""Processes that decode: pixels, limits of memory and time, turns of clients; batches."""

import asyncio
import hashlib
import signal
import threading
from collections import defaultdict
from contextlib import asynccontextmanager
from unittest.mock import Mock

import numpy as np
import pytest
from corpus import HEIC
from standin import PREPROCESSING, Standin, picture, sent

from misgiving.data.decoding import decode
from misgiving.errors import DataError
from misgiving.serve.batcher import Batcher
from misgiving.serve.decoders import Decoders
from misgiving.serve.problems import ProblemError
from misgiving.serve.settings import ServiceSettings

JPEG = picture(kind="JPEG")
SCAN = b"\xff\xda\0\x08\1\1\0\0\0\0"  # of the first component, without data
MANY_SCANS = JPEG[: JPEG.index(SCAN[:2])].replace(b"\xff\xc0", b"\xff\xc2") + SCAN * 65
SLOW = JPEG[:2] + b"\xff" * 10_000_000 + JPEG[2:]  # Pillow reads them one by one


class Recorded(Decoders):
    async def _start(self):
        self.started.append(await super()._start())
        return self.started[-1]


@asynccontextmanager
async def decoders(**settings):
    processes = Recorded([PREPROCESSING], ServiceSettings(threads=1, timeout=60.0, **settings))
    processes.started = []
    yield processes
    await processes.close()


def test_a_process_gives_the_input_and_the_hash_of_a_file():
    kinds = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "JPEG2000", "HEIF")
    files = [picture(colour=(10, 200, 90), kind=kind) for kind in kinds[:-1]]

    async def run():
        async with decoders(formats=kinds) as processes:
            for data in [*files, HEIC.read_bytes()]:  # all in the same process
                (model_input,), sha256, *_ = await processes.decode("a", data, "client")
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
        (MANY_SCANS, {}, "more than 64 scans"),
        (picture(kind="BMP"), {}, "not an image in a supported format (JPEG, PNG, TIFF, WEBP)"),
        (picture(), {"formats": ("HEIF", "BMP")}, "not an image in a supported format (HEIF, BMP)"),
    ],
    ids=["memory", "time", "pixels", "scans", "format", "formats"],
)
def test_a_file_beyond_a_limit_is_refused_and_the_next_one_is_decided(
    serving, data, settings, reason
):
    client = serving(Standin(), **settings)
    answer = client.post("/decisions", files={"files": ("a", data)})
    assert answer.status_code == 422
    assert reason in answer.json()["detail"]
    assert sent(client, picture(0.9, kind=settings.get("formats", ["PNG"])[-1])) is not None
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("formats", [(), ("HEIF", "DICOM"), ("PNG", "EPS")])
def test_formats_are_among_those_that_are_read_and_one_can_be_written(formats):
    with pytest.raises(ValueError, match=r"some of JPEG, .*, and not HEIF or DICOM alone"):
        ServiceSettings(formats=formats)


def test_scans_are_counted_as_the_decoder_finds_them():
    start, end = MANY_SCANS[: -65 * len(SCAN)], JPEG[-2:]
    comment = b"\xff\xfe" + (2 + 65 * len(SCAN)).to_bytes(2) + SCAN * 65  # holds no scans
    for data in (MANY_SCANS[: -len(SCAN)] + end, JPEG[:2] + comment + JPEG[2:], JPEG + SCAN * 65):
        decode(data, "a")
    hidden = start + SCAN + 64 * (b"data\xff\1\xff\xff" + SCAN)
    with pytest.raises(DataError, match="more than 64 scans"):
        decode(hidden, "a")


def test_a_file_whose_process_the_system_ends_is_no_fault_of_its_sender():
    async def run():
        async with decoders() as processes:
            decoding = asyncio.create_task(processes.decode("a", SLOW, "client"))
            while processes._turns._free == 2 or not processes.started:
                await asyncio.sleep(0.01)
            processes.started[0].popen.kill()
            with pytest.raises(ProblemError, match="again later") as raised:
                await decoding
            assert raised.value.problem.status == 503

    asyncio.run(run())


def test_a_process_ends_with_a_caller_who_no_longer_waits():
    async def run():
        async with decoders() as processes:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.0):
                    await processes.decode("a", SLOW, "client")
            assert not processes._idle
            assert processes._turns._free == 2

    asyncio.run(run())


def test_a_process_that_is_in_use_at_the_end_ends_after_its_file():
    async def run():
        async with decoders() as processes:
            decoding = asyncio.create_task(processes.decode("a", JPEG, "client"))
            while not processes.started:
                await asyncio.sleep(0.01)
            await processes.close()
            await decoding
            assert processes.started[0].popen.wait(60) == -signal.SIGKILL
            await processes.decode("a", JPEG, "client")
            assert len(processes.started) == 2

    asyncio.run(run())


class Held(Decoders):
    """Its processes reply when the test says so, with the seconds that the test gives."""

    async def _start(self):
        return Mock(popen=Mock(poll=lambda: None))

    async def _ask(self, _, name, __):
        self.asked.append(name)
        await self.go_on[name].wait()
        return {"error": name, "has_grown": False, "seconds": self.seconds.get(name, 0.01)}, b""


@asynccontextmanager
async def held(threads=1):
    """One more than `threads`; a function that starts a decoding, and one that ends some."""
    processes = Held([PREPROCESSING], ServiceSettings(threads=threads))
    processes.asked, processes.seconds = [], {}
    processes.go_on = defaultdict(asyncio.Event)
    tasks = {}

    async def begin(*names, files=()):
        for name in names:
            decoded = processes.decode(name, dict(files).get(name, b""), name[0])
            tasks[name] = asyncio.create_task(decoded)
        await asyncio.sleep(0.01)
        return processes.asked

    async def end(*names):
        for name in names:
            processes.go_on[name].set()
            with pytest.raises(DataError):
                await tasks[name]
        await asyncio.sleep(0.01)

    yield processes, begin, end, tasks
    assert processes._turns._free == threads + 1


def test_clients_take_turns_and_a_file_that_waits_for_its_turn_is_not_in_memory(tmp_path):
    async def run():
        async with held() as (_, begin, end, tasks):
            files = {"a4": tmp_path / "a4"}
            names = ["a1", "a2", "a3", "a4", "b1", "b2", "c1"]
            asked = await begin(*names, files=files)
            assert asked == ["a1", "b1"]  # a leaves a process to others
            tasks["a2"].cancel()  # it waits
            files["a4"].write_bytes(JPEG)  # it could not have been read before
            await end("b1")
            assert asked == ["a1", "b1", "c1"]  # who has used nothing
            await end("c1", "a1", "b2", "a3", "a4")
            assert sorted(asked) == sorted({*names} - {"a2"})

    asyncio.run(run())


def test_those_who_have_used_least_come_first_and_one_process_is_for_them(monkeypatch):
    clock = Mock(return_value=0.0)
    monkeypatch.setattr("misgiving.serve.turns.time", Mock(monotonic=clock))

    async def run():
        async with held(threads=2) as (processes, begin, end, _):
            processes.seconds = {"a1": 30.0, "b1": 20.0, "c1": 5.0}
            asked = await begin("a1", "b1", "c1")
            assert asked == ["a1", "b1", "c1"]  # all are new
            await end("a1", "b1", "c1")
            await begin("a2", "b2", "a3", "b3", "c2", "d1")
            assert asked[3:] == ["a2", "b2", "c2"]  # c has used less than half of the mean
            await end("a2")
            assert asked[6:] == ["d1"]  # who has used least
            await end("d1", "c2")
            await begin("a4", "c3")
            assert asked[7:] == ["b3", "c3"]
            await end("b2", "b3", "c3", "a3", "a4")
            clock.return_value = 600.0  # after which all is forgotten
            await begin("a5", "a6", "a7")
            assert asked[-2:] == ["a5", "a6"]
            await end("a5", "a6", "a7")

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


def test_after_a_batch_of_several_the_next_one_waits_for_more():
    batcher, pauses = Batcher("test", list, size=9), []

    async def run():
        loop = asyncio.get_running_loop()
        loop.call_later = lambda seconds, rested: pauses.append((seconds, rested))
        alone = batcher.result(0)  # the thread has it before the next ones come
        two = [batcher.result(number) for number in (1, 2)]
        await alone
        assert pauses[-1][0] == 0
        pauses[-1][1]()
        await asyncio.gather(*two)
        assert pauses[-1][0] > 0
        late = batcher.result(3)
        assert not late.done()
        pauses[-1][1]()
        assert await late == 3

    asyncio.run(run())
    batcher.close(10.0)


def test_a_loop_that_ends_while_a_thread_rests_leaves_it_to_the_next_loop(monkeypatch):
    async def run(*items):
        async with asyncio.timeout(20):
            return await asyncio.gather(*(batcher.result(item) for item in items))

    monkeypatch.setattr("misgiving.serve.batcher.GATHERING_SECONDS", 60.0)
    batcher = Batcher("test", list, size=9)
    assert asyncio.run(run(0, 1, 2)) == [0, 1, 2]  # of which the last two are a batch
    assert asyncio.run(run(3)) == [3]
    batcher.close(60.0)
