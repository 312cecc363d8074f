"""Bodies that are too large, too slow, broken or of another type, over a real connection.

The service has no limits on connections; the example of a reverse proxy has.
"""

import http.client
import json
import os
import re
import select
import shutil
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

import h11
import httpx
import numpy as np
import pytest
from corpus import encoded
from PIL import Image
from services import address, standin_at, started
from standin import picture
from waiting import until

from misgiving.serve.connections import Requests

MULTIPART = "multipart/form-data; boundary=xyz"
LIMITS = {"max_bytes": 100_000, "max_files": 4, "timeout": 2.0}
EXAMPLE = Path(__file__).parents[2] / "examples" / "service" / "nginx.conf"
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
MAIN = """
daemon off;
master_process off;
error_log stderr;
pid {folder}/pid;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    {paths}
    {example}
}}
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    place = tmp_path_factory.mktemp("limits") / "cases.sqlite"
    with standin_at(str(place), **LIMITS) as (_, client):
        until(lambda: client.get("/health").json()["status"] == "ok")  # a process has started
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
def test_a_body_that_cannot_be_used_is_a_problem_and_its_client_can_go_on(client):
    connection = http.client.HTTPConnection(*address(client), timeout=60)
    for body, kind, status in (
        (b"x" * 150_000, "image/png", 413),  # may have come as a whole when it is refused
        (b"x" * 4_000_000, "image/png", 413),  # a client that sends all of it before it reads
        (multipart(*[part(picture())] * 5), MULTIPART, 422),
        (b"", MULTIPART, 422),
        (part(picture()), MULTIPART, 422),
        (part(picture()) + part(picture(0.9))[:-9], MULTIPART, 422),  # cut in its second file
        (multipart(part(picture())), f"{MULTIPART}; charset=undefined", 422),
        (multipart(part(picture())), "multipart/form-data", 422),
        (multipart(part(b"", field="f" * 9_000)), MULTIPART, 422),
        (multipart(part(picture())).replace(b"filename", b"other"), MULTIPART, 422),
        (picture(), None, 415),
        (b"<svg onload=alert(1)>", "image/svg+xml", 422),
    ):
        connection.request("POST", "/decisions", body, {"Content-Type": kind} if kind else {})
        response = connection.getresponse()
        told = json.load(response)
        assert response.status == told["status"] == status, told
        assert response.headers["Content-Type"] == "application/problem+json"
        if len(body) != 150_000:
            assert response.headers["Connection"] == ("close" if len(body) > 10**6 else None)
    connection.close()


@pytest.mark.usefixtures("nothing_stored")
def test_a_form_of_what_begins_like_boundaries_is_not_parsed(client):
    """Their parser needs seconds for a few megabytes, in which nobody else is answered."""
    body = multipart(part(b"\r\n--xyzx" * 10_000))
    response = client.post("/decisions", content=body, headers={"Content-Type": MULTIPART})
    assert response.status_code == 422
    assert "it has more than 4 files" in response.json()["detail"]


def test_a_form_in_tiny_chunks_is_read_to_its_last_boundary(client):
    body = multipart(part(picture()), part(picture(0.9)))
    pieces = (body[at : at + 3] for at in range(0, len(body), 3))
    response = client.post("/decisions", content=pieces, headers={"Content-Type": MULTIPART})
    assert response.status_code == 200
    assert len(response.json()["results"]) == 2


@pytest.mark.usefixtures("nothing_stored")
def test_a_header_of_many_options_is_not_parsed(client):
    """Each of them made the next one slower: a hundred parts took 170 ms of all others."""
    body = multipart(part(picture(), name='a"' + ";" * 3800))
    response = client.post("/decisions", content=body, headers={"Content-Type": MULTIPART})
    assert response.status_code == 422
    assert "more than 20 options" in response.json()["detail"]


def raw(client, *pieces, pause=0.0):
    """Send pieces until there is a response, and return all that arrives until the end."""
    received = b""
    with socket.create_connection(address(client), timeout=60) as connection:
        with suppress(OSError):  # it was closed on us
            for piece in pieces:
                if select.select([connection], [], [], pause)[0]:
                    break
                connection.sendall(piece)
        with suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                received += piece
    return received


def head(length, request="POST /decisions"):
    lines = [f"{request} HTTP/1.1", "Host: localhost", "Content-Type: image/png"]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


CHUNKED = head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
END = b"Host: localhost\r\nConnection: close\r\n\r\n"
CLOSED = CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


@pytest.mark.usefixtures("nothing_stored")
def test_a_body_that_comes_too_slowly_or_is_endless_is_cut_off(client):
    data = picture()
    slow = raw(client, head(len(data)), *(bytes([byte]) for byte in data[:16]), pause=0.2)
    assert b"408 Request Timeout" in slow
    assert b"2 seconds" in slow
    declared = raw(client, head(10**15), b"x" * 1000)
    assert declared.startswith(b"HTTP/1.1 413")
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    unknown = raw(client, CHUNKED, *[chunk] * 40, pause=0.02)
    assert unknown.startswith(b"HTTP/1.1 413")
    assert b"100000 bytes" in unknown


def test_an_answer_before_the_whole_body_ends_the_connection_soon(client):
    data = b"x" * 5_000_000  # more than sockets buffer
    with httpx.Client(base_url=client.base_url, timeout=60) as other:
        for _ in range(5):  # it sends everything before it reads
            answer = other.post("/health", content=data)
            assert (answer.status_code, answer.headers["Connection"]) == (405, "close")
    for start, block in ((CHUNKED, b"1\r\nx\r\n" * 10_000), (head(10**12), data)):
        with socket.create_connection(address(client), timeout=60) as connection:
            connection.sendall(start.replace(b"/decisions", b"/health"))
            assert connection.recv(65536).startswith(b"HTTP/1.1 405")
            connection.sendall(block)  # which would be refused after a reset
            with suppress(ConnectionError):
                while True:
                    connection.sendall(block)


@pytest.mark.usefixtures("nothing_stored")
def test_an_endless_head_is_refused(client):
    get = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    for start, piece in (
        (get + b"X: ", b"x" * 65536),
        (b"GET /", b"x" * 65536),
        (get, b"X: x\r\n" * 10_000),
    ):
        answer = raw(client, start, *[piece] * 40, pause=0.02)
        assert answer.startswith(b"HTTP/1.1 400 ")
    assert b" 200 " not in raw(client, CHUNKED + b"0\r\nX: ", b"x" * 200_000)  # after a body


@pytest.mark.parametrize(
    "made",
    [
        lambda count: b"GET /health HTTP/1.1\r\n" + b"a:\r\n" * count + END,
        lambda count: b"GET /page" + b"/a" * count + b" HTTP/1.1\r\n" + END,
        lambda count: b"GET /health?" + b"a&" * count + b" HTTP/1.1\r\n" + END,
        lambda count: b"GET /page" + b"%2Fa" * count + b" HTTP/1.1\r\n" + END,
        lambda count: b"GET / HTTP/1.1\r\nContent-Type: a" + b";" * count + b"\r\n" + END,
        lambda count: CLOSED + b"0\r\n" + b"a:\r\n" * count + b"\r\n",
    ],
    ids=["head", "path", "query", "encoded", "field", "trailer"],
)
def test_a_request_of_many_small_parts_is_refused_before_they_are_parsed(client, made):
    """Fifty clients with 60 kB of them each made others wait for ten seconds."""
    assert raw(client, made(101)).startswith(b"HTTP/1.1 400 Bad Request")
    assert not raw(client, made(90)).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_a_request_is_read_in_whatever_pieces_it_comes(size):
    chunks = b"3\r\nabc\r\n" * 9 + b"0\r\n"
    for trailer in (b"\r\n", b"a: b\r\nc: d\r\n\r\n"):
        parser, events, sent = Requests(), [], CHUNKED + chunks + trailer
        for at in range(0, len(sent), size):
            parser.receive_data(sent[at : at + size])
            parser.left = 100
            while (event := parser.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                events.append(event)
        assert isinstance(events[-1], h11.EndOfMessage)
        data = [bytes(event.data) for event in events if isinstance(event, h11.Data)]
        assert b"".join(data) == b"abc" * 9


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\na:" + b"\t" * 15_000 + b"\x0b\r\n" + END,
        b"GET / HTTP/1.1\r\na: " + b"x" * 65_000 + b"\r\n" + END,
        CLOSED.replace(b"/decisions", b"/sign-in") + b"1;" + b" " * 15_000 + b"\n\r\n",
    ],
    ids=["control character", "length", "chunk"],
)
def test_a_head_that_is_slow_to_refuse_is_refused_before(client, request_):
    assert raw(client, request_).startswith(b"HTTP/1.1 400 Bad Request")
    parser = Requests()
    parser.left = 3
    parser.receive_data(request_)
    with pytest.raises(h11.RemoteProtocolError, match=r"^a (head|chunk) .* too long"):  # by `Lines`
        list(iter(parser.next_event, None))
    assert client.get("/health").status_code == 200
    failures = [
        line for line in client.get("/metrics").text.split("\n") if "failures_total{" in line
    ]
    assert [line for line in failures if not line.endswith(" 0.0")] == []  # it is their sender's


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


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    """Addresses of the proxy, which waits for a second, and of the service behind it."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    folder = tmp_path_factory.mktemp("proxy")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = listener.getsockname()
    with standin_at(str(folder / "cases.sqlite"), keep_images=str(folder / "kept")) as (_, client):
        example = re.sub(r" *ssl_.*\n", "", EXAMPLE.read_text())
        example = example.replace("443 ssl", "{}:{}".format(*proxy))
        example = example.replace("127.0.0.1:8000", client.base_url.netloc.decode())
        example = re.sub(r"(client_\w+_timeout) \w+;", r"\1 1s;", example)
        names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "\n".join(f"{name}_temp_path {folder}/{name};" for name in names)
        text = MAIN.format(folder=folder, paths=paths, example=example)
        (folder / "nginx.conf").write_text(text)
        with started([NGINX, "-e", "stderr", "-c", str(folder / "nginx.conf")]):
            with socket.socket() as connection:
                until(lambda: connection.connect_ex(proxy) == 0)
            yield proxy, address(client)


