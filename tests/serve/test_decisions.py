import asyncio
import hashlib
import json
import re
import threading

import pytest
from calibrated import Calibrated
from sqlalchemy.exc import OperationalError
from standin import Standin, picture
from waiting import until

from misgiving.serve.routes.decisions import _results
from misgiving.serve.schemas import Case
from misgiving.serve.settings import Settings
from misgiving.serve.store import CaseQuery, Store
from misgiving.serve.telemetry import Metrics
from misgiving.serve.uploads import Upload


def send(client, *pictures):
    files = [("files", (f"{number}.png", data)) for number, data in enumerate(pictures)]
    return client.post("/decisions", files=files)


def cases_of(response):
    return [result["case"] for result in response.json()["results"]]


def test_a_case_has_every_value_of_the_decision(client):
    data = picture(0.9)
    (case,) = cases_of(send(client, data))
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


def test_numbers_that_are_not_finite_are_null(client):
    (case,) = cases_of(send(client, picture(colour=(200, 0, 0))))
    assert case["decision"] == "defer"
    assert case["probabilities"] == {"dark": None, "light": None}
    assert case["acceptance_score"] is None


def test_many_images_are_decided_in_their_order(client):
    levels = [0.0, 0.5, 1.0, 0.25, 0.75]
    response = send(client, *map(picture, levels))
    light = [case["probabilities"]["light"] for case in cases_of(response)]
    assert light == pytest.approx([round(255 * level) / 255 for level in levels])
    names = [result["name"] for result in response.json()["results"]]
    assert names == ["0.png", "1.png", "2.png", "3.png", "4.png"]


def test_a_bad_image_among_good_ones_is_a_problem_of_its_own(client):
    response = send(client, picture(0.1), b"no image", picture(0.9))
    assert response.status_code == 200
    first, second, third = response.json()["results"]
    assert second["case"] is None
    assert second["problem"]["status"] == 422
    assert second["problem"]["detail"].startswith("1.png: not an image")
    assert first["case"]["predicted_class"] == "dark"
    assert third["case"]["predicted_class"] == "light"
    assert client.get("/cases").json()["total"] == 2


def test_a_request_without_a_readable_file_fails(client):
    response = send(client, b"no image", b"")
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert re.search(r"2 files.*0\.png", response.json()["detail"])
    assert [result["name"] for result in response.json()["results"]] == ["0.png", "1.png"]
    assert client.get("/cases").json()["total"] == 0


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "application/octet-stream"])
def test_a_body_may_be_the_image_itself(client, kind):
    response = client.post(
        "/decisions?name=lesion.png", content=picture(0.9), headers={"Content-Type": kind}
    )
    (result,) = response.json()["results"]
    assert (result["name"], result["case"]["predicted_class"]) == ("lesion.png", "light")


def test_a_returned_case_is_in_the_store(serving, sqlite_place):
    client = serving()
    (case,) = cases_of(send(client, picture(0.9)))
    other = Store.open(sqlite_place)
    assert other.case(case["id"]).sha256 == case["sha256"]
    other.close()


class Failing(Store):
    def add(self, _):
        raise OperationalError("INSERT", {}, OSError("disk I/O error"))


def test_nothing_is_decided_without_the_store(serving, sqlite_place):
    store = Store.open(sqlite_place)
    failing = Failing(store._engine)
    client = serving(store=failing)
    response = send(client, picture(0.9))
    assert response.status_code == 503
    assert "database" in response.json()["detail"]
    assert "Retry-After" in response.headers
    assert client.get("/cases").json()["total"] == 0


def test_an_image_that_cannot_be_written_is_not_decided(serving, tmp_path):
    (tmp_path / "kept").write_text("a file where the folder should be")
    client = serving(keep_images=tmp_path / "kept" / "images")
    response = send(client, picture(0.9))
    assert response.status_code == 503
    assert "keep_images" in response.json()["detail"]
    assert client.get("/cases").json()["total"] == 0


class Fragile(Standin):
    """Fails on black images, and with them on every batch that has one."""

    def decide_squares(self, squares):
        if (squares == 0).all(axis=(1, 2, 3)).any():
            raise RuntimeError("black")
        return super().decide_squares(squares)


