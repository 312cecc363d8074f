"""`misgiving serve` as people start it, and its limits on connections."""

import asyncio
import shutil
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest
from bundled import policy_of
from commands import one_line
from policies import write
from services import ask, standin_at
from standin import KEY, picture
from test_limits import GET, head, is_closed
from waiting import until

from misgiving.bundle import export_run as exporting
from misgiving.bundle.bundle import Bundle
from misgiving.checkpoint import load
from misgiving.cli.serve import _bundle
from misgiving.errors import DataError
from misgiving.manifests import seal
from misgiving.serve import server
from misgiving.serve.middleware import Authentication
from misgiving.serve.settings import Settings


def test_a_run_is_exported_while_it_is_served(exported, monkeypatch):
    made, copies = {}, lambda run, out, **_: made.update({run: shutil.copytree(exported[1], out)})
    monkeypatch.setattr(exporting, "export_run", copies)
    with _bundle(exported[0], None, 1) as bundle:
        assert bundle.fingerprint == Bundle.load(exported[1]).fingerprint
    assert not made[exported[0]].exists()


def test_arguments_that_cannot_be_used_are_explained(misgiving, exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("key\n")
    Path("binary").write_bytes(b"\xff" * 40)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for options, reason in (
            (["--host", "::"], "MISGIVING_API_KEY"),
            (["--port", port], str(port)),
            (["--max-files", 300], "--max-files"),
            (["--api-key-file", "short"], "16 characters"),
            (["--api-key-file", "binary"], "binary"),
            (["--cases", "missing.csv"], "missing.csv"),
            (["--keep-images", "short", "--port", 0], "short: File exists"),
            (["--second-opinion", "two=runs/two", "--port", 0], "--second-opinion"),
        ):
            code, _, error = misgiving("serve", exported[1], "--store", "cases.sqlite", *options)
            assert code in (1, 2)
            assert reason in one_line(error)
    assert not Path("cases.sqlite").exists()
    unaudited = ("--port", 0, "--store", "cases.sqlite", "--after-alarm", "defer")
    code, _, error = misgiving("serve", exported[1], *unaudited)
    assert (code, "--audit-share" in one_line(error)) == (2, True)
    code, _, error = misgiving("serve", tmp_path, "--port", 0)
    assert (code, str(tmp_path) in one_line(error)) == (1, True)


def test_a_policy_that_decides_batches_is_refused_in_one_line(
    misgiving, exported, tmp_path, monkeypatch
):
    monkeypatch.setattr(server, "run", lambda *_: None)
    folder = shutil.copytree(exported[1], tmp_path / "bundle")
    write(policy_of(load(exported[0]), guarantee="average"), folder)
    (folder / "checksums.json").unlink()
    seal(folder)
    code, _, error = misgiving("serve", folder, "--port", 0)
    assert code == 1
    assert "for batches of at least 50 images, got 1;" in one_line(error)
    assert not [*tmp_path.glob("*.sqlite*")]


def test_other_machines_are_admitted_with_a_key_from_the_file_or_the_environment(tmp_path):
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert server.read_key(tmp_path / "key", "of the environment") == KEY
    assert server.read_key(None, "of the environment\n") == "of the environment"
    for content in ("", "two\nlines\n", "two words"):
        (tmp_path / "key").write_text(content)
        with pytest.raises(DataError):
            server.read_key(tmp_path / "key", None)
    with server.listen("0.0.0.0", 0, has_key=True) as listener:
        assert server.address(listener).startswith("http://0.0.0.0:")


def test_a_connection_without_a_request_is_closed(sqlite_place):
    with standin_at(sqlite_place, idle_seconds=0.5) as (_, where):
        begun = time.monotonic()
        with socket.create_connection(where, timeout=60) as connection:
            connection.sendall(GET + b"\r\n")
            assert b"200 OK" in connection.recv(65536)
            connection.sendall(b"GET /")
            until(lambda: is_closed(connection))
            assert time.monotonic() - begun > 0.4


def test_idle_connections_lock_nobody_out(sqlite_place):
    data = picture()
    options = {"max_connections": 10, "ended_together": 2, "idle_seconds": 3600}
    with standin_at(sqlite_place, **options) as (_, where), ExitStack() as opened:

        def connect():
            return opened.enter_context(socket.create_connection(where, timeout=60))

        busy = connect()
        busy.sendall(head(len(data)) + data[:10])
        metrics = "http://{}:{}/metrics".format(*where)
        until(lambda: b"held_bytes 10.0" in urlopen(metrics).read())
        idle = [connect() for _ in range(50)]
        for _ in range(3):
            assert ask(where, "GET", "/health")[0] == 200
        until(lambda: is_closed(idle[0]))
        idle[-1].sendall(GET + b"\r\n")
        busy.sendall(data[10:])
        for connection in (idle[-1], busy):
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux lists connections")
def test_a_client_that_does_not_read_is_disconnected(sqlite_place, tmp_path):
    data = picture(size=(2400, 2400), kind="TIFF")  # more than sockets buffer
    options = {"keep_images": str(tmp_path / "kept"), "unread_seconds": 0.2, "idle_seconds": 0.5}
    with standin_at(sqlite_place, **options) as (_, where), socket.socket() as connection:
        (result,) = ask(where, "POST", "/decisions", data)[2]["results"]
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        until(lambda: connections_to(where) == 0)
        connection.connect(where)
        path = f"/cases/{result['case']['id']}/image"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert connection.recv(12) == b"HTTP/1.1 200"  # and no more
        until(lambda: connections_to(where) == 0)
        assert urlopen("http://{}:{}{}".format(*where, path)).read() == data


def connections_to(where):
    """Number of established ones."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return sum(row[1].endswith(f":{where[1]:04X}") and row[3] == "01" for row in rows)


def test_a_small_answer_does_not_wait_for_the_client_to_acknowledge_the_last():
    with (
        server.listen("127.0.0.1", 0, has_key=False) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_one_request_begins_in_a_round_of_the_event_loop_and_an_upload_at_once():
    begun, rounds = [], [0]

    async def app(scope, *_):
        begun.append((scope["path"], rounds[0]))

    async def count_rounds():
        while len(begun) < 6:
            rounds[0] += 1
            await asyncio.sleep(0)

    async def main():
        guard = Authentication(app, settings=Settings())
        scope = {"type": "http", "method": "GET", "headers": [(b"host", b"localhost")]}
        paths = ["/"] * 5 + ["/decisions"]
        asked = (guard({**scope, "path": path}, None, None) for path in paths)
        await asyncio.gather(count_rounds(), *asked)

    asyncio.run(main())
    assert begun[0][0] == "/decisions"
    assert len({number for _, number in begun}) == 6
