import errno
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections import defaultdict
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from misgiving.data.datasets import load_dataset
from misgiving.data.fetching import archives as archives_module
from misgiving.data.fetching import transfer as transfer_module
from misgiving.data.fetching.catalogue import CATALOGUE, PublishedFile, PublishedSet
from misgiving.data.fetching.fetch import fetch
from misgiving.data.fetching.transfer import Patience
from misgiving.errors import DataError, UsageError

CONTENT = bytes(np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8))


class Site:
    """A web server whose answers to a path can be prescribed; it then serves properly."""

    def __init__(self):
        self.content = {}
        self.etags = defaultdict(lambda: '"first"')
        self.prescribed = defaultdict(list)
        self.requests = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def ranges(self, path):
        return [headers.get("Range") for asked, headers in self.requests if asked == path]


def handler_of(site):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.close_connection = True
            site.requests.append((self.path, dict(self.headers)))
            answers = site.prescribed[self.path]
            answer = answers.pop(0) if answers else serve
            with suppress(BrokenPipeError, ConnectionResetError):
                answer(self, site.content.get(self.path), site.etags[self.path])

        def log_message(self, *_):
            pass

        def head(self, status, **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()

    return Handler


def serve(handler, content, etag):
    """RFC 9110 for one range, with If-Range."""
    if content is None:
        handler.head(404, Content_Length=0)
        return
    start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
    if handler.headers.get("If-Range", etag) != etag:
        start = 0
    if start >= len(content) > 0:
        handler.head(416, Content_Range=f"bytes */{len(content)}", Content_Length=0)
    elif start:
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        handler.head(206, Content_Range=span, Content_Length=len(content) - start, ETag=etag)
    else:
        handler.head(200, Content_Length=len(content), ETag=etag)
    handler.wfile.write(content[start:])


def breaks_after(count, *, served=serve):
    def answer(handler, content, etag):
        written, write = [0], handler.wfile.write

        def limited(data):
            if b"HTTP/1.1" in data[:8]:
                return write(data)
            part = data[: count - written[0]]
            written[0] += len(part)
            return write(part)

        handler.wfile.write = limited
        served(handler, content, etag)

    return answer


def ignores_range(handler, content, etag):
    handler.head(200, Content_Length=len(content), ETag=etag)
    handler.wfile.write(content)


def ignores_if_range(handler, content, etag):
    del handler.headers["If-Range"]
    serve(handler, content, etag)


def other_range(handler, content, etag):
    handler.head(
        206,
        Content_Range=f"bytes 10-{len(content) - 1}/{len(content)}",
        ETag=etag,
        Content_Length=len(content) - 10,
    )
    handler.wfile.write(content[10:])


def status(code):
    def answer(handler, *_):
        handler.head(code, Content_Length=0)

    return answer


def redirects(location):
    def answer(handler, *_):
        handler.head(302, Location=location, Content_Length=0)

    return answer


def declares(length):
    def answer(handler, content, etag):
        handler.head(200, Content_Length=length, ETag=etag)
        handler.wfile.write(content)

    return answer


def endless(handler, *_):
    handler.head(200)
    while True:
        handler.wfile.write(b"\0" * 10_000)


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


@pytest.fixture
def waits():
    return []


@pytest.fixture
def get(site, tmp_path, waits, monkeypatch):
    """Publish one file and fetch it."""

    def get(
        name="images.npz",
        content=CONTENT,
        *,
        urls=None,
        mirror=None,
        keep=False,
        patience=None,
        **facts,
    ):
        site.content.setdefault(f"/{name}", content)
        file = PublishedFile(name=name, urls=urls or (f"{site.url}/{name}",), **facts)
        published = PublishedSet(
            description="a toy",
            licence="CC0",
            citation="Toy (2020)",
            data="medmnist:{folder}",
            files=(file,),
        )
        monkeypatch.setitem(CATALOGUE, "toy", published)
        patience = patience or Patience(timeout=5.0, retries=3, sleep=waits.append)
        return fetch("toy", tmp_path / "to", mirror=mirror, keep_archives=keep, patience=patience)

    return get


@pytest.fixture
def to(tmp_path):
    return tmp_path / "to"


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def zip_of(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


# --- a file -------------------------------------------------------------------------------------


def test_a_fetched_file_is_the_published_one_and_nothing_else_is_left(get, to):
    get(size=len(CONTENT), md5=md5(CONTENT))
    assert left_in(to) == ["fetched.json", "images.npz"]
    assert (to / "images.npz").read_bytes() == CONTENT


def test_the_record_names_file_address_and_checksum(get, site, to):
    get()
    noted = json.loads((to / "fetched.json").read_text())["files"]["images.npz"]
    assert noted["url"] == f"{site.url}/images.npz"
    assert noted["bytes"] == len(CONTENT)
    assert noted["sha256"] == hashlib.sha256(CONTENT).hexdigest()


def test_the_result_has_files_licence_and_citation(get, to):
    fetched = get()
    assert (fetched.written, fetched.found) == ((to / "images.npz",), ())
    assert (fetched.published.licence, fetched.published.citation) == ("CC0", "Toy (2020)")
    assert fetched.data == f"medmnist:{to}"


@pytest.mark.parametrize("known", [True, False])
def test_a_finished_file_is_not_fetched_again(get, site, to, known):
    facts = {"md5": md5(CONTENT)} if known else {}
    get(**facts)
    fetched = get(**facts)
    assert (fetched.written, fetched.found) == ((), (to / "images.npz",))
    assert len(site.requests) == 1


def test_a_file_that_is_there_and_is_another_is_never_replaced(get, to):
    to.mkdir()
    (to / "images.npz").write_bytes(b"mine")
    with pytest.raises(DataError, match="is not what was fetched"):
        get(md5=md5(CONTENT))
    assert (to / "images.npz").read_bytes() == b"mine"


def test_a_file_without_published_md5_that_was_not_fetched_is_never_replaced(get, to):
    to.mkdir()
    (to / "images.npz").write_bytes(CONTENT)
    with pytest.raises(DataError, match="move it away"):
        get()


def test_progress_is_reported_up_to_the_whole_file(get, to):
    told = []
    get()
    shutil.rmtree(to)
    fetch("toy", to, report=lambda *told_now: told.append(told_now))
    assert told[-1] == ("images.npz", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})


def test_a_mirror_holds_the_files_under_their_own_names(get, site, to):
    site.content["/pub/images.npz"] = CONTENT
    get(urls=("http://127.0.0.1:9/number?format=original",), mirror=f"{site.url}/pub/")
    assert (to / "images.npz").read_bytes() == CONTENT


@pytest.mark.parametrize("mirror", ["file:///etc", "ftp://host/x", "host/x", "http://[x"])
def test_a_mirror_that_is_no_web_address_is_refused(get, mirror):
    with pytest.raises(UsageError, match="not a web address"):
        get(mirror=mirror)


def test_an_unknown_set_is_refused_with_the_known_names(to):
    with pytest.raises(UsageError, match="isic2019, ham10000"):
        fetch("cats", to)


def test_a_folder_that_is_a_file_is_refused(get, to):
    to.write_text("")
    with pytest.raises(UsageError, match="cannot be a folder"):
        get()


# --- interrupted transfers ----------------------------------------------------------------------


def test_a_transfer_that_is_interrupted_several_times_is_resumed(get, site, to, waits):
    site.prescribed["/images.npz"] = [breaks_after(100_000), breaks_after(50_000), status(503)]
    get(size=len(CONTENT), md5=md5(CONTENT))
    assert (to / "images.npz").read_bytes() == CONTENT
    assert site.ranges("/images.npz") == [None, "bytes=100000-", "bytes=150000-", "bytes=150000-"]
    assert waits == [1.0, 2.0, 4.0]


def test_a_transfer_that_keeps_breaking_off_can_be_resumed_by_the_next_call(get, site, to):
    site.prescribed["/images.npz"] = [breaks_after(20_000)] * 4
    with pytest.raises(DataError, match=r"after 80000 of 300000 bytes; run the same command again"):
        get()
    get()
    assert site.ranges("/images.npz")[-1] == "bytes=80000-"
    assert (to / "images.npz").read_bytes() == CONTENT


def test_progress_between_failures_is_met_with_patience(get, site, to, monkeypatch):
    monkeypatch.setattr(transfer_module, "PROGRESS", 20_000)
    site.prescribed["/images.npz"] = [breaks_after(20_000)] * 12
    get()
    assert (to / "images.npz").read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(get, site, to):
    site.prescribed["/images.npz"] = [breaks_after(100_000)] + [status(503)] * 3
    with pytest.raises(DataError):
        get()
    site.content["/images.npz"], site.etags["/images.npz"] = CONTENT[::-1], '"second"'
    get()
    assert (to / "images.npz").read_bytes() == CONTENT[::-1]


def test_a_changed_file_is_not_spliced_even_if_the_server_ignores_if_range(get, site, to):
    site.prescribed["/images.npz"] = [breaks_after(100_000)] + [status(503)] * 3
    with pytest.raises(DataError):
        get()
    site.content["/images.npz"], site.etags["/images.npz"] = CONTENT[::-1], '"second"'
    site.prescribed["/images.npz"] = [ignores_if_range]
    get()
    assert (to / "images.npz").read_bytes() == CONTENT[::-1]


def dated(handler, content, etag):
    handler.head(
        200,
        Content_Length=len(content),
        ETag=f"W/{etag}",
        Last_Modified="Sun, 01 Mar 2020 00:00:00 GMT",
    )
    handler.wfile.write(content)


@pytest.mark.parametrize(
    ("answer", "validator"),
    [(serve, '"first"'), (dated, "Sun, 01 Mar 2020 00:00:00 GMT")],
)
def test_a_resumed_transfer_asks_for_the_version_it_began_with(get, site, answer, validator):
    site.prescribed["/images.npz"] = [breaks_after(100_000, served=answer)]
    get()
    assert site.requests[1][1]["If-Range"] == validator


@pytest.mark.parametrize("answer", [ignores_range, other_range, status(416)])
def test_a_server_that_cannot_resume_gives_the_whole_file_again(get, site, to, answer):
    site.prescribed["/images.npz"] = [breaks_after(100_000), answer]
    get()
    assert (to / "images.npz").read_bytes() == CONTENT


def test_a_file_shorter_than_the_received_bytes_is_fetched_from_the_start(get, site, to):
    site.prescribed["/images.npz"] = [breaks_after(100_000)] + [status(503)] * 3
    with pytest.raises(DataError):
        get()
    site.content["/images.npz"] = CONTENT[:50_000]
    get()
    assert (to / "images.npz").read_bytes() == CONTENT[:50_000]


def test_without_a_validator_or_md5_nothing_is_spliced(get, site):
    site.etags["/images.npz"] = 'W/"weak"'
    site.prescribed["/images.npz"] = [breaks_after(100_000)]
    get()
    assert site.ranges("/images.npz") == [None, None]


def test_a_complete_partial_file_is_finished_without_the_server(get, site, to):
    get(md5=md5(CONTENT))
    url = f"{site.url}/images.npz"
    (to / "images.npz").rename(to / ".images.npz.download")
    version = {"url": url, "etag": '"first"', "modified": None, "total": len(CONTENT)}
    (to / ".images.npz.download.json").write_text(json.dumps(version))
    get(md5=md5(CONTENT))
    assert len(site.requests) == 1
    assert (to / "images.npz").read_bytes() == CONTENT


SLOW_FETCH = """
import sys
from pathlib import Path
from misgiving.data.fetching.catalogue import CATALOGUE, PublishedFile, PublishedSet
from misgiving.data.fetching.fetch import fetch
file = PublishedFile(name="images.npz", urls=(sys.argv[1],))
CATALOGUE["toy"] = PublishedSet(
    description="", licence="", citation="", data="", files=(file,)
)
fetch("toy", Path(sys.argv[2]))
"""


def test_a_killed_process_leaves_only_files_from_which_the_next_one_resumes(get, site, to):
    go = threading.Event()

    def stalls(handler, content, etag):
        handler.head(200, Content_Length=len(content), ETag=etag)
        handler.wfile.write(content[:200_000])
        go.wait(60)

    site.content["/images.npz"] = CONTENT
    site.prescribed["/images.npz"] = [stalls]
    process = subprocess.Popen([sys.executable, "-c", SLOW_FETCH, f"{site.url}/images.npz", to])
    partial, deadline = to / ".images.npz.download", time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    go.set()
    assert left_in(to) == [".images.npz.download", ".images.npz.download.json"]
    arrived = partial.stat().st_size
    get()
    assert site.ranges("/images.npz") == [None, f"bytes={arrived}-"]
    assert (to / "images.npz").read_bytes() == CONTENT


# --- faulty servers -----------------------------------------------------------------------------


def refused(get, to, match, **facts):
    with pytest.raises(DataError, match=match) as caught:
        get(**facts)
    assert "\n" not in str(caught.value)
    assert not (to / "images.npz").exists()
    return str(caught.value)


def test_wrong_bytes_are_removed(get, site, to):
    site.content["/images.npz"] = CONTENT[::-1]
    refused(get, to, "MD5", md5=md5(CONTENT))
    assert left_in(to) == []


def test_another_size_than_is_published_is_refused_before_it_comes(get, to):
    refused(get, to, "offers 300000 bytes where 300001 are published", size=300_001)
    assert left_in(to) == []


def test_an_endless_answer_is_stopped_where_the_size_is_known(get, site, to):
    site.prescribed["/images.npz"] = [endless]
    refused(get, to, "where 300000 are published", size=300_000)
    assert left_in(to) == []


def test_a_declared_length_that_is_too_long_is_a_broken_transfer(get, site, to):
    site.prescribed["/images.npz"] = [declares(400_000)] * 4
    refused(get, to, "after 300000 of 400000 bytes")


def test_a_declared_length_that_is_too_short_is_found_by_the_md5(get, site, to):
    site.prescribed["/images.npz"] = [declares(200_000)]
    refused(get, to, "MD5", md5=md5(CONTENT))


@pytest.mark.parametrize("code", [403, 404, 410])
def test_a_refusal_is_not_asked_for_again(get, site, to, code):
    site.prescribed["/images.npz"] = [status(code)] * 2
    refused(get, to, str(code))
    assert len(site.requests) == 1


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_momentary_failure_is_asked_for_again(get, site, to, code):
    site.prescribed["/images.npz"] = [status(code)] * 3
    get()
    assert (to / "images.npz").read_bytes() == CONTENT


def test_where_nobody_listens_the_error_is_one_line(get, to):
    refused(get, to, "no answer", urls=("http://127.0.0.1:9/images.npz",))


@pytest.mark.parametrize("wrong", [status(404), status(403), status(500), endless])
def test_the_next_address_is_tried_where_one_fails(get, site, to, wrong):
    site.prescribed["/old/images.npz"] = [wrong] * 4
    urls = (f"{site.url}/old/images.npz", f"{site.url}/images.npz")
    get(urls=urls, size=len(CONTENT))
    assert (to / "images.npz").read_bytes() == CONTENT


def test_no_other_address_starts_again_while_a_transfer_can_be_resumed(get, site, to):
    site.content["/old/images.npz"] = CONTENT
    site.prescribed["/old/images.npz"] = [breaks_after(100_000)] + [status(503)] * 3
    urls = (f"{site.url}/old/images.npz", f"{site.url}/images.npz")
    refused(get, to, "run the same command again to resume", urls=urls)
    assert site.ranges("/images.npz") == []


def test_a_transfer_is_resumed_where_it_began_even_if_an_earlier_address_is_back(get, site, to):
    site.content["/old/images.npz"] = CONTENT
    site.prescribed["/old/images.npz"] = [status(404)]
    site.prescribed["/images.npz"] = [breaks_after(100_000)] + [status(503)] * 3
    urls = (f"{site.url}/old/images.npz", f"{site.url}/images.npz")
    refused(get, to, "run the same command again to resume", urls=urls)
    get(urls=urls)
    assert site.ranges("/images.npz")[-1] == "bytes=100000-"


def test_a_redirect_to_another_web_address_is_followed_with_the_range(get, site):
    site.content["/new"] = CONTENT
    site.prescribed["/images.npz"] = [redirects("/new")] * 2
    site.prescribed["/new"] = [breaks_after(100_000)]
    get()
    assert site.ranges("/new") == [None, "bytes=100000-"]


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_a_redirect_to_something_other_than_a_web_address_is_refused(get, site, to, location):
    site.prescribed["/images.npz"] = [redirects(location)]
    refused(get, to, "redirects")


def test_redirects_in_a_circle_are_refused(get, site, to):
    site.prescribed["/images.npz"] = [redirects("/images.npz")] * 20
    refused(get, to, "302")


def test_a_web_page_in_place_of_the_file_is_refused(get, site, to):
    def page(handler, *_):
        handler.head(200, Content_Type="text/html; charset=utf-8", Content_Length=6)
        handler.wfile.write(b"log in")

    site.prescribed["/images.npz"] = [page]
    refused(get, to, "web page")


def test_a_range_of_unknown_length_is_measured_by_the_length_before(get, site, to):
    def unknown(handler, content, etag):
        span = f"bytes 100000-{len(content) - 1}/*"
        handler.head(206, Content_Range=span, Content_Length=50_000, ETag=etag)
        handler.wfile.write(content[100_000:150_000])

    site.prescribed["/images.npz"] = [breaks_after(100_000), unknown]
    get()
    assert (to / "images.npz").read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written_is_an_error_in_one_line(get, to, monkeypatch):
    def read_only(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "place")

    monkeypatch.setattr(transfer_module, "write_json", read_only)
    refused(get, to, "place: cannot be read or written")


def test_silence_is_given_up(get, site, to):
    silent = threading.Event()
    site.prescribed["/images.npz"] = [lambda *_: silent.wait(20)]
    refused(get, to, "timed out", patience=Patience(timeout=0.2, retries=0))
    silent.set()


@pytest.mark.parametrize(
    ("old", "new", "followed"),
    [("http", "https", True), ("https", "https", True), ("https", "http", False)],
)
def test_no_redirect_gives_up_encryption(old, new, followed):
    asked = transfer_module.Request(f"{old}://host/a")
    redirects = transfer_module._Redirects()
    request = redirects.redirect_request(asked, None, 302, "Found", {}, f"{new}://host/b")
    assert (request is not None) == followed


# --- room and company ---------------------------------------------------------------------------


def test_too_small_a_disk_is_refused_before_the_server_is_asked(get, site, to, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 299_999))
    refused(get, to, r"needs 0\.0 GB", size=300_000)
    assert site.requests == []


