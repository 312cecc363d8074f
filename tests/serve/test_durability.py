"""Under load every image is decided in constant memory, and every returned case survives a kill."""

import hashlib
import http.client
import json
import math
import random
import secrets
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
from services import standin_at
from standin import Calibrated, picture
from standin import case as case_of
from waiting import until

from misgiving.serve.audits import Audits
from misgiving.serve.records import CaseQuery, standing
from misgiving.serve.settings import Settings
from misgiving.serve.store import Store

CLIENTS = 8
JSON = {"Content-Type": "application/json"}


def ask(where, answered, client, images=math.inf):
    """Send images, each its own file, until the connection breaks; collect the returned cases."""
    with (
        closing(http.client.HTTPConnection(*where, timeout=120)) as connection,
        suppress(OSError, http.client.HTTPException),
    ):
        while images > 0:
            images -= 1
            level = client / CLIENTS + secrets.randbelow(100) / 1000
            body = picture(level, size=(300, 225), kind="JPEG") + secrets.token_bytes(8)
            connection.request("POST", "/decisions", body, {"Content-Type": "image/jpeg"})
            response = connection.getresponse()
            content = json.loads(response.read())
            assert response.status == 200, content
            answered.append(content["results"][0]["case"])


def stored_cases(place):
    with closing(Store.open(place)) as store:
        return {case.id: case.model_dump(mode="json") for case in store.all(CaseQuery())}


KILLS = [
    pytest.param("sqlite", 2, id="two"),
    pytest.param("postgresql", 1, id="one"),
    pytest.param("sqlite", 20, id="twenty", marks=pytest.mark.soak),
    pytest.param("postgresql", 20, id="twenty in PostgreSQL", marks=pytest.mark.soak),
]


