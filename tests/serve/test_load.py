"""Many clients for a long time: no failures, each case stored once, constant memory."""

import http.client
import itertools
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
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
        self._serial = itertools.count()

    def send(self, images):
        with ThreadPoolExecutor(CLIENTS) as clients:
            for answers in clients.map(self._client, [images // CLIENTS] * CLIENTS):
                for status, content in answers:
                    self.statuses[status] += 1
                    self.ids += [result["case"]["id"] for result in content["results"]]

    def _client(self, images):
        answers = []
        with closing(http.client.HTTPConnection(*self.where)) as connection:
            for _ in range(images):
                serial = next(self._serial)
                body = FILES[serial % len(FILES)] + b"%d" % serial  # its own file
                connection.request("POST", "/decisions", body, {"Content-Type": "image/jpeg"})
                response = connection.getresponse()
                answers.append((response.status, json.loads(response.read())))
        return answers


def megabytes(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@pytest.mark.parametrize(
    "images",
    [pytest.param(320, id="short"), pytest.param(9_600, id="long", marks=pytest.mark.soak)],
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
