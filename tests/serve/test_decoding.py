"""Processes that decode: equal pixels, limits of memory and time, and the turns of clients."""

import asyncio
import hashlib
from contextlib import asynccontextmanager
from unittest.mock import Mock

import numpy as np
import pytest
from standin import PREPROCESSING, Standin, picture, sent

from misgiving.errors import DataError
from misgiving.serve import workers
from misgiving.serve.settings import ServiceSettings
from misgiving.serve.workers import Decoders

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
                (model_input,), sha256 = await processes.decode("a", data, "client")
                np.testing.assert_array_equal(model_input, PREPROCESSING.from_file(data, "a"))
                assert sha256 == hashlib.sha256(data).hexdigest()
            (process,) = processes._idle
            process.popen.kill()  # as the system may do
            process.popen.wait()
            assert (await processes.decode("a", data, "client"))[1] == sha256
            assert processes._idle != [process]

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


class Waiting:
    """Stands for a process that takes as long as the test wants."""

    asked: list[str]
    popen = Mock(poll=lambda: None)

    def __init__(self, _):
        pass

    async def ask(self, name, *_):
        self.asked.append(name.decode())
        await self.go_on.wait()
        return False, False, name

    def kill(self):
        pass


def test_one_client_leaves_a_process_to_others_and_they_take_turns(monkeypatch):
    monkeypatch.setattr(workers, "_Process", Waiting)

    async def run():
        Waiting.asked, Waiting.go_on = [], asyncio.Event()
        async with decoders() as processes:  # one for each client, and one more
            files = ["a1", "a2", "a3", "a4", "b1", "b2", "c1"]
            tasks = [asyncio.create_task(processes.decode(file, b"", file[0])) for file in files]
            await asyncio.sleep(0)
            assert Waiting.asked == ["a1", "b1"]
            tasks[1].cancel()  # a2, which waits
            Waiting.go_on.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert sorted(Waiting.asked) == sorted(set(files) - {"a2"})
            assert Waiting.asked.index("c1") < Waiting.asked.index("a4")
            assert [type(result) for result in results].count(DataError) == 6
            assert processes._turns._value == 2

    asyncio.run(run())


def test_a_file_that_waits_for_its_turn_is_not_in_memory_and_a_check_has_no_turn(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(workers, "_Process", Waiting)

    async def run():
        Waiting.asked, Waiting.go_on = [], asyncio.Event()
        async with decoders() as processes:
            files = [("a", b"", "x"), ("b", tmp_path / "later", "x"), ("c", b"", "y")]
            decoded = [*(processes.decode(*file) for file in files)]
            tasks = [*map(asyncio.create_task, (*decoded, processes.decode_now("check", b"")))]
            await asyncio.sleep(0.01)
            assert Waiting.asked == ["a", "c", "check"]
            (tmp_path / "later").write_bytes(JPEG)  # it could not have been read before
            Waiting.go_on.set()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert "b" in Waiting.asked

    asyncio.run(run())
