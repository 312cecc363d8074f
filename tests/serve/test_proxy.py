"""The limits on connections, which the example of a reverse proxy has and the service has not."""

import os
import re
import shutil
import socket
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from services import address, standin_at, started
from standin import picture
from waiting import until

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
HEAD = "{} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n"


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
    for begin in ("GET / HTTP/1.1\r\nX: ", HEAD.format("POST /decisions", 50) + "a"):
        with socket.create_connection(proxied[0], timeout=60) as connection:
            connection.sendall(begin.encode())
            assert connection.recv(12) in (b"", b"HTTP/1.1 408")


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux lists connections")
def test_a_client_that_does_not_read_keeps_nothing_of_the_service(proxied):
    def established():
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        return any(row[1].endswith(f":{service[1]:04X}") and row[3] == "01" for row in rows)

    proxy, service = proxied
    data = picture(size=(2400, 2400), kind="TIFF")  # more than sockets buffer
    with client_of(proxy) as sender, socket.socket() as connection:
        answer = sender.post("/decisions", content=data, headers={"Content-Type": "image/tiff"})
        path = f"/cases/{answer.json()['results'][0]['case']['id']}/image"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(proxy)
        connection.sendall(HEAD.format(f"GET {path}", 0).encode())
        assert connection.recv(12) == b"HTTP/1.1 200"  # and no more
        until(lambda: not established())
        assert sender.get(path).content == data


def test_bodies_and_the_requests_of_one_client_are_limited(proxied):
    proxy, _ = proxied
    for path, length in (("/cases/a/review", 200_000), ("/decisions", 70_000_000)):
        with socket.create_connection(proxy, timeout=60) as connection:
            connection.sendall(HEAD.format(f"POST {path}", length).encode())
            assert connection.recv(12) == b"HTTP/1.1 413"
    with ExitStack() as opened, client_of(proxy) as same, client_of(proxy, "127.0.0.2") as other:
        for _ in range(64):
            connection = opened.enter_context(socket.create_connection(proxy))
            connection.sendall(HEAD.format("POST /decisions", 10**6).encode() + b"a")
        until(lambda: same.get("/health").status_code == 429)
        assert other.get("/health").status_code == 200