def client_of(where, source="127.0.0.1"):
    transport = httpx.HTTPTransport(local_address=source)
    return httpx.Client(base_url="http://{}:{}".format(*where), transport=transport, timeout=60.0)


def test_a_request_that_does_not_come_is_ended(proxied):
    for begin in (b"GET / HTTP/1.1\r\nX: ", head(50) + b"a"):
        with socket.create_connection(proxied[0], timeout=60) as connection:
            connection.sendall(begin)
            assert connection.recv(12) in (b"", b"HTTP/1.1 408")


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux lists connections")
def test_a_client_that_does_not_read_keeps_nothing_of_the_service(proxied):
    def established():
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        return any(row[1].endswith(f":{service[1]:04X}") and row[3] == "01" for row in rows)

    proxy, service = proxied
    noise = np.random.default_rng(0).integers(256, size=(2400, 2400, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), compress_level=0)  # more than sockets buffer
    with client_of(proxy) as sender, socket.socket() as connection:
        answer = sender.post("/decisions", content=data, headers={"Content-Type": "image/png"})
        path = f"/cases/{answer.json()['results'][0]['case']['id']}/image"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(proxy)
        connection.sendall(head(0, f"GET {path}"))
        assert connection.recv(12) == b"HTTP/1.1 200"  # and no more
        until(lambda: not established())
        assert sender.get(path).content == data


def test_bodies_and_the_requests_of_one_client_are_limited(proxied):
    proxy, _ = proxied
    with client_of(proxy) as sender:  # the service answers before the proxy has sent the body
        for _ in range(5):
            answer = sender.post("/decisions", content=b"x" * 5_000_000)
            assert (answer.status_code, answer.json()["title"]) == (415, "Unsupported Media Type")
    for path, length in (("/cases/a/review", 200_000), ("/decisions", 70_000_000)):
        with socket.create_connection(proxy, timeout=60) as connection:
            connection.sendall(head(length, f"POST {path}"))
            assert connection.recv(12) == b"HTTP/1.1 413"
    with ExitStack() as opened, client_of(proxy) as same, client_of(proxy, "127.0.0.2") as other:
        for _ in range(64):
            connection = opened.enter_context(socket.create_connection(proxy))
            connection.sendall(head(10**6) + b"a")
        until(lambda: same.get("/health").status_code == 429)
        assert other.get("/health").status_code == 200
