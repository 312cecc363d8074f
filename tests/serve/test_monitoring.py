"""Health, metrics and the log; drift of stored cases is that of a monitor of them in order."""

import errno
import json
import math
import os
import shutil
import sqlite3
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from anyio import to_thread
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from standin import Calibrated, Standin, case, made_policy, picture, review
from waiting import until

from misgiving.deferral.drift import DriftMonitor
from misgiving.deferral.expected_performance import expected_errors
from misgiving.deferral.sentences import lines
from misgiving.serve.audits import audit_terms
from misgiving.serve.batcher import Repetition
from misgiving.serve.monitor import DEFERRED_BY_ALARM, Monitor
from misgiving.serve.settings import ServiceSettings
from misgiving.serve.store import Store

NAME = "Jane Doe.png"
POLICY = made_policy().policy_


def metrics(client):
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    lines = [line for line in response.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_health_fails_where_a_case_or_an_image_could_not_be_stored(
    serving, sqlite_place, tmp_path, logged, monkeypatch
):
    store = Store.open(sqlite_place)
    client = serving(store=store, keep_images=tmp_path / "kept", max_bytes=123_456)
    until(lambda: client.get("/health").json()["status"] == "ok")
    assert list((tmp_path / "kept").iterdir()) == []

    def full(_, start, size):
        assert (start, size) == (0, 123_456)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.posix_fallocate", full)
        until(lambda: client.get("/health").status_code == 503)
        assert "keep_images" in client.get("/health").json()["detail"]
    event.listen(
        store._engine, "checkout", lambda connection, *_: connection.execute("PRAGMA query_only=ON")
    )
    until(lambda: "database" in client.get("/health").json().get("detail", ""))
    assert client.get("/cases").status_code == 200
    reasons = {line["reason"] for line in logged() if line["level"] == "error"}
    assert reasons == {"No space left on device", "attempt to write a readonly database"}


def drop(place, table):
    with closing(sqlite3.connect(place)) as connection:
        connection.execute(f"DROP TABLE {table}")


@pytest.mark.parametrize(
    "damage",
    [
        lambda place: Path(place).unlink(),
        lambda place: shutil.copy(place, f"{place}.new") and Path(f"{place}.new").replace(place),
        lambda place: os.truncate(place, 0),
        lambda place: Path(place).write_bytes(os.urandom(Path(place).stat().st_size)),
        lambda place: drop(place, "reviews"),
        lambda place: drop(place, "arrivals"),
    ],
    ids=["deleted", "replaced", "truncated", "overwritten", "no reviews", "no arrivals"],
)
def test_nothing_is_accepted_where_the_database_lost_its_file_or_a_table(
    serving, sqlite_place, damage, monkeypatch
):
    monkeypatch.setattr("misgiving.serve.service.PAUSE_SECONDS", 0.01)
    Store.open(sqlite_place).close()  # so that its tables are in the file, and not in its log
    client = serving()
    assert client.app.state.service.store.failure is None
    damage(sqlite_place)
    until(lambda: client.app.state.service.store.failure)  # though nobody asks
    assert client.post("/decisions", files={"files": ("a", picture())}).status_code == 503
    until(lambda: client.get("/health").status_code == 503)


class Broken(Standin):
    def decide_inputs(self, _, **_more):
        raise RuntimeError("out of order") from KeyError(NAME)


def test_the_cause_of_a_failure_is_logged_counted_and_hidden_from_clients(
    serving, sqlite_place, logged, monkeypatch, tmp_path
):
    def failed(client, path):
        files = {"files": (NAME, picture())} if path == "/decisions" else None
        answer = client.request("POST" if files else "GET", path, files=files)
        line = [line for line in logged() if line["level"] == "error"][-1]
        assert line["path"] == path
        return answer, line

    cause = OSError(f'connection to "db" (10.0.0.3) failed\n{NAME}')  # as drivers fail
    fails = Mock(side_effect=OperationalError("x", {}, cause))
    monkeypatch.setattr("misgiving.serve.service.check_store", fails)
    for name in ("add", "page"):
        monkeypatch.setattr(Store, name, fails)
    unreachable = serving(store=Store.open(sqlite_place), keep_images=tmp_path / "kept")
    until(lambda: unreachable.get("/health").status_code == 503)
    for path in ("/health", "/cases", "/decisions"):
        answer, line = failed(unreachable, path)
        assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
        assert "database" in answer.json()["detail"]
        assert "10.0.0.3" not in answer.text
        assert line["reason"] == 'connection to "db" (10.0.0.3) failed'
    assert not any(path.is_file() for path in tmp_path.glob("kept/*/*"))  # of no case
    assert metrics(unreachable)['misgiving_failures_total{part="store"}'] >= 3
    monkeypatch.undo()
    broken = serving(Broken())
    answer, line = failed(broken, "/decisions")
    assert (answer.status_code, "out of order" in answer.text) == (500, False)
    causes = line["traceback"].splitlines()
    assert (causes[0], causes[-1]) == ("KeyError", "RuntimeError")  # the cause first
    assert "in decide_inputs" in line["traceback"]
    assert metrics(broken)['misgiving_failures_total{part="other"}'] == 1
    assert NAME not in json.dumps(logged())


def test_health_and_drift_wait_for_no_other_request_and_health_fails_while_the_model_hangs(
    serving, sqlite_place, monkeypatch
):
    monkeypatch.setattr("misgiving.serve.service.CHECK_VALID_SECONDS", -1.0)
    monkeypatch.setattr("misgiving.serve.keys.VALID_SECONDS", 3600.0)  # else a thread reads them
    store, calls, go_on = Store.open(sqlite_place), [], threading.Event()

    def wait(method, *arguments, **options):
        calls.append(method)
        assert go_on.wait(600)
        return method(*arguments, **options)

    for name in ("page", "decided"):
        monkeypatch.setattr(store, name, partial(wait, getattr(store, name)))
    model = Calibrated()
    client = serving(model, store=store)

    async def allow_one_thread():
        to_thread.current_default_thread_limiter().total_tokens = 1

    client.portal.call(allow_one_thread)
    until(lambda: calls)
    until(lambda: client.get("/health").json()["status"] == "ok")  # a process has started
    waiting = threading.Thread(target=client.get, args=("/cases",))
    waiting.start()
    for _ in range(3):
        assert not client.get("/drift").json()["complete"]
        until(lambda: client.get("/health").json()["status"] == "ok")
    assert waiting.is_alive()
    go_on.set()
    waiting.join()
    until(lambda: client.get("/drift").json()["complete"])
    hangs = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(model, "decide_inputs", lambda _, **_more: hangs.wait(600))
        assert client.get("/health").json() == {"status": "busy"}
        patch.setattr("misgiving.serve.service.CHECK_SECONDS", 0.5)
        assert client.get("/health").status_code == 503
    hangs.set()
    until(lambda: client.get("/health").json()["status"] == "ok")
    monkeypatch.setattr("misgiving.serve.service.CHECK_SECONDS", 0.5)
    client.app.state.service._model_batches.close(60.0)
    response = client.get("/health")
    assert (response.status_code, "restart" in response.json()["detail"]) == (503, True)


def test_requests_decisions_and_drift_are_counted_and_logged_without_names(
    serving, logged, monkeypatch
):
    monkeypatch.setattr("misgiving.serve.service.UPDATE_SECONDS", 0.01)
    client = serving(Calibrated())
    green = [picture(colour=(0, 255, number)) for number in range(40)]
    pictures = [picture(0.1), *green, b"no image"]
    client.post("/decisions", files=[("files", (NAME, data)) for data in pictures])
    client.get(f"/cases/{'0' * 32}")
    client.get("/made-up")  # clients cannot create metrics
    client.request("MADE", "/cases")
    until(lambda: metrics(client)["misgiving_drift_cases"] == 41)
    answer = metrics(client)
    assert not any("made" in name.lower() for name in answer)
    assert answer['misgiving_drift_e_value{test="familiarity"}'] > 100
    requests = 'requests_total{method="%s",path="%s",status="%d"}'
    seconds = 'request_seconds_bucket{le="+Inf",method="POST",path="/decisions"}'
    for name, value in {
        **{'decisions_total{decision="accept"}': 1, 'decisions_total{decision="ood"}': 40},
        **{"refused_images_total": 1, "batch_images_sum": 41},
        **{requests % ("POST", "/decisions", 200): 1, requests % ("GET", "/cases/{id}", 404): 1},
        **{seconds: 1, "waiting_images": 0, "held_bytes": 0, "drift_alarm": 1},
    }.items():
        assert answer[f"misgiving_{name}"] == value, name
    decisions = [line["decision"] for line in logged() if line["event"] == "case"]
    assert sorted(decisions) == ["accept", *["ood"] * 40]
    line = next(line for line in logged() if line.get("status") == 404)
    assert (line["event"], line["method"], line["path"]) == ("request", "GET", "/cases/{id}")
    assert NAME not in json.dumps(logged())


def a_case(number, *, score=0.8, likeness=-100.0, **values):
    numbers = {
        "decision": "accept" if (score or 0) > 0.85 else "defer",
        "acceptance_score": score,
        "error_probability": None if score is None else 1 - score,
        "ood_score": likeness,
    }
    return case(number, **{"policy_fingerprint": POLICY.fingerprint} | numbers | values)


def drawn(count):
    random = np.random.default_rng(0)
    pairs = random.uniform((0.5, -255), (1, 0), (count, 2)).tolist()
    return [a_case(n, score=score, likeness=likeness) for n, (score, likeness) in enumerate(pairs)]


def described(cases, numbers):
    """The tests of a monitor that gets these cases by number, as the service answers."""
    monitor = DriftMonitor(POLICY.certificate)
    for number, row in zip(numbers, cases, strict=True):
        monitor.update(
            score=math.nan if row.acceptance_score is None else row.acceptance_score,
            ood_score=math.nan if row.ood_score is None else row.ood_score,
            accepted=row.decision == "accept",
            content=str(number),
        )
    return [
        {
            **{name: getattr(test, name) for name in ("name", "e_value", "highest", "alarm_at")},
            "since": None if test.since is None else cases[test.since - 1].received,
            "sentence": lines("drift.txt", "drift", test, test.latest, True)[0],
            "alarmed_with": test.alarmed_with
            and lines("drift.txt", "drift", test, test.alarmed_with, True)[0],
        }
        for test in monitor.tests
    ]


def test_drift_agrees_with_tests_of_the_cases_in_order_of_arrival(store, monkeypatch):
    """Also where the clock of a machine is late, after a restart, and in portions."""
    monkeypatch.setattr("misgiving.serve.monitor.MAX_CASES", 50)
    unusual = (a_case(number, likeness=-1000.0) for number in range(50, 120))
    mute = (a_case(number, score=None, likeness=None) for number in range(120, 150))
    cases = [*drawn(40)[::-1], *unusual, *mute]
    watch = Monitor(store, POLICY, ServiceSettings())
    store.add(cases[:25])
    assert watch.update_drift().complete
    store.add(cases[25:])
    for monitor, portions in (
        (watch, [75, 125, 140]),
        (Monitor(store, POLICY, ServiceSettings()), [50, 100, 140]),
    ):
        looks = [monitor.update_drift() for _ in portions]
        assert [look.cases for look in looks] == portions
        assert [look.complete for look in looks] == [False, False, True]
        assert looks[-1].alarm
        assert [dict(test) for test in looks[-1].tests] == described(cases, range(1, 141))


def test_the_thread_outlives_a_failure_and_notices_an_alarm_of_the_audits(store, monkeypatch):
    """Readers may have answered at another service."""
    failures, decided = [], store.decided

    def fail_once(*_, **__):
        monkeypatch.setattr(store, "decided", decided)
        raise OSError("once")

    monkeypatch.setattr(store, "decided", fail_once)
    settings = ServiceSettings(after_alarm="defer", audit_days=3650.0)
    monitor = Monitor(
        store, POLICY, settings, store.audit(POLICY.fingerprint, 1.0, **audit_terms(POLICY))
    )
    thread = Repetition("monitor", monitor.update, failures.append, monitor.has_new, 0.01)
    until(lambda: failures)
    assert monitor.changed_by_alarm() == {}
    for number in range(20):
        wrong = a_case(number, score=0.9, audited=True, blind=True, position=0.3)
        store.add([wrong])
        for name in ("Ann", "Ben"):
            store.review(wrong.id, review("", verdict="none", reviewer=name))
    until(lambda: monitor.audit_alarm and monitor.drift.cases == 20)
    thread.close(60.0)
    assert ([*map(str, failures)], monitor.changed_by_alarm()["decision"]) == (["once"], "defer")


def test_copies_with_other_bytes_are_cases_of_their_own_and_count_once(serving, monkeypatch):
    monkeypatch.setattr("misgiving.serve.service.UPDATE_SECONDS", 0.01)
    client = serving(Calibrated(), audit_share=1.0)
    copies = [("files", (NAME, picture(0.1) + bytes([number]))) for number in range(50)]
    first = client.post("/decisions", files=copies[:1]).json()["results"][0]["case"]
    results = client.post("/decisions", files=[*copies[1:], ("files", (NAME, picture(0.2)))])
    cases = [first, *(result["case"] for result in results.json()["results"])]
    assert len({row["sha256"] for row in cases}) == len({row["id"] for row in cases}) == 51
    until(lambda: client.get("/drift").json()["complete"])
    assert client.get("/drift").json()["cases"] == 2
    rows = client.app.state.service.store.cases([row["id"] for row in cases])
    assert [rows[row["id"]].audited for row in cases] == [True, *[False] * 49, True]
    assert all(row.blind for row in rows.values())  # drawn as the first is


def test_each_image_that_this_policy_decided_counts_once_and_those_of_a_list_do_not(store):
    cases, listed = drawn(30), {"place": 1, "remark": "suspect"}
    by_alarm = {"decision": "defer", "reason": DEFERRED_BY_ALARM}
    store.add([a_case(number, score=0.9, **by_alarm) for number in range(200, 240)])
    selection = [a_case(n, score=0.5, likeness=-400.0) for n in range(100, 160)]
    chosen = [case.model_copy(update=listed) for case in selection]
    store.add([*chosen[:25], *cases[:15], *chosen[25:], *cases[15:]])
    store.add([a_case(99, policy_fingerprint="q" * 64)])
    again = [cases[0].model_copy(update={"id": f"{n:032x}"}) for n in range(90, 95)]
    store.add([row.model_copy(update={"model_fingerprint": row.id}) for row in again])
    image_policy = made_policy(unit="image").policy_
    watch = Monitor(store, image_policy, ServiceSettings())
    seen = watch.update_drift()
    assert (seen.cases, seen.alarm) == (30, False)
    numbers = (*range(66, 81), *range(116, 131))  # after 40 deferred and 25 or 60 listed ones
    assert [dict(test) for test in seen.tests] == described(cases, numbers)
    scores = np.array([case.acceptance_score for case in cases])
    errors = image_policy.calibration.error_at(scores)
    accepted = np.array([case.decision == "accept" for case in cases])
    expected = expected_errors(image_policy, errors, accepted)
    assert seen.expected == " ".join(lines("drift.txt", "expected", expected, "image", False))
    store.add([selection[0].model_copy(update={"id": "f" * 32})])  # sent by a client as well
    store.add([a_case(50, score=None)])  # of which no error is expected
    assert watch.update_drift().cases == 32
