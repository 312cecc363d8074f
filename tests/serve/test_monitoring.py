"""Health, metrics, the log, and what clients see of failures."""

import errno
import json
import threading
from datetime import datetime
from functools import partial

from anyio import to_thread
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from standin import Calibrated, Standin, picture, sent
from waiting import until

from misgiving.serve import service as service_module
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
    assert client.get("/health").status_code == 200
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


class Unreachable(Store):
    """Fails as a driver does; the second line is like those of PostgreSQL that contain values."""

    def fail(self, *_, **__):
        cause = OSError(f'connection to "db" (10.0.0.3) failed\n{NAME}')
        raise OperationalError("x", {}, cause)

    ping = add = page = fail


class Broken(Standin):
    def decide_inputs(self, _):
        raise RuntimeError("out of order") from KeyError(NAME)


def test_the_cause_of_a_failure_is_logged_counted_and_hidden_from_clients(
    serving, sqlite_place, logged
):
    def failed(client, path):
        files = {"files": (NAME, picture())}
        answer = client.post(path, files=files) if path == "/decisions" else client.get(path)
        line = [line for line in logged() if line["level"] == "error"][-1]
        assert line["path"] == path
        return answer, line

    unreachable = serving(store=Unreachable(Store.open(sqlite_place)._engine))
    for path in ("/health", "/cases", "/decisions"):
        answer, line = failed(unreachable, path)
        assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
        assert "database" in answer.json()["detail"]
        assert "10.0.0.3" not in answer.text
        assert line["reason"] == 'connection to "db" (10.0.0.3) failed'
    assert metrics(unreachable)['misgiving_failures_total{part="store"}'] == 3
    broken = serving(Broken())
    answer, line = failed(broken, "/decisions")
    assert (answer.status_code, "out of order" in answer.text) == (500, False)
    causes = line["traceback"].splitlines()
    assert (causes[0], causes[-1]) == ("KeyError", "RuntimeError")  # the cause first
    assert "in decide_inputs" in line["traceback"]
    assert metrics(broken)['misgiving_failures_total{part="other"}'] == 1
    assert NAME not in json.dumps(logged())


class Slow(Store):
    """Some of its methods wait until they are told to go on."""

    def __init__(self, store, *methods):
        super().__init__(store._engine)
        self.calls, self.go_on = [], threading.Event()
        for name in methods:
            setattr(self, name, partial(self._wait, getattr(self, name)))

    def _wait(self, method, *arguments, **options):
        self.calls.append(method)
        assert self.go_on.wait(60)
        return method(*arguments, **options)


def test_health_and_drift_wait_for_no_thread_of_another_request(serving, sqlite_place, monkeypatch):
    monkeypatch.setattr(service_module, "CHECK_VALID_SECONDS", -1.0)
    store = Slow(Store.open(sqlite_place), "page", "decided")
    client = serving(Calibrated(), store=store)

    async def allow_one_thread():
        to_thread.current_default_thread_limiter().total_tokens = 1

    client.portal.call(allow_one_thread)
    until(lambda: store.calls)
    waiting = threading.Thread(target=client.get, args=("/cases",))
    waiting.start()
    for _ in range(3):
        assert not client.get("/drift").json()["complete"]
        assert client.get("/health").status_code == 200
    assert waiting.is_alive()
    store.go_on.set()
    waiting.join()
    until(lambda: client.get("/drift").json()["complete"])
    monkeypatch.setattr(service_module, "CHECK_SECONDS", 0.0)  # the store does not respond in time
    response = client.get("/health")
    assert (response.status_code, "in time" in response.json()["detail"]) == (503, True)
    monkeypatch.undo()
    until(lambda: client.get("/health").status_code == 200)
    client.app.state.service._model_batches.close()
    response = client.get("/health")
    assert (response.status_code, "restart" in response.json()["detail"]) == (503, True)


def test_drift_is_reported_for_many_ood_images_and_not_for_a_few(serving, monkeypatch):
    monkeypatch.setattr("misgiving.serve.drift_tracker.PAUSE_SECONDS", 0.01)
    client = serving(Calibrated())
    sent(client, picture(0.2))
    until(lambda: metrics(client)["misgiving_drift_cases"] == 1)
    assert metrics(client)["misgiving_drift_alarm"] == 0
    green = [("files", (f"{n}.png", picture(colour=(0, 255, n)))) for n in range(40)]
    client.post("/decisions", files=green)
    until(lambda: metrics(client)["misgiving_drift_cases"] == 41)
    assert metrics(client)["misgiving_drift_alarm"] == 1
    assert metrics(client)['misgiving_drift_e_value{test="familiarity"}'] > 100
    drift = client.get("/drift").json()
    assert (drift["alarm"], drift["cases"], drift["complete"]) == (True, 41, True)


def test_requests_decisions_batches_and_refusals_are_counted_and_logged(serving, logged):
    client = serving(linger=600.0, batch_size=3)
    pictures = [picture(0.1), picture(0.5), picture(colour=(0, 200, 0)), b"no image"]
    client.post("/decisions", files=[("files", (NAME, data)) for data in pictures])
    client.get(f"/cases/{'0' * 32}")
    client.get("/made-up")  # clients cannot create metrics
    client.request("MADE", "/cases")
    answer = metrics(client)
    assert not any("made" in name.lower() for name in answer)
    requests = 'requests_total{method="%s",path="%s",status="%d"}'
    seconds = 'request_seconds_bucket{le="+Inf",method="POST",path="/decisions"}'
    for name, value in {
        **{f'decisions_total{{decision="{kind}"}}': 1 for kind in ("accept", "defer", "ood")},
        **{"refused_images_total": 1, "batch_images_sum": 3, "batch_images_count": 1},
        **{requests % ("POST", "/decisions", 200): 1, requests % ("GET", "/cases/{id}", 404): 1},
        **{seconds: 1, "waiting_images": 0, "held_bytes": 0},
    }.items():
        assert answer[f"misgiving_{name}"] == value, name
    decisions = {line["decision"] for line in logged() if line["event"] == "case"}
    assert decisions == {"accept", "defer", "ood"}
    line = next(line for line in logged() if line.get("status") == 404)
    assert (line["event"], line["method"], line["path"]) == ("request", "GET", "/cases/{id}")
    assert (line["level"], 0 <= line["seconds"] < 60) == ("info", True)
    assert datetime.fromisoformat(line["time"]).tzinfo
    assert NAME not in json.dumps(logged())
