"""Under load every image is decided in constant memory, and every returned case survives a kill."""

import hashlib
import hmac
import itertools
import random
import signal
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest
from services import standin_at
from standin import Calibrated, picture
from waiting import until

from misgiving.serve.case import CaseQuery, standing
from misgiving.serve.store import Store

CLIENTS = 8
SHARE = 0.2  # of the cases that are audited
UNREVIEWED = {"reviewed": False, "review": None}
SHADES = [picture(level / 100, size=(300, 225), kind="JPEG") for level in range(100)]


def stored_cases(place):
    with closing(Store.open(place)) as store:
        return {case.id: case.model_dump(mode="json") for case in store.all(CaseQuery())}


def until_killed(client, waiting, send, more):
    """Send what waits until the connection breaks; what is not acknowledged stays first."""
    with suppress(httpx.TransportError):
        while True:
            if not waiting:
                waiting.extend(until(partial(more, client)))
            send(client, waiting[0])
            waiting.popleft()


def told(response):
    assert response.status_code == 200, response.text
    return response.json()


def upload(acknowledged, size, client, start):
    """Send files in one request, and collect their cases by number."""
    numbers = range(start, start + size)
    files = [("files", (f"{n}.png", SHADES[n % 100] + n.to_bytes(4))) for n in numbers]
    results = told(client.post("/decisions", files=files))["results"]
    for n, result in zip(numbers, results, strict=True):
        case = result["case"]
        assert acknowledged.setdefault(n, case)["id"] == case["id"]


def answer(given, client, blind):
    """Send an answer, and collect it if it is acknowledged as a blind one."""
    id, reader, choice = blind
    body = {"verdict": "override", "class": choice, "reviewer": reader}
    case = told(client.post(f"/cases/{id}/review", json=body))
    if case.get("blind"):  # else it was settled before
        given.append(blind)


def new_blind_cases(reader, seen, client):
    """The blind cases since the last call, with an answer: each twice, as clients are not sure."""
    query = {"reader": reader, "order": "newest", "limit": 500, "arrived_after": seen[reader]}
    pages = [told(client.get("/cases", params=query))]
    while cursor := pages[-1]["cursor"]:
        pages.append(told(client.get("/cases", params=query | {"cursor": cursor})))
    seen[reader] = pages[0]["last_arrival"]
    rows = [row for page in pages for row in page["cases"] if row.get("blind")]
    choices = [row["classes"][(int(row["id"][-7:], 16) + int(reader)) % 3 % 2] for row in rows]
    once = [(row["id"], reader, choice) for row, choice in zip(rows, choices, strict=True)]
    return [answer for answer in once for _ in range(2)]


def check_audits(place, kept, acknowledged, given):
    """Compare the store with what was acknowledged, and the audit sample with its definition."""
    policy = Calibrated().policy.fingerprint
    with closing(Store.open(place)) as store:
        for reader in "012":  # who opens no other case
            store.settle_answers(reader)
        cases, answers = {case.id: case for case in store.all(CaseQuery())}, store.blind_reviews()
        secret = store.audits()[policy].secret.encode()
    for case in acknowledged:
        stored = cases[case["id"]].model_dump(mode="json")
        assert stored | UNREVIEWED == case | UNREVIEWED
        content = (kept / case["sha256"][:2] / case["sha256"]).read_bytes()
        number = int(case["name"].removesuffix(".png"))  # in the file's end, which is not stored
        assert content == SHADES[number % 100]
        assert hashlib.sha256(content + number.to_bytes(4)).hexdigest() == case["sha256"]
    assert len({case.sha256 for case in cases.values()}) == len(cases)
    originals = [case.pixels for case in cases.values() if not case.is_copy]
    assert sorted(originals) == sorted({case.pixels for case in cases.values()})
    for case in cases.values():
        digest = hmac.digest(secret, f"image {case.pixels}".encode(), "sha256")
        drawn = int.from_bytes(digest) < SHARE * 2**256
        assert case.audited == (drawn and not case.is_copy)
        readers = {review.reviewer for review in answers.get(case.id, [])}
        if readers:
            unsettled = standing(answers[case.id]) == "unconfirmed"
            assert case.reviewed != case.blind
            # some on which the first reader agrees are read twice
            assert case.blind == unsettled or (case.blind and len(readers) == 1)
    for id, reader, choice in given:
        own = [review.final_class for review in answers[id] if review.reviewer == reader]
        assert {*own} == {choice}  # sent twice, it may be there twice, and counts once


