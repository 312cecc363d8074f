"""Every returned case survives a kill at any moment."""

import hashlib
import http.client
import json
import random
import secrets
import signal
import threading
import time
from contextlib import closing, suppress

import pytest
from databases import emptied
from processes import standin_at
from standin import picture
from waiting import until

from misgiving.serve.store import CaseQuery, Store

CLIENTS = 8


def ask(where, answered, level):
    """Send images until the connection breaks; collect the returned cases."""
    with (
        closing(http.client.HTTPConnection(*where, timeout=120)) as connection,
        suppress(OSError, http.client.HTTPException),
    ):
        while True:
            body = picture(level, size=(20, 20)) + secrets.token_bytes(8)  # each its own file
            level = (level + 0.07) % 1
            connection.request("POST", "/decisions", body, {"Content-Type": "image/png"})
            response = connection.getresponse()
            content = response.read()
            if response.status == 200:
                answered.append(json.loads(content)["results"][0]["case"])


def answered_before_kill(place, kept, moment):
    """Kill a service under load some seconds after its second case; return its cases."""
    answered = []
    with standin_at(place, keep_images=str(kept)) as (process, where):
        senders = [
            threading.Thread(target=ask, args=(where, answered, number / CLIENTS))
            for number in range(CLIENTS)
        ]
        for sender in senders:
            sender.start()
        until(lambda: len(answered) > 1)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        for sender in senders:
            sender.join()
    return answered


def hold_to_kills(place, kept, kills):
    chance = random.Random(kills)
    answered = []
    for _ in range(kills):
        answered += answered_before_kill(place, kept, chance.uniform(0.0, 0.5))
    store = Store.open(place)
    for case in answered:
        found = store.case(case["id"])
        assert found is not None, f"{case['id']} of {len(answered)}"
        assert found.model_dump(mode="json") == case
        content = (kept / case["sha256"][:2] / case["sha256"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == case["sha256"]
    store.close()
    assert len(answered) > kills


@pytest.mark.parametrize(
    "kills", [pytest.param(2, id="two"), pytest.param(20, id="twenty", marks=pytest.mark.soak)]
)
def test_every_returned_case_survives_kills_in_sqlite(sqlite_place, tmp_path, kills):
    hold_to_kills(sqlite_place, tmp_path / "kept", kills)


@pytest.mark.parametrize(
    "kills", [pytest.param(1, id="one"), pytest.param(20, id="twenty", marks=pytest.mark.soak)]
)
def test_every_returned_case_survives_kills_in_postgresql(database, tmp_path, kills):
    hold_to_kills(emptied(database), tmp_path / "kept", kills)


def test_a_stopping_service_finishes_its_requests(sqlite_place):
    answered = []
    with standin_at(sqlite_place) as (process, where):
        sender = threading.Thread(target=ask, args=(where, answered, 0.5))
        sender.start()
        until(lambda: answered)
        process.send_signal(signal.SIGTERM)
        process.wait(120)
        sender.join()
    store = Store.open(sqlite_place)
    assert {case["id"] for case in answered} == {case.id for case in store.all(CaseQuery())}
    store.close()
