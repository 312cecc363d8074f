import errno
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from anyio import to_thread
from calibrated import Calibrated
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from standin import Standin, picture, sent
from waiting import until

from misgiving.errors import UsageError
from misgiving.report.certificate import certificate_sentences
from misgiving.serve import service as service_module
from misgiving.serve.routes.cases import MAX_EXPORTS
from misgiving.serve.settings import Settings
from misgiving.serve.store import Store
from misgiving.serve.telemetry import JsonLines


def test_the_model_is_described_with_a_summary_of_its_policy(serving):
    model = Calibrated()
    client = serving(model, max_bytes=1234, max_files=5, queue=6, timeout=7.0)
    answer = client.get("/model").json()
    assert answer["classes"] == ["dark", "light"]
    assert answer["policy"] == certificate_sentences(model.deferral)
    assert answer["card"] == {"name": "standin"}
    assert answer["model_fingerprint"] == "f" * 64
    given = {"max_bytes": 1234, "max_files": 5, "queue": 6, "timeout": 7}
    own = {"max_pixels": 50_000_000, "max_decoded_bytes": 1_500_000_000}
    assert answer["limits"] == {**given, **own}
    assert "Not a medical device" in answer["notice"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", answer["versions"]["numpy"])


class Unreachable(Store):
    """Fails as a driver does; the second line is like those of PostgreSQL that contain values."""

    def fail(self, *_, **__):
        cause = OSError('connection to "db" (10.0.0.3) failed\nJane Doe')
        raise OperationalError("x", {}, cause)

    ping = add = page = fail


def test_health_fails_where_the_store_can_only_be_read(serving, sqlite_place, logged):
    store = Store.open(sqlite_place)
    client = serving(store=store)
    assert client.get("/health").status_code == 200
    event.listen(store._engine, "checkout", only_read)
    until(lambda: client.get("/health").status_code == 503)
    assert client.get("/cases").status_code == 200
    reasons = [line["reason"] for line in logged() if line["level"] == "error"]
    assert reasons[0] == "attempt to write a readonly database"


def only_read(connection, *_):
    connection.execute("PRAGMA query_only = ON")


def test_health_fails_where_there_is_no_room_for_an_image(serving, tmp_path, monkeypatch):
    client = serving(keep_images=tmp_path / "kept", max_bytes=123_456)
    assert client.get("/health").status_code == 200
    assert list((tmp_path / "kept").iterdir()) == []

    def full(_, start, size):
        assert (start, size) == (0, 123_456)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    until(lambda: client.get("/health").status_code == 503)
    assert "keep_images" in client.get("/health").json()["detail"]


@pytest.mark.parametrize("path", ["/health", "/cases", "/decisions"])
def test_the_cause_of_a_store_failure_is_logged_and_hidden_from_clients(
    serving, sqlite_place, logged, path
):
    client = serving(store=Unreachable(Store.open(sqlite_place)._engine))
    files = {"files": ("Jane Doe.png", picture())}
    answer = client.post(path, files=files) if path == "/decisions" else client.get(path)
    assert answer.status_code == 503
    assert "10.0.0.3" not in answer.text
    (line,) = (line for line in logged() if line["level"] == "error")
    assert (line["event"], line["path"]) == ("store failure", path)
    assert line["reason"] == 'connection to "db" (10.0.0.3) failed'
    assert "Jane Doe" not in json.dumps(logged())
    assert metrics(client)['misgiving_failures_total{part="store"}'] == 1


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


def test_drift_and_health_do_not_wait_for_the_threads_of_other_requests(serving, sqlite_place):
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


def test_few_exports_are_sent_at_once(serving, sqlite_place):
    store = Slow(Store.open(sqlite_place), "all")
    client = serving(store=store)
    with ThreadPoolExecutor(MAX_EXPORTS) as threads:
        exports = [threads.submit(client.get, "/cases.csv") for _ in range(MAX_EXPORTS)]
        until(lambda: len(store.calls) == MAX_EXPORTS)
        refused = client.get("/cases.csv")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        store.go_on.set()
        assert {export.result().status_code for export in exports} == {200}
    assert client.get("/cases.csv").status_code == 200


def test_health_fails_if_the_store_does_not_respond_or_a_thread_has_ended(
    serving, sqlite_place, monkeypatch
):
    monkeypatch.setattr(service_module, "CHECK_SECONDS", 0.05)
    store = Slow(Store.open(sqlite_place), "ping")
    client = serving(store=store)
    response = client.get("/health")
    assert (response.status_code, "in time" in response.json()["detail"]) == (503, True)
    store.go_on.set()
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
    for shade in range(40):
        sent(client, picture(colour=(0, 255, shade)))
    until(lambda: metrics(client)["misgiving_drift_cases"] == 41)
    assert metrics(client)["misgiving_drift_alarm"] == 1
    assert metrics(client)['misgiving_drift_e_value{test="familiarity"}'] > 100
    drift = client.get("/drift").json()
    assert (drift["alarm"], drift["cases"], drift["complete"]) == (True, 41, True)
    (alarmed,) = [test for test in drift["tests"] if test["name"] == "familiarity"]
    assert alarmed["highest"] >= alarmed["alarm_at"]
    assert alarmed["since"] is not None


def test_an_image_that_cannot_be_written_is_logged_and_counted(serving, logged, tmp_path):
    (tmp_path / "kept").write_text("a file where the folder should be")
    client = serving(keep_images=tmp_path / "kept")
    answer = client.post("/decisions", files={"files": ("Jane Doe.png", picture())})
    assert answer.status_code == 503
    assert "exists" not in answer.text
    (line,) = (line for line in logged() if line["level"] == "error")
    assert (line["event"], line["reason"]) == ("images failure", "File exists")
    assert metrics(client)['misgiving_failures_total{part="images"}'] == 1


def metrics(client):
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    lines = [line for line in response.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_requests_decisions_batches_and_refusals_are_counted(serving):
    client = serving(linger=600.0, batch_size=3)
    pictures = [picture(0.1), picture(0.5), picture(colour=(0, 200, 0)), b"no image"]
    client.post("/decisions", files=[("files", (f"{n}.png", p)) for n, p in enumerate(pictures)])
    client.get("/cases/" + "0" * 32)
    answer = metrics(client)
    for decision in ("accept", "defer", "ood"):
        assert answer[f'misgiving_decisions_total{{decision="{decision}"}}'] == 1
    assert answer["misgiving_refused_images_total"] == 1
    assert answer["misgiving_batch_images_sum"] == 3
    assert answer["misgiving_batch_images_count"] == 1
    requests = 'misgiving_requests_total{method="%s",path="%s",status="%d"}'
    assert answer[requests % ("POST", "/decisions", 200)] == 1
    assert answer[requests % ("GET", "/cases/{id}", 404)] == 1
    seconds = 'misgiving_request_seconds_bucket{le="+Inf",method="POST",path="/decisions"}'
    assert answer[seconds] == 1
    assert answer["misgiving_waiting_images"] == answer["misgiving_held_bytes"] == 0


def test_clients_cannot_create_metrics(client):
    for number in range(5):
        client.get(f"/made-up-{number}")
        client.request(f"MADE{number}", "/cases")
    assert not any("made" in name.lower() for name in metrics(client))


def test_a_request_is_logged_as_a_line_of_json(client, logged):
    client.get("/cases?class=secret")
    line = next(line for line in logged() if line["event"] == "request")
    assert (line["method"], line["path"], line["status"]) == ("GET", "/cases", 200)
    assert line["level"] == "info"
    assert 0 <= line["seconds"] < 60
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])


