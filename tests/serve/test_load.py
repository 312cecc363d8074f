"""Many clients for a long time: no failures, each case stored once, constant memory."""

import http.client
import json
import threading
from collections import Counter
from pathlib import Path

import pytest
from processes import standin_at
from standin import picture

from misgiving.serve.store import CaseQuery, Store

CLIENTS = 16
FILES = [picture(level / 10, size=(300, 225), kind="JPEG") for level in range(10)]


class Load:
    """Clients that send without a pause, each over its own connection."""

    def __init__(self, where):
        self.where, self.statuses, self.ids = where, Counter(), []

    def send(self, images):
        numbers = iter(range(images))
        lock = threading.Lock()
        senders = [
            threading.Thread(target=self._client, args=(numbers, lock)) for _ in range(CLIENTS)
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()

    def _client(self, numbers, lock):
        connection = http.client.HTTPConnection(*self.where, timeout=60)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return connection.close()
            body = FILES[number % len(FILES)]
            connection.request("POST", "/decisions", body, {"Content-Type": "image/jpeg"})
            response = connection.getresponse()
            content = json.loads(response.read())
            with lock:
                self.statuses[response.status] += 1
                self.ids += [result["case"]["id"] for result in content.get("results", [])]


def megabytes(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@pytest.mark.parametrize(
    "images",
    [pytest.param(500, id="short"), pytest.param(10_000, id="long", marks=pytest.mark.soak)],
)
def test_under_load_every_image_is_decided_and_memory_stays_constant(sqlite_place, images):
    with standin_at(sqlite_place, recent_bytes=50_000, threads=2) as (process, where):
        load = Load(where)
        load.send(images // 4)
        before = megabytes(process)
        load.send(images - images // 4)
        grown = megabytes(process) - before
    assert load.statuses == {200: images}
    store = Store.open(sqlite_place)
    assert store.count(CaseQuery()) == images
    assert sorted(load.ids) == sorted(case.id for case in store.all(CaseQuery()))
    store.close()
    assert grown < 16


def test_under_load_images_beyond_the_queue_are_refused(sqlite_place):
    with standin_at(sqlite_place, queue=2, max_files=1) as (_, where):
        load = Load(where)
        load.send(300)
    assert set(load.statuses) == {200, 429}
    store = Store.open(sqlite_place)
    assert store.count(CaseQuery()) == load.statuses[200]
    store.close()
