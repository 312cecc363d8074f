"""From images to stored cases over HTTP: batches, failures, time limits, a frozen database."""

import asyncio
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from calibrated import Calibrated
from databases import emptied, frozen
from sqlalchemy.exc import OperationalError
from standin import Standin, picture, sent
from waiting import until

from misgiving.serve.problems import Metrics
from misgiving.serve.routes.decisions import _results
from misgiving.serve.schemas import Case
from misgiving.serve.settings import Settings
from misgiving.serve.store import Store
from misgiving.serve.uploads import Upload


def send(client, *pictures):
    files = [("files", (f"{number}.png", data)) for number, data in enumerate(pictures)]
    return client.post("/decisions", files=files)


def test_a_case_has_every_value_of_the_decision(client, sqlite_place):
    data = picture(0.9)
    case = sent(client, data)
    light = 230 / 255
    assert case["predicted_class"] == "light"
    assert case["decision"] == "accept"
    assert case["reason"] == "probability of error 0.10"
    assert case["probabilities"] == pytest.approx({"dark": 1 - light, "light": light})
    assert case["error_probability"] == pytest.approx(1 - light)
    assert case["probability"] == case["acceptance_score"] == pytest.approx(light)
    assert case["ood_p_value"] == 0.5
    assert case["ood_score"] == -230
    assert case["predicted_loss"] is None
    assert case["sha256"] == hashlib.sha256(data).hexdigest()
    assert case["model_fingerprint"] == "f" * 64
    assert (case["reviewed"], case["review"], case["image_kept"]) == (False, None, False)
    other = Store.open(sqlite_place)  # it is stored
    assert other.case(case["id"]).model_dump(mode="json") == case
    other.close()


def test_numbers_that_are_not_finite_are_null(client):
    case = sent(client, picture(colour=(200, 0, 0)))
    assert (case["decision"], case["acceptance_score"]) == ("defer", None)
    assert case["probabilities"] == {"dark": None, "light": None}


def test_many_images_are_decided_in_their_order_and_ids_increase(client):
    levels = [0.0, 0.5, 1.0, 0.25, 0.75]
    results = send(client, *map(picture, levels)).json()["results"]
    assert [result["name"] for result in results] == [f"{number}.png" for number in range(5)]
    light = [result["case"]["probabilities"]["light"] for result in results]
    assert light == pytest.approx([round(255 * level) / 255 for level in levels])
    ids = [sent(client, picture(n / 10 + 0.03))["id"] for n in range(5)]
    assert ids == sorted(set(ids))


def test_a_bad_image_among_good_ones_is_a_problem_of_its_own(client):
    response = send(client, picture(0.1), b"no image", picture(0.9))
    assert response.status_code == 200
    first, second, third = response.json()["results"]
    assert (second["case"], second["problem"]["status"]) == (None, 422)
    assert second["problem"]["detail"].startswith("1.png: not an image")
    assert first["case"]["predicted_class"] == "dark"
    assert third["case"]["predicted_class"] == "light"
    assert client.get("/cases").json()["total"] == 2


def test_a_request_without_a_readable_file_fails(client):
    response = send(client, b"no image", b"")
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert "0.png" in response.json()["detail"]
    assert [result["name"] for result in response.json()["results"]] == ["0.png", "1.png"]
    assert client.get("/cases").json()["total"] == 0


def test_a_body_may_be_the_image_itself(client):
    for kind in ("image/png", "image/jpeg", "application/octet-stream"):
        response = client.post(
            "/decisions?name=lesion.png", content=picture(0.9), headers={"Content-Type": kind}
        )
        (result,) = response.json()["results"]
        assert (result["name"], result["case"]["predicted_class"]) == ("lesion.png", "light")


class Failing(Store):
    def add(self, _):
        raise OperationalError("INSERT", {}, OSError("disk I/O error"))


@pytest.mark.parametrize("part", ["database", "keep_images"])
def test_nothing_is_decided_that_cannot_be_stored(serving, sqlite_place, tmp_path, part):
    settings = {}
    if part == "keep_images":
        (tmp_path / "kept").write_text("a file where the folder should be")
        settings["keep_images"] = tmp_path / "kept" / "images"
    kind = Failing if part == "database" else Store
    client = serving(store=kind(Store.open(sqlite_place)._engine), **settings)
    response = send(client, b"no image", picture(0.9))
    assert response.status_code == 503  # the most serious problem
    assert part in response.json()["detail"]
    assert "Retry-After" in response.headers
    assert [result["problem"]["status"] for result in response.json()["results"]] == [422, 503]
    assert client.get("/cases").json()["total"] == 0