def test_an_image_on_which_the_model_fails_does_not_fail_its_batch(serving):
    client = serving(Fragile(), linger=0.2, threads=2)
    statuses = {}
    senders = [
        threading.Thread(
            target=lambda level=level: statuses.update(
                {level: send(client, picture(level)).status_code}
            )
        )
        for level in (0.0, 0.3, 0.6)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert statuses == {0.0: 500, 0.3: 200, 0.6: 200}


def test_a_file_on_which_the_model_fails_does_not_affect_other_files(serving):
    client = serving(Fragile())
    response = send(client, *map(picture, (0.3, 0.0, 0.6, 0.7)))
    assert response.status_code == 200
    results = response.json()["results"]
    assert [result["case"] is None for result in results] == [False, True, False, False]
    assert results[1]["problem"]["status"] == 500
    assert "log" in results[1]["problem"]["detail"]
    assert client.get("/cases").json()["total"] == 3


class Picky(Store):
    """Fails on one name, and on every commit that contains it."""

    failure = OverflowError("no such letter")

    def add(self, cases):
        if any(case.name == "1.png" for case in cases):
            raise self.failure
        return super().add(cases)


def test_a_case_that_cannot_be_stored_does_not_fail_those_of_the_same_commit(serving, sqlite_place):
    client = serving(store=Picky(Store.open(sqlite_place)._engine))
    results = send(client, *map(picture, (0.3, 0.4, 0.6))).json()["results"]
    assert [result["case"] is None for result in results] == [False, True, False]
    assert client.get("/cases").json()["total"] == 2


def test_the_most_serious_problem_is_returned_if_all_files_fail(serving, sqlite_place):
    store = Failing(Store.open(sqlite_place)._engine)
    response = send(serving(store=store), b"no image", picture(0.9))
    assert response.status_code == 503
    assert [result["problem"]["status"] for result in response.json()["results"]] == [422, 503]


def test_files_of_one_request_are_decided_in_batches(serving):
    sizes = []

    class Counting(Standin):
        def decide_squares(self, squares):
            sizes.append(len(squares))
            return super().decide_squares(squares)

    send(serving(Counting(), linger=600.0, batch_size=4, timeout=60.0), *map(picture, [0.5] * 8))
    assert sizes == [4, 4]


class Slow(Standin):
    def __init__(self):
        self.go_on = threading.Event()

    def decide_squares(self, squares):
        self.go_on.wait(60)
        return super().decide_squares(squares)


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
    (last,) = cases_of(send(client, picture(0.1)))  # after the late one: batches keep their order
    listed = client.get("/cases?order=newest").json()["cases"]
    assert [case["id"] for case in listed][:1] == [last["id"]]
    assert len(listed) == 2


class StubService:
    """Decides about the first file at once, and never about others."""

    def __init__(self, case):
        self.case, self.settings, self.metrics = case, Settings(timeout=1.0), Metrics()

    async def decide(self, upload):
        if upload.name != "0.png":
            await asyncio.Event().wait()
        return self.case, False


def test_files_that_are_decided_in_time_keep_their_cases(client):
    case = Case.model_validate(cases_of(send(client, picture(0.9)))[0])

    async def results():
        uploads = [Upload(f"{number}.png", b"") for number in range(3)]
        return await _results(uploads, StubService(case), asyncio.get_running_loop().time())

    first, *late = asyncio.run(results())
    assert first.case == case
    for number, result in enumerate(late, start=1):
        assert (result.index, result.name, result.case) == (number, f"{number}.png", None)
        assert result.problem.status == 503
        assert "1 seconds" in result.problem.detail


def test_a_full_queue_is_reported_and_recovers(serving):
    model = Slow()
    client = serving(model, queue=1, max_files=1)
    first = threading.Thread(target=send, args=(client, picture(0.1)))
    first.start()
    until(lambda: "misgiving_waiting_images 1.0" in client.get("/metrics").text)
    refused = send(client, picture(0.9))
    model.go_on.set()
    first.join()
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "1"
    assert "the queue holds 1" in refused.json()["detail"]
    assert send(client, picture(0.9)).status_code == 200


def test_ids_increase_with_time(client):
    ids = [cases_of(send(client, picture(n / 10)))[0]["id"] for n in range(5)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 5


def test_a_case_names_the_policy_that_decided(serving, sqlite_place):
    model = Calibrated()
    (with_policy,) = cases_of(send(serving(model), picture(0.5)))
    (without,) = cases_of(send(serving(Standin(), Store.open(sqlite_place)), picture(0.5)))
    written = json.dumps(model.policy.to_dict(), sort_keys=True, separators=(",", ":"))
    assert with_policy["policy_fingerprint"] == hashlib.sha256(written.encode()).hexdigest()
    assert without["policy_fingerprint"] is None


def test_many_simultaneous_clients_get_their_own_cases(serving, sqlite_place):
    client = serving(threads=2)
    answered = {}

    def ask(level):
        (case,) = cases_of(send(client, picture(level / 100)))
        answered[level] = case["probabilities"]["light"]

    senders = [threading.Thread(target=ask, args=(level,)) for level in range(40)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    expected = {level: round(255 * level / 100) / 255 for level in range(40)}
    assert answered == pytest.approx(expected)
    other = Store.open(sqlite_place)
    assert other.count(CaseQuery()) == 40
    other.close()