def test_too_small_a_disk_for_the_declared_length_is_refused(get, to, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 299_999))
    refused(get, to, "make room")


def test_a_second_process_is_refused(get, site, to):
    entered, leave = threading.Event(), threading.Event()

    def waits(handler, content, etag):
        entered.set()
        leave.wait(20)
        serve(handler, content, etag)

    site.prescribed["/images.npz"] = [waits]
    first = threading.Thread(target=get)
    first.start()
    entered.wait(20)
    try:
        with pytest.raises(DataError, match="another process is fetching"):
            fetch("toy", to)
    finally:
        leave.set()
        first.join()
    assert (to / "images.npz").read_bytes() == CONTENT


# --- archives -----------------------------------------------------------------------------------

MEMBERS = {"a.jpg": b"first", "b/c.jpg": b"second"}


def unpacked(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("within", ["", "photos/"])
def test_an_archive_is_unpacked_into_the_folder_of_its_name(get, to, within):
    content = zip_of({within + name: data for name, data in MEMBERS.items()})
    get("photos.zip", content)
    assert left_in(to) == ["fetched.json", "photos"]
    assert unpacked(to / "photos") == MEMBERS


def test_files_of_file_managers_are_not_unpacked(get, to):
    litter = {"__MACOSX/photos/._a.jpg": b"x", "photos/.DS_Store": b"x", "photos/._a.jpg": b"x"}
    content = zip_of({**litter, **{f"photos/{name}": data for name, data in MEMBERS.items()}})
    get("photos.zip", content)
    assert unpacked(to / "photos") == MEMBERS


def test_an_unpacked_archive_is_not_fetched_again(get, site, to):
    get("photos.zip", zip_of(MEMBERS))
    (to / "photos" / ".DS_Store").write_text("made by a file manager")
    (to / "photos" / ".ipynb_checkpoints").mkdir()
    (to / "photos" / ".ipynb_checkpoints" / "x.jpg").write_text("made by a notebook")
    assert get("photos.zip").found == (to / "photos",)
    assert len(site.requests) == 1


def test_an_unpacked_folder_without_one_of_its_files_is_refused(get, to):
    get("photos.zip", zip_of(MEMBERS))
    (to / "photos" / "a.jpg").unlink()
    with pytest.raises(DataError, match="move it away"):
        get("photos.zip")


def test_an_archive_is_kept_on_demand(get, to):
    get("photos.zip", zip_of(MEMBERS), keep=True)
    assert left_in(to) == ["fetched.json", "photos", "photos.zip"]


def test_an_archive_in_the_folder_is_unpacked_and_kept(get, site, to):
    to.mkdir()
    content = zip_of(MEMBERS)
    (to / "photos.zip").write_bytes(content)
    get("photos.zip", content, md5=md5(content))
    assert unpacked(to / "photos") == MEMBERS
    assert (to / "photos.zip").exists()
    assert site.requests == []


def test_another_archive_in_the_folder_is_refused(get, to):
    to.mkdir()
    (to / "photos.zip").write_bytes(zip_of({"x": b"mine"}))
    with pytest.raises(DataError, match="not the published file"):
        get("photos.zip", zip_of(MEMBERS), md5=md5(zip_of(MEMBERS)))


def link():
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    return info


def refused_archive(get, to, content, match):
    with pytest.raises(DataError, match=match) as caught:
        get("photos.zip", content)
    assert "\n" not in str(caught.value)
    assert not (to / "photos").exists()
    assert [name for name in left_in(to) if "zip" in name] == []
    assert [path for path in to.parent.rglob("*evil*")] == []


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil", "c:/evil", "."])
def test_a_member_that_leads_out_is_refused(get, to, name):
    refused_archive(get, to, zip_of({"a.jpg": b"x", name: b"evil"}), "leads out")


def test_a_link_in_an_archive_is_refused(get, to):
    refused_archive(get, to, zip_of({"a.jpg": b"x", link(): b"/etc"}), "not an ordinary file")


def test_a_truncated_archive_is_removed(get, to):
    refused_archive(get, to, zip_of(MEMBERS)[:-30], "not a valid zip archive")


def test_a_damaged_member_is_found_by_its_checksum(get, to):
    damaged = zip_of(MEMBERS).replace(b"first", b"First")
    refused_archive(get, to, damaged, "CRC")


def test_a_member_longer_than_declared_is_refused(get, to):
    content = zip_of({"a.jpg": b"x" * 1000})
    lying = content.replace((1000).to_bytes(4, "little") * 2, b"\xe8\x03\0\0\x0a\0\0\0")
    assert lying != content
    refused_archive(get, to, lying, "not a valid zip archive")


def test_an_archive_that_would_fill_the_disk_is_refused(get, to):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(10_000_000))
    refused_archive(get, to, file.getvalue(), "too many to be images")


