"""Files that take long, and what is held for them."""

import asyncio
import gc
import io
import sys
import threading

import pytest
from PIL import Image
from processes import wait_until
from standin import Standin, picture

from misgiving.errors import DataError
from misgiving.serve import service as service_module
from misgiving.serve.decode_limits import refuse_slow_jpeg
from misgiving.serve.workers import WorkerPool


def progressive(size=(64, 48), **options):
    file = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(file, "JPEG", progressive=True, **options)
    return file.getvalue()


def with_scans(count):
    """A JPEG that goes over its image so many times more, and has nothing to say there."""
    file = io.BytesIO()
    Image.new("L", (640, 480), 128).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    component = data[data.rfind(b"\xff\xda") + 5]
    scan = b"\xff\xda\x00\x08\x01" + bytes([component, 0, 1, 63, 0])
    whole = data[:-2] + scan * count + data[-2:]
    Image.open(io.BytesIO(whole)).load()  # a decoder reads it all
    return whole


def test_a_jpeg_with_thousands_of_scans_is_refused():
    with pytest.raises(DataError, match=r"x: .*100 scans"):
        refuse_slow_jpeg(with_scans(200), "x")
    refuse_slow_jpeg(with_scans(20), "x")


def test_a_jpeg_with_thousands_of_segments_is_refused():
    data = progressive()
    comment = b"\xff\xfe\x00\x02"
    refuse_slow_jpeg(data[:2] + comment * 9_000 + data[2:], "x")
    with pytest.raises(DataError, match="segments"):
        refuse_slow_jpeg(data[:2] + comment * 10_000 + data[2:], "x")


@pytest.mark.parametrize(
    "data",
    [
        progressive((300, 200), quality=95),
        progressive((300, 200), exif=b"Exif\0\0" + b"\xff\xda\x00\x02" * 900),
        progressive((300, 200), comment=b"\xff\xda\x00\x02" * 900),
        progressive() + b"\xff\xda\x00\x02" * 90_000,  # a phone's film after the photograph
        b"\x89PNG" + b"\xff\xda\x00\x02" * 900,
        b"\xff\xd8\xff",
        b"",
    ],
    ids=["noise", "EXIF", "comment", "after its end", "no JPEG", "cut off", "empty"],
)
def test_what_only_looks_like_scans_is_not_counted(data):
    refuse_slow_jpeg(data, "x")


def test_a_laborious_file_is_a_problem_of_its_own(serving):
    client = serving()
    answer = client.post(
        "/decisions", content=with_scans(200), headers={"Content-Type": "image/jpeg"}
    )
    assert answer.status_code == 422
    assert "scans" in answer.json()["detail"]


class Hanging(Standin):
    """Decodes nothing until it is let go."""

    def __init__(self):
        self.begun, self.go_on = threading.Event(), threading.Event()

    def square(self, data, name):
        self.begun.set()
        self.go_on.wait(60)
        return super().square(data, name)


def wait_for_health(client, status):
    wait_until(lambda: client.get("/health").status_code == status)


def test_where_all_readers_hang_the_service_is_not_well(serving, monkeypatch):
    monkeypatch.setattr(service_module, "LONGEST_DECODING", 0.0)
    model = Hanging()
    client = serving(model, timeout=0.1)
    assert client.get("/health").status_code == 200
    client.post("/decisions", content=picture(), headers={"Content-Type": "image/png"})
    wait_for_health(client, 503)
    assert "restart" in client.get("/health").json()["detail"]
    assert "misgiving_hung_readers 1.0" in client.get("/metrics").text
    model.go_on.set()
    wait_for_health(client, 200)


def test_a_file_that_nobody_waits_for_is_let_go_before_a_thread_comes_to_it():
    started, go_on = threading.Event(), threading.Event()
    data = b"x" * 1000

    def hold(_):
        started.set()
        return go_on.wait(60)

    async def give_up_second():
        first = asyncio.create_task(readers.run(hold, b""))
        await asyncio.to_thread(started.wait, 60)
        held = [sys.getrefcount(data)]
        second = asyncio.create_task(readers.run(len, data))
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

    readers = WorkerPool(1, overdue=9.0)
    before, waiting, after = asyncio.run(give_up_second())
    assert before == after < waiting
    readers.close()


def test_readers_give_what_the_work_gives_and_raise_what_it_raises():
    async def ask():
        assert await readers.run(len, b"four") == 4
        with pytest.raises(ZeroDivisionError):
            await readers.run(lambda data: 1 // len(data), b"")
        return readers.hung

    readers = WorkerPool(2, overdue=-1.0)
    assert asyncio.run(ask()) == 0
    readers.close()