AUDITS = [
    pytest.param("sqlite", 120, 2, id="two"),
    pytest.param("postgresql", 120, 1, id="one"),
    pytest.param("sqlite", 50_000, 10, id="ten", marks=pytest.mark.soak),
    pytest.param("postgresql", 50_000, 10, id="ten in PostgreSQL", marks=pytest.mark.soak),
]


@pytest.mark.parametrize(("place", "count", "kills"), AUDITS, indirect=["place"])
def test_no_case_and_no_answer_is_lost_and_none_is_audited_twice(place, tmp_path, count, kills):
    chance, acknowledged, given, size = random.Random(kills), {}, [], max(2, count // 1000)
    starts, seen, kept = itertools.count(0, size), dict.fromkeys("012", 0), tmp_path / "kept"
    options = {"audit_share": SHARE, "keep_images": str(kept)}
    uploads = [deque(), deque()]
    send = partial(upload, acknowledged, size), lambda _: [next(starts)]
    calls = [(waiting, *send) for waiting in uploads]
    for reader in seen:
        more = partial(new_blind_cases, reader, seen)
        calls.append((deque(), partial(answer, given), more))
    for kill in range(1, kills + 1):
        goal, enough = count * kill // kills, len(given) + 30
        with ThreadPoolExecutor(5) as threads, standin_at(place, **options) as service:
            process, client = service
            tasks = [threads.submit(until_killed, client, *call) for call in calls]
            until(
                lambda goal=goal, enough=enough, tasks=tasks: (
                    (len(acknowledged) >= goal and len(given) >= enough)
                    or any(task.done() for task in tasks)
                )
            )
            time.sleep(chance.uniform(0.0, 0.5))  # to be killed in any step of the work
            process.send_signal(signal.SIGKILL)
            for task in tasks:
                task.result()
        check_audits(place, kept, acknowledged.values(), given)
        for waiting in uploads:
            waiting.appendleft(0)  # again, as if it had not been acknowledged
    print(f"{len(acknowledged)} cases, {kills} kills, {len(given)} acknowledged answers")


def test_a_stopping_service_finishes_its_requests(sqlite_place):
    acknowledged, numbers = {}, itertools.count()
    sending = deque(), partial(upload, acknowledged, 1), lambda _: [next(numbers)]
    with ThreadPoolExecutor(1) as threads, standin_at(sqlite_place) as (process, client):
        asking = threads.submit(until_killed, client, *sending)
        until(lambda: acknowledged)
        process.send_signal(signal.SIGTERM)
        process.wait(120)
        asking.result()
    assert stored_cases(sqlite_place) == {case["id"]: case for case in acknowledged.values()}


@pytest.mark.parametrize(
    "images",
    [pytest.param(32, id="short"), pytest.param(1200, id="long", marks=pytest.mark.soak)],
)
def test_under_load_every_image_is_decided_and_memory_stays_constant(sqlite_place, images):
    acknowledged, numbers = {}, itertools.count()

    def send(count):
        for _ in range(count):
            upload(acknowledged, 1, client, next(numbers))

    def megabytes():
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    options = {"recent_bytes": 50_000, "threads": 2}
    with (
        ThreadPoolExecutor(CLIENTS) as threads,
        standin_at(sqlite_place, **options) as (process, client),
    ):
        list(threads.map(send, [images // 4] * CLIENTS))
        before = megabytes()
        for _ in range(3):
            list(threads.map(send, [images // 4] * CLIENTS))
        grown = megabytes() - before
    assert len(acknowledged) == CLIENTS * images
    assert stored_cases(sqlite_place) == {case["id"]: case for case in acknowledged.values()}
    assert grown < 16
