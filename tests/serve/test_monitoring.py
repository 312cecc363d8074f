import errno
import json
import shutil
import sqlite3
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
from anyio import to_thread
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from standin import Calibrated, Standin, picture
from waiting import until

from misgiving.serve.store import Store

NAME = "Jane Doe.png"


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
    until(lambda: client.get("/health").status_code == 200)
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
        lambda place: drop(place, "reviews"),
        lambda place: drop(place, "arrivals"),
    ],
    ids=["deleted", "replaced", "no reviews", "no arrivals"],
)
def test_health_fails_where_the_database_lost_its_file_or_a_table(
    serving, sqlite_place, damage, monkeypatch
):
    monkeypatch.setattr("misgiving.serve.service.CHECK_VALID_SECONDS", -1.0)
    client = serving()
    until(lambda: client.get("/health").status_code == 200)
    damage(sqlite_place)
    assert client.get("/health").status_code == 503
    if not Path(sqlite_place).exists():  # a case would go into a file that nobody finds
        answer = client.post("/decisions", files={"files": ("a", picture())})
        assert answer.status_code == 503


def test_health_fails_while_the_model_hangs(serving, monkeypatch):
    monkeypatch.setattr("misgiving.serve.service.CHECK_VALID_SECONDS", -1.0)
    go_on, model = threading.Event(), Standin()
    client = serving(model)
    until(lambda: client.get("/health").status_code == 200)
    monkeypatch.setattr("misgiving.serve.service.CHECK_SECONDS", 1.0)
    monkeypatch.setattr(model, "decide_inputs", lambda _: go_on.wait(60))
    assert client.get("/health").status_code == 503
    go_on.set()
    monkeypatch.undo()
    until(lambda: client.get("/health").status_code == 200)


class Broken(Standin):
    def decide_inputs(self, _):
        raise RuntimeError("out of order") from KeyError(NAME)


def test_the_cause_of_a_failure_is_logged_counted_and_hidden_from_clients(
    serving, sqlite_place, logged, monkeypatch
):
    def failed(client, path):
        files = {"files": (NAME, picture())} if path == "/decisions" else None
        answer = client.request("POST" if files else "GET", path, files=files)
        line = [line for line in logged() if line["level"] == "error"][-1]
        assert line["path"] == path
        return answer, line

    cause = OSError(f'connection to "db" (10.0.0.3) failed\n{NAME}')  # as drivers fail
    for name in ("check", "add", "page"):
        monkeypatch.setattr(Store, name, Mock(side_effect=OperationalError("x", {}, cause)))
    unreachable = serving(store=Store.open(sqlite_place))
    for path in ("/health", "/cases", "/decisions"):
        answer, line = failed(unreachable, path)
        assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
        assert "database" in answer.json()["detail"]
        assert "10.0.0.3" not in answer.text
        assert line["reason"] == 'connection to "db" (10.0.0.3) failed'
    assert metrics(unreachable)['misgiving_failures_total{part="store"}'] == 3
    monkeypatch.undo()
    broken = serving(Broken())
    answer, line = failed(broken, "/decisions")
    assert (answer.status_code, "out of order" in answer.text) == (500, False)
    causes = line["traceback"].splitlines()
    assert (causes[0], causes[-1]) == ("KeyError", "RuntimeError")  # the cause first
    assert "in decide_inputs" in line["traceback"]
    assert metrics(broken)['misgiving_failures_total{part="other"}'] == 1
    assert NAME not in json.dumps(logged())


def test_health_and_drift_wait_for_no_thread_of_another_request(serving, sqlite_place, monkeypatch):
    monkeypatch.setattr("misgiving.serve.service.CHECK_VALID_SECONDS", -1.0)
    store, calls, go_on = Store.open(sqlite_place), [], threading.Event()

    def wait(method, *arguments, **options):
        calls.append(method)
        assert go_on.wait(60)
        return method(*arguments, **options)

    for name in ("page", "decided"):
        monkeypatch.setattr(store, name, partial(wait, getattr(store, name)))
    client = serving(Calibrated(), store=store)

    async def allow_one_thread():
        to_thread.current_default_thread_limiter().total_tokens = 1

    client.portal.call(allow_one_thread)
    until(lambda: calls)
    waiting = threading.Thread(target=client.get, args=("/cases",))
    waiting.start()
    for _ in range(3):
        assert not client.get("/drift").json()["complete"]
        until(lambda: client.get("/health").status_code == 200)
    assert waiting.is_alive()
    go_on.set()
    waiting.join()
    until(lambda: client.get("/drift").json()["complete"])
    client.app.state.service._model_batches.close(60.0)
    response = client.get("/health")
    assert (response.status_code, "restart" in response.json()["detail"]) == (503, True)


def test_requests_decisions_and_drift_are_counted_and_logged_without_names(
    serving, logged, monkeypatch
):
    monkeypatch.setattr("misgiving.serve.monitor.PAUSE_SECONDS", 0.01)
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