@pytest.mark.parametrize("log_names", [False, True])
def test_file_names_are_logged_only_on_request(serving, logged, log_names):
    client = serving(log_names=log_names)
    for data in (picture(), b"no image"):
        client.post("/decisions", files=[("files", ("Jane Doe.png", data))])
    (line,) = (line for line in logged() if line["event"] == "case")
    assert line["decision"] == "defer"
    assert ("Jane Doe" in json.dumps(logged())) == log_names


NAME = "Jane Doe.png"  # a traceback shows lines of code


class Broken(Standin):
    def decide_inputs(self, _):
        try:
            raise KeyError(NAME)
        except KeyError as error:
            raise RuntimeError("out of order") from error


def test_a_failure_of_the_service_is_logged_and_not_shown(serving, logged, caplog):
    client = serving(Broken())
    response = client.post("/decisions", files={"files": (NAME, picture())})
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert "out of order" not in response.text
    (line,) = (line for line in logged() if line["level"] == "error")
    assert line["path"] == "/decisions"
    assert line["traceback"].endswith("RuntimeError")
    assert "in decide_inputs" in line["traceback"]
    assert "\nRuntimeError" not in line["traceback"].partition("KeyError")[0]  # the cause first
    (record,) = (record for record in caplog.records if record.levelname == "ERROR")
    assert NAME not in JsonLines().format(record)
    assert NAME in json.loads(JsonLines(names=True).format(record))["traceback"]
    assert metrics(client)['misgiving_failures_total{part="other"}'] == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"max_bytes": 0},
        {"max_bytes": 10**9},
        {"threads": -1},
        {"timeout": 0.0},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"max_files": 300},  # the queue has 256
        {"max_pixels": 0},
        {"max_pixels": 10**9},
    ],
)
def test_impossible_settings_are_refused(settings):
    ((name, value),) = settings.items()
    with pytest.raises(UsageError, match=f"`{name}` must .*{value}"):
        Settings(**settings)
