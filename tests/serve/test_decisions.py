import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from services import emptied, frozen
from standin import PREPROCESSING, Calibrated, Standin, picture, sent
from waiting import until

from misgiving.data.decoding import decode
from misgiving.serve.store import Store


def send(client, *pictures):
    files = [("files", (f"{number}.png", data)) for number, data in enumerate(pictures)]
    return client.post("/decisions", files=files)


def test_a_case_has_every_value_of_the_decision_and_is_stored(client, serving, sqlite_place):
    data = picture(0.9)
    case = sent(client, data)
    (decision,) = Standin().decide_inputs([PREPROCESSING(decode(data, ""))])
    values = vars(decision) | {"probability": 230 / 255, "image_kept": False, "review": None}
    values |= {"sha256": hashlib.sha256(data).hexdigest(), "model_fingerprint": "f" * 64}
    assert {name: case[name] for name in values} == values
    with closing(Store.open(sqlite_place)) as other:
        assert other.cases([case["id"]])[case["id"]].model_dump(mode="json") == case
    assert sent(client, data, "again.png") == case  # the same file, so the earlier case
    kind = {"Content-Type": "application/octet-stream"}  # a body may be the image itself
    answer = client.post("/decisions?name=a.png", content=data, headers=kind).json()
    assert answer["results"] == [
        {"index": 0, "name": "a.png", "case": case, "known": True, "problem": None}
    ]
    case = sent(client, picture(colour=(200, 0, 0)))  # numbers that are not finite
    assert (case["decision"], case["acceptance_score"]) == ("defer", None)
    assert case["probabilities"] == {"dark": None, "light": None}
    model = Calibrated()
    assert sent(serving(model))["policy_fingerprint"] == model.policy.fingerprint


def test_images_are_decided_in_their_order_and_a_bad_one_is_a_problem_of_its_own(client):
    levels = [0.0, 0.5, 1.0, 0.25, 0.75]
    response = send(client, *map(picture, levels), b"no image", picture(0.5))
    assert response.status_code == 200
    *results, bad, again = response.json()["results"]
    assert sorted([again["known"], results[1]["known"]]) == [False, True]
    assert again["case"] == results[1]["case"]
    assert [result["name"] for result in results] == [f"{number}.png" for number in range(5)]
    light = [result["case"]["probabilities"]["light"] for result in results]
    assert light == pytest.approx([round(255 * level) / 255 for level in levels])
    assert (bad["case"], bad["problem"]["status"]) == (None, 422)
    assert bad["problem"]["detail"].startswith("5.png: not an image")
    response = send(client, b"no image", b"")
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert [result["name"] for result in response.json()["results"]] == ["0.png", "1.png"]
    assert client.get("/cases").json()["total"] == 5


def test_nothing_is_decided_that_cannot_be_stored(serving, tmp_path):
    (tmp_path / "kept").write_text("a file where the folder should be")
    client = serving(keep_images=tmp_path / "kept" / "images")
    response = send(client, b"no image", picture(0.9))
    assert response.status_code == 503  # the most serious problem
    assert "keep_images" in response.json()["detail"]
    assert "Retry-After" in response.headers
    assert [result["problem"]["status"] for result in response.json()["results"]] == [422, 503]
    assert client.get("/cases").json()["total"] == 0


def test_a_frozen_database_server_is_answered_with_503_until_it_continues(
    serving, database, monkeypatch
):
    monkeypatch.setattr("misgiving.serve.app.GRACE_SECONDS", 0.0)
    client = serving(store=Store.open(emptied(database)), timeout=1.0)
    until(
        lambda: client.get("/health").json()["status"] == "ok"
    )  # a process that decodes has started
    monkeypatch.setattr("misgiving.serve.service.CHECK_SECONDS", 0.2)
    until(lambda: send(client, picture(0.5)).status_code == 200)
    paths = "/cases", f"/cases/{'0' * 32}", "/cases.csv", "/health"
    with frozen(database), ThreadPoolExecutor(5) as threads, monkeypatch.context() as patch:
        patch.setattr("misgiving.serve.service.CHECK_VALID_SECONDS", -1.0)
        sending = threads.submit(send, client, picture(0.7))
        assert list(threads.map(lambda path: client.get(path).status_code, paths)) == [503] * 4
        response = sending.result()
        assert (response.status_code, "Retry-After" in response.headers) == (503, True)
    until(lambda: client.get("/health").json()["status"] == "ok")
    until(lambda: send(client, picture(0.7)).status_code == 200)
    assert client.get("/cases").json()["total"] == 2


class Slow(Standin):
    """Waits before it decides about a light image until it is told to go on."""

    def __init__(self):
        self.go_on = threading.Event()

    def decide_inputs(self, inputs, **_):
        if inputs.mean() > 128:
            self.go_on.wait(60)
        return super().decide_inputs(inputs)


def test_a_file_that_takes_too_long_is_a_problem_and_not_stored_later(serving):
    model = Slow()
    client = serving(model, timeout=1.0, batch_size=1)
    # until a process that decodes has started
    until(lambda: client.get("/health").json()["status"] == "ok")
    first, late = send(client, picture(0.1), picture(0.9)).json()["results"]
    assert (first["case"] is None, late["case"], late["problem"]["status"]) == (False, None, 503)
    response = send(client, picture(0.9))
    model.go_on.set()
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    # after the late one, as batches keep their order; a busy machine may take longer than a second
    last = until(lambda: sent(client, picture(0.2)))
    listed = client.get("/cases?order=newest").json()["cases"]
    assert [row["id"] for row in listed] == [last["id"], first["case"]["id"]]


def test_a_full_queue_is_reported_and_recovers(serving):
    model = Slow()
    client = serving(model, queue=1, max_files=1)
    first = threading.Thread(target=send, args=(client, picture(0.8)))
    first.start()
    until(lambda: "misgiving_waiting_images 1.0" in client.get("/metrics").text)
    refused = send(client, picture(0.9))
    model.go_on.set()
    first.join()
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    assert send(client, picture(0.9)).status_code == 200


def test_metadata_is_shown_and_changes_no_decision(serving):
    client = serving(Calibrated(), audit_share=1.0)
    given = {"age": 61, "site": {"body": "back\u0000"}}
    files, query = {"files": ("a", picture(0.02))}, {"metadata": json.dumps(given)}
    case = client.post("/decisions", params=query, files=files).json()["results"][0]["case"]
    assert case["metadata"] == client.get(f"/cases/{case['id']}").json()["metadata"] == given
    plain = sent(client, picture(0.02, size=(41, 30)))
    assert (plain["metadata"], plain["decision"]) == (None, case["decision"])


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[1]", '{"a": NaN}', '{"a": "\\ud800"}', "[" * 3999, "1" * 4001),
        '{"a": ' + "[" * 254 + "]" * 254 + "}",  # could be stored, and not be shown in a list
    ],
)
def test_metadata_that_cannot_be_shown_is_refused_in_one_line(shared, text):
    files = {"files": ("a", picture(0.02))}
    refused = shared.post("/decisions", params={"metadata": text}, files=files)
    assert (refused.status_code, "metadata" in refused.json()["detail"]) == (422, True)