def test_two_members_of_one_name_are_refused(get, to):
    refused_archive(get, to, zip_of({"a.jpg": b"x", "A.jpg": b"y"}), "same name")


def test_a_file_where_a_folder_must_be_is_refused(get, to):
    refused_archive(get, to, zip_of({"a": b"x", "a/b": b"y"}), "not a valid zip archive")


def test_an_archive_that_cannot_be_unpacked_for_lack_of_room_is_kept(get, site, to, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(archives_module.shutil, "copyfileobj", full)
        with pytest.raises(DataError, match="No space left"):
            get("photos.zip", zip_of(MEMBERS))
    get("photos.zip")
    assert unpacked(to / "photos") == MEMBERS
    assert len(site.requests) == 1


def test_room_for_archive_and_folder_is_asked_for_before_the_archive_comes(get, to, monkeypatch):
    content = zip_of({"a.jpg": CONTENT})
    room = len(content) + len(CONTENT) // 2
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, room))
    with pytest.raises(DataError, match="make room"):
        get("photos.zip", content)
    assert left_in(to) == [".photos.zip.download.json"]


def test_a_process_killed_after_unpacking_leaves_no_archive_for_good(get, to):
    get("photos.zip", zip_of(MEMBERS))
    (to / ".photos.zip.download").write_bytes(zip_of(MEMBERS))
    get("photos.zip")
    assert left_in(to) == ["fetched.json", "photos"]