@pytest.mark.parametrize(("place", "kills"), KILLS, indirect=["place"])
def test_every_returned_case_survives_kills(place, tmp_path, kills):
    chance, kept, answered = random.Random(kills), tmp_path / "kept", []
    for _ in range(kills):
        enough = len(answered) + 1
        with (
            ThreadPoolExecutor(CLIENTS) as clients,
            standin_at(place, keep_images=str(kept)) as (process, where),
        ):
            asking = clients.map(partial(ask, where, answered), range(CLIENTS))
            until(lambda enough=enough: len(answered) > enough)
            time.sleep(chance.uniform(0.0, 0.5))
            process.send_signal(signal.SIGKILL)
            list(asking)
    stored = stored_cases(place)
    for case in answered:
        assert stored[case["id"]] == case
        content = (kept / case["sha256"][:2] / case["sha256"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == case["sha256"]
    assert len(answered) > kills


def answer_blind(where, given, last, reader):
    """Answer blind cases until the connection breaks; collect what was acknowledged.

    What was not is sent once more when the service is back.
    """
    with (
        closing(http.client.HTTPConnection(*where, timeout=120)) as connection,
        suppress(OSError, http.client.HTTPException),
    ):
        if reader in last:
            answer(connection, given, *last[reader])
        cursor = ""
        while cursor is not None:
            query = f"reader={reader}&order=newest&limit=500{cursor and f'&cursor={cursor}'}"
            connection.request("GET", f"/cases?{query}")
            page = json.loads(connection.getresponse().read())
            cursor = page["cursor"]
            for case in filter(lambda case: case.get("blind"), page["cases"]):
                choice = case["classes"][(int(case["id"][-7:], 16) + reader) % 3 % 2]
                last[reader] = (case["id"], str(reader), choice)
                answer(connection, given, *last[reader])


def answer(connection, given, id, reader, choice):
    """Send an answer, and again as a client does that is not sure."""
    body = {"verdict": "override", "class": choice, "reviewer": reader}
    for is_repeated in (False, True):
        connection.request("POST", f"/cases/{id}/review", json.dumps(body), JSON)
        response = connection.getresponse()
        content = json.loads(response.read())
        assert response.status == 200, content
        own = [review for review in content["reviews"] if review["reviewer"] == reader]
        is_blind = own[-1]["blind"]  # else it was settled, or stored before a kill
        assert not (is_blind and is_repeated)
        if is_blind:
            given.append((id, reader, choice))


AUDITS = [
    pytest.param("sqlite", 1000, 2, id="two"),
    pytest.param("postgresql", 1000, 1, id="one"),
    pytest.param("sqlite", 50_000, 10, id="ten", marks=pytest.mark.soak),
    pytest.param("postgresql", 50_000, 10, id="ten in PostgreSQL", marks=pytest.mark.soak),
]


@pytest.mark.parametrize(("place", "count", "kills"), AUDITS, indirect=["place"])
def test_no_audit_answer_is_lost_and_none_is_counted_twice(place, count, kills):
    chance, policy, share = random.Random(kills), Calibrated().deferral, 0.2
    given, last = [], {}
    with closing(Store.open(place)) as store:
        row = store.audit(policy.fingerprint, share)
        audits = Audits(store, policy, Settings(), row)
        fixed = {"policy_fingerprint": policy.fingerprint, "predicted_class": "dark"}
        rows = (
            audits.draw(case_of(n, probabilities={"dark": 0.7, "light": 0.3}, **fixed))
            for n in range(count)
        )
        while some := list(islice(rows, 500)):
            store.add(some)
    for _ in range(kills):
        enough, sent = len(given) + 50, []
        with ThreadPoolExecutor(4) as clients, standin_at(place, audit_share=share) as service:
            process, where = service
            sending = clients.submit(ask, where, sent, 0)
            reading = clients.map(partial(answer_blind, where, given, last), range(3))
            until(lambda enough=enough: len(given) > enough)
            time.sleep(chance.uniform(0.0, 0.5))
            process.send_signal(signal.SIGKILL)
            list(reading)
            sending.result()
    with closing(Store.open(place)) as store:
        audits, answers = Audits(store, policy, Settings(), row), store.blind_answers()
        for case_id, reader, choice in given:
            stored = [one.final_class for one in answers[case_id] if one.reviewer == reader]
            assert stored == [choice]
        for stored in store.all(CaseQuery()):
            readers = [one.reviewer for one in answers.get(stored.id, [])]
            assert len(readers) == len(set(readers))
            assert stored.audited == audits.draw(stored).audited
            if readers:
                unsettled = standing(answers[stored.id]) == "unconfirmed"
                assert (stored.blind, stored.reviewed) == (unsettled, not unsettled)
    assert len(given) > 50 * kills


def test_a_stopping_service_finishes_its_requests(sqlite_place):
    answered = []
    with (
        ThreadPoolExecutor(1) as clients,
        standin_at(sqlite_place) as (process, where),
    ):
        asking = clients.submit(ask, where, answered, 0)
        until(lambda: answered)
        process.send_signal(signal.SIGTERM)
        process.wait(120)
        asking.result()
    assert stored_cases(sqlite_place) == {case["id"]: case for case in answered}


@pytest.mark.parametrize(
    "images",
    [pytest.param(32, id="short"), pytest.param(1200, id="long", marks=pytest.mark.soak)],
)
def test_under_load_every_image_is_decided_and_memory_stays_constant(sqlite_place, images):
    def megabytes():
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    answered, clients = [], ThreadPoolExecutor(CLIENTS)
    with clients, standin_at(sqlite_place, recent_bytes=50_000, threads=2) as (process, where):
        send = partial(ask, where, answered, images=images // 4)
        list(clients.map(send, range(CLIENTS)))
        before = megabytes()
        for _ in range(3):
            list(clients.map(send, range(CLIENTS)))
        grown = megabytes() - before
    assert len(answered) == CLIENTS * images
    assert stored_cases(sqlite_place) == {case["id"]: case for case in answered}
    assert grown < 16
