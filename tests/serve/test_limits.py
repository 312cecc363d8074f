"""Bodies that are too large, too slow, broken or of another type, over a real connection."""

import contextlib
import http.client
import json
import re
import select
import socket

import pytest
from services import address, standin_at
from standin import picture
from waiting import until

MULTIPART = "multipart/form-data; boundary=xyz"
LIMITS = {"max_bytes": 100_000, "max_files": 4, "timeout": 1.0}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    place = tmp_path_factory.mktemp("limits") / "cases.sqlite"
    with standin_at(str(place), **LIMITS) as (_, client):
        until(lambda: client.get("/health").status_code == 200)  # a process has started
        yield client


@pytest.fixture
def nothing_stored(client):
    before = client.get("/cases").json()["total"]
    yield
    assert client.get("/cases").json()["total"] == before


def part(data, name="a.png", field="files"):
    head = f'Content-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    return b"--xyz\r\n" + head.encode() + data + b"\r\n"


def multipart(*parts):
    return b"".join(parts) + b"--xyz--\r\n"


def test_a_file_that_is_too_large_does_not_affect_other_files(client):
    files = [("files", ("a.png", data)) for data in (b"x" * 100_001, picture(0.9))]
    response = client.post("/decisions", files=files)
    assert response.status_code == 200
    large, good = response.json()["results"]
    assert "a.png: more than 100000 bytes; scale it down" in large["problem"]["detail"]
    assert good["case"]["predicted_class"] == "light"


@pytest.mark.usefixtures("nothing_stored")
def test_a_body_that_cannot_be_used_is_a_problem_and_the_connection_stays_usable(client):
    connection = http.client.HTTPConnection(*address(client), timeout=60)
    for body, kind, status in (
        (b"x" * 150_000, "image/png", 413),  # its end comes after the refusal is certain
        (b"x" * 4_000_000, "image/png", 413),  # a client that sends all of it before it reads
        (multipart(*[part(picture())] * 5), MULTIPART, 422),
        (b"", MULTIPART, 422),
        (part(picture()), MULTIPART, 422),
        (multipart(part(picture())), "multipart/form-data", 422),
        (multipart(part(b"", field="f" * 9_000)), MULTIPART, 422),
        (multipart(part(picture())).replace(b"filename", b"other"), MULTIPART, 422),
        (picture(), None, 415),
        (b"<svg onload=alert(1)>", "image/svg+xml", 422),
    ):
        connection.request("POST", "/decisions", body, {"Content-Type": kind} if kind else {})
        response = connection.getresponse()
        assert response.status == json.load(response)["status"] == status, body[:99]
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.headers["Connection"] is None
    connection.close()


def raw(client, *pieces, pause=0.0):
    """Send pieces until there is a response, and return all that arrives until the end."""
    received = b""
    with socket.create_connection(address(client), timeout=60) as connection:
        with contextlib.suppress(OSError):  # it was closed on us
            for piece in pieces:
                if select.select([connection], [], [], pause)[0]:
                    break
                connection.sendall(piece)
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                received += piece
    return received


def head(length, kind="image/png"):
    return (
        f"POST /decisions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


@pytest.mark.usefixtures("nothing_stored")
def test_a_body_that_comes_too_slowly_or_is_endless_is_cut_off(client):
    data = picture()
    slow = raw(client, head(len(data)), *(bytes([byte]) for byte in data[:8]), pause=0.2)
    assert b"408 Request Timeout" in slow
    assert b"1 seconds" in slow
    chunked = head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    unknown = raw(client, chunked, *[chunk] * 40, pause=0.02)
    assert unknown.startswith(b"HTTP/1.1 413")
    assert b"100000 bytes" in unknown


@pytest.mark.usefixtures("nothing_stored")
def test_a_client_that_disconnects_leaves_nothing_behind(client):
    def disconnected():
        nonlocal metrics
        metrics = client.get("/metrics").text
        counts = re.findall(r'requests_total.*"/decisions",status="400"\} (.*)', metrics)
        return sum(map(float, counts))

    metrics = ""
    before = disconnected()
    for _ in range(5):
        with socket.create_connection(address(client)) as connection:
            connection.sendall(head(50_000) + b"x" * 1000)
    until(lambda: disconnected() == before + 5)
    until(lambda: disconnected() and "misgiving_held_bytes 0.0" in metrics)
    assert "misgiving_waiting_images 0.0" in metrics
    assert 'status="500"' not in metrics