def test_a_frozen_database_server_is_answered_with_503_until_it_continues(
    serving, database, monkeypatch
):
    monkeypatch.setattr("misgiving.serve.app.GRACE_SECONDS", 0.0)
    monkeypatch.setattr("misgiving.serve.service.CHECK_SECONDS", 0.2)
    client = serving(store=Store.open(emptied(database)), timeout=1.0)
    until(lambda: send(client, picture(0.5)).status_code == 200)
    paths = "/cases", f"/cases/{'0' * 32}", "/cases.csv", "/health"
    with frozen(database), ThreadPoolExecutor(5) as threads:
        sending = threads.submit(send, client, picture(0.7))
        assert list(threads.map(lambda path: client.get(path).status_code, paths)) == [503] * 4
        response = sending.result()
        assert (response.status_code, "Retry-After" in response.headers) == (503, True)
    until(lambda: client.get("/health").status_code == 200)
    until(lambda: send(client, picture(0.7)).status_code == 200)
    assert client.get("/cases").json()["total"] == 2


class Fragile(Standin):
    """Fails on black images, and with them on every batch that has one."""

    def decide_inputs(self, inputs):
        if (inputs == 0).all(axis=(1, 2, 3)).any():
            raise RuntimeError("black")
        return super().decide_inputs(inputs)


def test_an_image_on_which_the_model_fails_affects_no_other_of_its_batch(serving):
    client = serving(Fragile(), linger=0.2, threads=2)
    levels = (0.0, 0.3, 0.6)
    with ThreadPoolExecutor(3) as threads:
        answers = threads.map(lambda level: send(client, picture(level)).status_code, levels)
    assert list(answers) == [500, 200, 200]
    response = send(client, *map(picture, (0.31, 0.0, 0.61, 0.7)))
    assert response.status_code == 200
    results = response.json()["results"]
    assert [result["case"] is None for result in results] == [False, True, False, False]
    assert results[1]["problem"]["status"] == 500
    assert client.get("/cases").json()["total"] == 5


class Picky(Store):
    """Fails on one name, and on every commit that contains it."""

    def add(self, cases):
        if any(case.name == "1.png" for case in cases):
            raise OverflowError("no such letter")
        return super().add(cases)


def test_a_case_that_cannot_be_stored_does_not_fail_those_of_the_same_commit(serving, sqlite_place):
    client = serving(store=Picky(Store.open(sqlite_place)._engine))
    results = send(client, *map(picture, (0.3, 0.4, 0.6))).json()["results"]
    assert [result["case"] is None for result in results] == [False, True, False]
    assert client.get("/cases").json()["total"] == 2


class Slow(Standin):
    def __init__(self):
        self.go_on = threading.Event()

    def decide_inputs(self, inputs):
        self.go_on.wait(60)
        return super().decide_inputs(inputs)


def test_a_request_that_takes_too_long_is_refused_and_not_stored_later(serving):
    model = Slow()
    client = serving(model, timeout=1.0)
    model.go_on.set()
    send(client, picture(0.5))  # loads what is loaded once
    model.go_on.clear()
    response = send(client, picture(0.9))
    model.go_on.set()
    assert response.status_code == 503
    assert "1 seconds" in response.json()["detail"]
    assert response.headers["Retry-After"] == "1"
    last = sent(client, picture(0.1))  # after the late one: batches keep their order
    listed = client.get("/cases?order=newest").json()["cases"]
    assert (listed[0]["id"], len(listed)) == (last["id"], 2)


class StubService:
    """Decides about the first file at once, and never about others."""

    def __init__(self, case):
        self.case, self.settings, self.metrics = case, Settings(timeout=1.0), Metrics()

    async def decide(self, upload):
        if upload.name != "0.png":
            await asyncio.Event().wait()
        return self.case, False


def test_files_that_are_decided_in_time_keep_their_cases(client):
    case = Case.model_validate(sent(client, picture(0.9)))

    async def results():
        uploads = [Upload(f"{number}.png", b"") for number in range(3)]
        return await _results(uploads, StubService(case), asyncio.get_running_loop().time())

    first, *late = asyncio.run(results())
    assert first.case == case
    for number, result in enumerate(late, start=1):
        assert (result.index, result.name, result.case) == (number, f"{number}.png", None)
        assert result.problem.status == 503


def test_a_full_queue_is_reported_and_recovers(serving):
    model = Slow()
    client = serving(model, queue=1, max_files=1)
    first = threading.Thread(target=send, args=(client, picture(0.1)))
    first.start()
    until(lambda: "misgiving_waiting_images 1.0" in client.get("/metrics").text)
    refused = send(client, picture(0.9))
    model.go_on.set()
    first.join()
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    assert send(client, picture(0.9)).status_code == 200


def test_a_case_names_the_policy_that_decided(serving, sqlite_place):
    model = Calibrated()
    with_policy = sent(serving(model))
    without = sent(serving(Standin(), Store.open(sqlite_place)))
    assert with_policy["policy_fingerprint"] == model.deferral.fingerprint
    assert without["policy_fingerprint"] is None
