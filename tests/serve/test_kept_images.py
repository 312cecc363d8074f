"""Image files beside the store: whole, private, durable, and never served if damaged."""

import hashlib
import json
import logging
import os
import threading
from pathlib import Path

import pytest
from standin import picture

from misgiving.serve.image_store import ImageFiles
from misgiving.serve.store import Store
from misgiving.serve.telemetry import JsonLines

NAME = "Jane Doe.png"


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO)
    return lambda: [json.loads(JsonLines().format(record)) for record in caplog.records]


def sent(client, level=0.5):
    answer = client.post("/decisions", files={"files": (NAME, picture(level))})
    return answer.json()["results"][0]["case"]


def file_of(folder, case):
    return folder / case["sha256"][:2] / case["sha256"]


@pytest.fixture
def client(serving, tmp_path):
    return serving(keep_images=tmp_path / "kept", recent_bytes=0)


@pytest.mark.parametrize(
    "content", [b"", picture(0.9), picture(0.5)[:-1]], ids=["empty", "another", "cut"]
)
def test_a_damaged_file_counts_as_missing(client, tmp_path, logged, content):
    case = sent(client)
    file_of(tmp_path / "kept", case).write_bytes(content)
    for what in ("thumbnail", "image", "saliency"):
        assert client.get(f"/cases/{case['id']}/{what}").status_code == 404
    errors = [line for line in logged() if line["level"] == "error"]
    logged_reasons = [(line["sha256"], line["reason"]) for line in errors]
    assert logged_reasons == [(case["sha256"], "is damaged")] * 3
    assert NAME not in json.dumps(logged())
    assert 'misgiving_failures_total{part="images"} 3.0' in client.get("/metrics").text


def test_an_unreadable_file_counts_as_missing(client, tmp_path, logged):
    case = sent(client)
    file_of(tmp_path / "kept", case).unlink()
    file_of(tmp_path / "kept", case).mkdir()
    assert client.get(f"/cases/{case['id']}/thumbnail").status_code == 404
    (error,) = (line for line in logged() if line["level"] == "error")
    assert (error["sha256"], error["reason"]) == (case["sha256"], "Is a directory")


def test_a_damaged_file_is_replaced_when_its_image_is_sent_again(client, tmp_path):
    case = sent(client)
    file_of(tmp_path / "kept", case).write_bytes(b"")
    assert sent(client)["image_kept"]
    assert file_of(tmp_path / "kept", case).read_bytes() == picture(0.5)
    assert client.get(f"/cases/{case['id']}/image").content == picture(0.5)


def test_a_kept_file_that_can_no_longer_be_decoded_is_a_problem(serving, tmp_path, sqlite_place):
    case = sent(serving(keep_images=tmp_path / "kept"))
    smaller = serving(
        store=Store.open(sqlite_place), keep_images=tmp_path / "kept", recent_bytes=0, max_pixels=9
    )
    answer = smaller.get(f"/cases/{case['id']}/thumbnail")
    assert (answer.status_code, "more than 9 pixels" in answer.json()["detail"]) == (422, True)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux tells what was forced")
def test_file_and_folders_are_durable_before_the_response(tmp_path, monkeypatch):
    forced = []

    def fsync(handle):
        path = Path(f"/proc/self/fd/{handle}").readlink()
        names = [one.name for one in path.iterdir()] if path.is_dir() else None
        forced.append((path, names))

    monkeypatch.setattr(os, "fsync", fsync)
    content = b"content"
    sha256 = hashlib.sha256(content).hexdigest()
    ImageFiles(tmp_path / "kept").write(sha256, content)
    folder = tmp_path / "kept" / sha256[:2]
    assert (tmp_path, ["kept"]) in forced
    assert (tmp_path / "kept", [sha256[:2]]) in forced
    assert [path for path, names in forced if names is None and path.suffix == ".partial"]
    assert forced[-1] == (folder, [sha256])


def test_kept_files_are_private_and_the_umask_stays_while_many_threads_write(tmp_path):
    images = ImageFiles(tmp_path / "kept")
    before = os.umask(0o022)

    def keep(thread):
        for number in range(150):
            content = f"{thread} {number}".encode()
            images.write(hashlib.sha256(content).hexdigest(), content)

    threads = [threading.Thread(target=keep, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.umask(before) == 0o022
    kept = [tmp_path / "kept", *(tmp_path / "kept").rglob("*")]
    modes = {(path.is_dir(), path.stat().st_mode & 0o777) for path in kept}
    assert modes == {(True, 0o700), (False, 0o600)}