# --- the catalogue ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CATALOGUE)
def test_published_files_have_web_addresses_and_md5_of_32_digits(name):
    for file in CATALOGUE[name].files:
        assert all(url.startswith("https://") for url in file.urls)
        assert file.md5 is None or len(bytes.fromhex(file.md5)) == 16


@pytest.mark.parametrize("name", CATALOGUE)
def test_published_sets_have_licence_and_citation(name):
    assert CATALOGUE[name].licence
    assert "20" in CATALOGUE[name].citation


def jpeg(colour=(200, 150, 120)):
    file = io.BytesIO()
    Image.new("RGB", (32, 24), colour).save(file, "PNG")
    return file.getvalue()


def without_checks(published):
    """The same set, whose stand-in files may have any size."""
    files = tuple(PublishedFile(name=file.name, urls=file.urls) for file in published.files)
    return PublishedSet(**{**vars(published), "files": files})


PARTS = ("train", "val", "test")


def npz():
    file = io.BytesIO()
    images = {f"{part}_images": np.zeros((2, 28, 28, 3), np.uint8) for part in PARTS}
    labels = {f"{part}_labels": np.array([[0], [1]], np.uint8) for part in PARTS}
    np.savez(file, **images, **labels)
    return file.getvalue()


TRUTH = "image,MEL,NV\nISIC_0000000,1.0,0.0\nISIC_0000001,0.0,1.0\n"
LESIONS = "image,lesion_id\nISIC_0000000,a\nISIC_0000001,b\n"
HAM = "lesion_id,image_id,dx\na,ISIC_0024306,mel\nb,ISIC_0024307,nv\n"
STAND_INS = {
    "isic2019": {
        "ISIC_2019_Training_GroundTruth.csv": TRUTH.encode(),
        "ISIC_2019_Training_Metadata.csv": LESIONS.encode(),
        "ISIC_2019_Training_Input.zip": zip_of(
            {f"ISIC_2019_Training_Input/ISIC_000000{n}.jpg": jpeg() for n in range(2)}
        ),
    },
    "ham10000": {
        "HAM10000_metadata.csv": HAM.encode(),
        "HAM10000_images_part_1.zip": zip_of({"ISIC_0024306.jpg": jpeg()}),
        "HAM10000_images_part_2.zip": zip_of({"ISIC_0024307.jpg": jpeg()}),
        "HAM10000_segmentations_lesion_tschandl.zip": zip_of(
            {"HAM10000_segmentations_lesion_tschandl/ISIC_0024306_segmentation.png": jpeg()}
        ),
    },
    "nct": {
        "CRC-VAL-HE-7K.zip": zip_of(
            {f"CRC-VAL-HE-7K/{name}/{name}-1.tif": jpeg() for name in ("ADI", "TUM")}
        ),
    },
    "dermamnist": {"dermamnist.npz": npz()},
    "dermamnist_c": {"dermamnist_corrected_28.npz": npz()},
    "pathmnist_224": {"pathmnist_224.npz": npz()},
}


@pytest.mark.parametrize("name", STAND_INS)
def test_a_fetched_set_can_be_read(name, site, to, monkeypatch):
    site.content = {f"/{file}": content for file, content in STAND_INS[name].items()}
    monkeypatch.setitem(CATALOGUE, name, without_checks(CATALOGUE[name]))
    dataset = load_dataset(fetch(name, to, mirror=site.url).data)
    assert len(dataset.classes) == 2
    assert dataset.images.read(0).image.ndim == 3


def test_the_masks_of_ham10000_are_found_beside_the_images(site, to, monkeypatch):
    site.content = {f"/{file}": content for file, content in STAND_INS["ham10000"].items()}
    monkeypatch.setitem(CATALOGUE, "ham10000", without_checks(CATALOGUE["ham10000"]))
    masks = load_dataset(fetch("ham10000", to, mirror=site.url).data).masks
    assert (Path(masks) / "ISIC_0024306_segmentation.png").is_file()
