"""Downloads from a local server that breaks off, changes its files or does not have them."""

import hashlib
import io
import re
import zipfile
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from misgiving.data import download
from misgiving.data.datasets import FORMS, load_dataset
from misgiving.data.download import CATALOGUE, PublishedFile, PublishedSet, fetch
from misgiving.errors import DataError
from misgiving.files import locked

CONTENT = bytes(np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8))
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
NAME = "images.npz"


class Server(ThreadingHTTPServer):
    """Files of a version; `answers` holds what happens to the next requests instead of a success.

    An answer is a status, or the number of bytes after which the connection breaks. If it does not
    say how many bytes come, there are `more` of them.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.version, self.answers, self.ranges = {}, ("ETag", '"first"'), [], []
        self.more, self.users = b"", []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, content = self.server, self.server.files.get(self.path[1:])
        server.ranges.append(self.headers.get("Range"))
        server.users.append(self.headers.get("Authorization"))
        answer = server.answers.pop(0) if server.answers else None
        if content is None or isinstance(answer, str):
            self.send_error(int(answer or 404))
            return
        header, version = server.version
        same = self.headers.get("If-Range", version) == version
        start = int(self.headers.get("Range", "bytes=0-")[6:-1]) if same else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if answer is not None or not server.more:
            self.send_header("Content-Length", str(len(content) - start))
        self.send_header(header, version)
        self.end_headers()
        self.wfile.write((content + server.more)[start:][:answer])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setattr(download, "CHUNK_BYTES", 10_000)
    with Server() as server:
        server.files[NAME] = CONTENT
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def to(tmp_path):
    return tmp_path / "to"


@pytest.fixture
def get(server, to, monkeypatch):
    """Publish one file and fetch it."""

    def get(name=NAME, *, url=None, md5=None, **options):
        file = PublishedFile(name=name, url=url or f"{server.url}/{name}", md5=md5)
        facts = {"description": "a toy", "licence": "CC0", "citation": "", "data": "folder:"}
        monkeypatch.setitem(CATALOGUE, "toy", PublishedSet(**facts, files=(file,)))
        return fetch("toy", to, **options)

    return get


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_the_published_one_and_is_not_fetched_again(get, server, to):
    steps = []
    assert get(md5=MD5, report=lambda *step: steps.append(step)) == [to / NAME]
    assert steps[-1] == (NAME, len(CONTENT), len(CONTENT))
    assert get(md5=MD5) == []
    assert left_in(to) == [NAME]
    assert (to / NAME).read_bytes() == CONTENT
    assert len(server.ranges) == 1


def test_an_interrupted_transfer_is_resumed_at_once_as_long_as_it_makes_progress(get, server, to):
    server.answers = [20_000] * 7 + ["503"] * 3
    get(md5=MD5)
    assert (to / NAME).read_bytes() == CONTENT
    assert server.ranges[:3] == [None, "bytes=20000-", "bytes=40000-"]
    assert server.ranges[7:] == ["bytes=140000-"] * 4


def test_a_file_that_always_begins_anew_is_given_up(get, server):
    """The version changes with every request, so that no transfer continues another."""
    server.answers = [20_000, "416"] * 30
    with pytest.raises(DataError, match="cannot be downloaded"):
        get()
    assert len(server.ranges) <= 2 * (download.MAX_FAILURES + 1)


def test_transfers_that_bring_a_little_each_are_given_up(get, server, monkeypatch):
    monkeypatch.setattr(download, "MOST_TRANSFERS", 10)
    server.answers = [20_000] * 30
    with pytest.raises(DataError, match="cannot be downloaded"):
        get()
    assert len(server.ranges) == 10


def test_a_transfer_that_keeps_breaking_off_is_resumed_by_the_next_call(get, server, to):
    server.answers = [20_000, *["500"] * 5]
    with pytest.raises(DataError):
        get()
    assert NAME not in left_in(to)
    get()
    assert server.ranges[-1] == "bytes=20000-"
    assert (to / NAME).read_bytes() == CONTENT
    assert left_in(to) == [NAME]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("ETag", '"1"'), ("ETag", '"2"')),
        (("ETag", 'W/"1"'), ("ETag", 'W/"1"')),  # a weak one allows for other bytes
        (("Last-Modified", "Sun, 01 Nov 2026"), ("Last-Modified", "Mon, 02 Nov 2026")),
        (("Server", "none"), ("Server", "none")),
    ],
)
def test_a_file_that_changed_meanwhile_or_has_no_version_is_not_mixed(
    get, server, to, first, second
):
    server.version, server.answers = first, [100_000, *["503"] * 5]
    with pytest.raises(DataError):
        get()
    server.files[NAME], server.version, server.answers = CONTENT[::-1], second, [50_000]
    get()
    assert (to / NAME).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("answer", ["416", "206"])
def test_a_server_that_cannot_resume_gives_the_whole_file_again(get, server, to, answer):
    server.answers = [100_000, answer]
    get()
    assert (to / NAME).read_bytes() == CONTENT


@pytest.mark.parametrize("answers", [[100_000], []])
def test_no_more_is_taken_than_a_server_declares_or_any_file_has(
    get, server, to, monkeypatch, answers
):
    server.answers, server.more = answers, bytes(20_000)
    monkeypatch.setattr(download, "MOST_BYTES", 310_000)
    with pytest.raises(DataError):
        get()
    assert {".images.npz.download", NAME}.isdisjoint(left_in(to))
    server.answers, server.more = [], bytes(10_000)
    get()  # without a declaration
    assert (to / NAME).stat().st_size == 310_000


def test_a_password_is_sent_and_never_shown(get, server):
    mirror = server.url.replace("://", "://me:s%65cret@")
    server.answers = ["404", "401"]
    for place in (
        *[mirror] * 2,
        f"{mirror}:x",
        "http://me:sec/ret@h",
        "http://me:secret@127.0.0.1:9",
    ):
        with pytest.raises(DataError) as failure:
            get(mirror=place)
        assert not re.search("secret|s%65cret|ret@|me:", str(failure.value))
    get(mirror=mirror)
    assert server.users == [f"Basic {b64encode(b'me:secret').decode()}"] * 3


def test_a_file_with_another_checksum_is_removed(get, server, to):
    server.files[NAME] = CONTENT[:-1]
    with pytest.raises(DataError):
        get(md5=MD5)
    assert left_in(to) == []


@pytest.mark.parametrize("nowhere", ["{server}/other", "http://127.0.0.1:9/x"])
def test_an_address_that_fails_is_not_tried_again_and_a_mirror_is_used_instead(
    get, server, to, nowhere, monkeypatch
):
    monkeypatch.setattr(download.time, "sleep", lambda _: pytest.fail("tried again"))
    url = nowhere.format(server=server.url)
    with pytest.raises(DataError, match=rf"{to / NAME}: [^\n]*$"):
        get(url=url)
    get(url=url, mirror=f"{server.url}/")
    assert (to / NAME).read_bytes() == CONTENT


def test_a_file_that_is_another_is_never_replaced(get, to):
    to.mkdir()
    (to / NAME).write_bytes(b"mine")
    with pytest.raises(DataError):
        get(md5=MD5)
    assert (to / NAME).read_bytes() == b"mine"


def test_of_two_that_fetch_at_once_one_downloads_and_the_other_waits(get, server, to):
    with ThreadPoolExecutor() as threads:
        new = sorted(threads.map(lambda _: get(md5=MD5), range(2)), key=len)
    assert new == [[], [to / NAME]]
    assert len(server.ranges) == 1


def test_a_fetch_does_not_wait_for_another_without_end(get, server, to, monkeypatch):
    monkeypatch.setattr(download, "WAIT", 0.1)
    with locked(to / ".download.lock"), pytest.raises(DataError):
        get()
    assert server.ranges == []


MEMBERS = {"a.jpg": b"first", "b/c.jpg": b"second"}
LITTER = {"__MACOSX/photos/._a.jpg": b"x", "photos/.DS_Store": b"x", "photos/._a.jpg": b"x"}


def zip_of(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def unpacked(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("within", ["", "photos/"])
def test_an_archive_is_unpacked_into_the_folder_of_its_name(get, server, to, within):
    content = LITTER | {within + name: data for name, data in MEMBERS.items()}
    server.files["photos.zip"] = zip_of(content)
    assert get("photos.zip") == [to / "photos"]
    assert get("photos.zip") == []
    assert left_in(to) == ["photos"]
    assert unpacked(to / "photos") == MEMBERS
    assert len(server.ranges) == 1


def test_an_archive_that_was_there_is_unpacked_and_kept(get, server, to):
    to.mkdir()
    (to / "photos.zip").write_bytes(zip_of(MEMBERS))
    get("photos.zip")
    assert left_in(to) == ["photos", "photos.zip"]
    assert unpacked(to / "photos") == MEMBERS
    assert server.ranges == []


@pytest.mark.parametrize(
    "content",
    [
        zip_of(MEMBERS)[:-30],
        zip_of(MEMBERS).replace(b"first", b"First"),
        zip_of({"d/" * 2000 + "x": b""}),
    ],
    ids=["truncated", "wrong CRC", "deep"],
)
def test_a_damaged_archive_leaves_no_folder(get, server, to, content):
    server.files["photos.zip"] = content
    with pytest.raises(DataError):
        get("photos.zip")
    assert left_in(to) == ["photos.zip"]


@pytest.mark.parametrize("name", CATALOGUE)
def test_published_sets_have_licence_citation_address_md5_and_a_name_as_data(name):
    published = CATALOGUE[name]
    assert published.licence
    assert "20" in published.citation
    for file in published.files:
        assert file.url.startswith("https://")
        assert file.md5 is None or len(bytes.fromhex(file.md5)) == 16
    kind, _, place = published.data.format(folder="to").partition(":")
    assert kind in FORMS
    assert Path(place).name in {"to", *(file.result for file in published.files)}


def test_a_fetched_set_can_be_read(server, to):
    picture = io.BytesIO()
    Image.new("RGB", (32, 24), (200, 150, 120)).save(picture, "PNG")
    photos = {f"ISIC_2019_Training_Input/ISIC_{n}.jpg": picture.getvalue() for n in range(2)}
    server.files = {
        "ISIC_2019_Training_GroundTruth.csv": b"image,MEL,NV\nISIC_0,1.0,0.0\nISIC_1,0.0,1.0\n",
        "ISIC_2019_Training_Metadata.csv": b"image,lesion_id\nISIC_0,a\nISIC_1,b\n",
        "ISIC_2019_Training_Input.zip": zip_of(photos),
    }
    fetch("isic2019", to, mirror=server.url)
    dataset = load_dataset(CATALOGUE["isic2019"].data.format(folder=to))
    assert dataset.groups == ("a", "b")
    assert dataset.images[0].read().image.ndim == 3
