"""What some send costs others little: chunks of a byte, and images that are slow to decode."""

import asyncio
import multiprocessing
import signal
import socket
import statistics
import time
from asyncio import Transport
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from unittest.mock import Mock, create_autospec

import httpx
import numpy as np
import pytest
import uvicorn
from corpus import encoded
from PIL import Image
from services import address, standin_at
from standin import with_key
from uvicorn.server import ServerState

from misgiving.serve import connections
from misgiving.serve.connections import MOST_EVENTS, Connection

HEAD = "\r\n".join(["POST {} HTTP/1.1", "Host: localhost", "Content-Type: image/png", "{}", "", ""])
CHUNKED = "Transfer-Encoding: chunked"
TINY = b"1\r\nx\r\n"


def test_a_body_in_tiny_chunks_is_parsed_in_turns_that_become_rarer_with_their_number(monkeypatch):
    """Against the protocol itself, with a clock that the test holds."""

    async def read(_, receive, __):
        await receive()
        await receive()

    async def run():
        loop = Mock(wraps=asyncio.get_running_loop())

        def attacking():
            connection = Connection(config, state, {}, loop)
            connection.connection_made(transport := create_autospec(Transport, instance=True))
            transport.is_closing.return_value = False
            connection.data_received(HEAD.format("/", CHUNKED).encode() + TINY * 1000)
            return connection, transport

        config, state = uvicorn.Config(read, http=Connection), ServerState()
        for number in (1, 2, 3):
            connection, transport = attacking()
            assert len(connection.cycle.body) == MOST_EVENTS - 1  # the head is one, too
            (seconds, go_on), _ = loop.call_later.call_args
            assert seconds == number * connections.REST_SECONDS
            assert transport.pause_reading.called
        await asyncio.sleep(0)  # the application asks for more
        assert not transport.resume_reading.called
        go_on()
        assert transport.resume_reading.called
        assert len(connection.cycle.body) == MOST_EVENTS
        assert not transport.close.called
        monkeypatch.setattr(connections, "MOST_RESTING", 3)
        _, transport = attacking()
        assert transport.close.called
        for task in state.tasks:
            task.cancel()

    monkeypatch.setattr(connections.Flow, "resting", set())
    asyncio.run(run())


def attack(where, heads, addresses, block, stop):
    """Send each head, and a body without end or again and again; for a process of its own."""

    def send(number, head):
        while not stop.is_set():
            with suppress(OSError), socket.socket() as connection:
                connection.settimeout(5 if b"chunked" in head else 60)
                connection.bind((f"127.0.0.{2 + number % addresses}", 0))
                connection.connect(where)
                connection.sendall(head)
                while not stop.is_set():
                    connection.sendall(block)
                    if b"chunked" not in head and connection.recv(65536):
                        connection.sendall(head)
            time.sleep(0.02)

    with ThreadPoolExecutor(len(heads)) as threads:
        list(threads.map(send, range(len(heads)), heads))


def megabytes(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def timed(send, seconds):
    """Seconds of each request until these have passed."""
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        begin = time.monotonic()
        assert send().status_code == 200
        times.append(time.monotonic() - begin)
        time.sleep(0.02)
    return times


def check_honest_clients(place, heads, addresses, block, most):
    """While others attack, an honest client and whoever asks for the health are answered soon."""
    honest, stop, shades = with_key(place, "send", "honest"), multiprocessing.Event(), count()

    def upload():
        noise = np.random.default_rng(next(shades)).integers(256, size=(96, 96, 3), dtype=np.uint8)
        headers = honest | {"Content-Type": "image/png"}
        return client.post("/decisions", content=encoded(Image.fromarray(noise)), headers=headers)

    with standin_at(place, threads=1, timeout=30.0) as (process, client):
        timed(upload, 2.0)
        before = megabytes(process)
        arguments = address(client), heads, addresses, block, stop
        attacker = multiprocessing.Process(target=attack, args=arguments)
        attacker.start()
        with ThreadPoolExecutor(1) as threads:
            health = threads.submit(timed, lambda: httpx.get(f"{client.base_url}/health"), 12.0)
            uploads, health = timed(upload, 12.0), health.result()
        grown, begin = megabytes(process) - before, time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(120)
        ended = time.monotonic() - begin
        stop.set()
        attacker.join()
    print(f"uploads {statistics.median(uploads):.3f} s, at most {max(uploads):.3f} s")
    print(f"health {max(health):.3f} s, memory {grown:.0f} MB, SIGTERM {ended:.1f} s")
    assert statistics.median(uploads) <= most
    assert max(health) <= 1
    assert ended <= 5
    assert grown <= 150


@pytest.mark.soak
@pytest.mark.parametrize("key", ["wrong", "valid"])
@pytest.mark.parametrize(("connections", "addresses"), [(1, 1), (8, 1), (4, 4), (50, 50)])
def test_tiny_chunks_keep_nobody_waiting(sqlite_place, key, connections, addresses):
    valid = with_key(sqlite_place, "send", "attacker")["Authorization"]
    secret = valid if key == "valid" else "Bearer wrong"
    head = HEAD.format("/decisions", f"{CHUNKED}\r\nAuthorization: {secret}").encode()
    check_honest_clients(sqlite_place, [head] * connections, addresses, TINY * 20_000, 0.3)


@pytest.mark.soak
@pytest.mark.parametrize("keys", [1, 4])
@pytest.mark.parametrize("scans", [64, 2800])
def test_slow_images_keep_nobody_waiting_but_their_sender(sqlite_place, keys, scans):
    start = encoded(Image.new("RGB", (7000, 7000)), "JPEG", progressive=True)
    begin = start.index(b"\xff\xda")
    data = start[:begin] + b"\xff\xda\0\x08\1\1\0\0\0\0" * scans
    secrets = [with_key(sqlite_place, "send", str(n))["Authorization"] for n in range(keys)] * 16
    heads = [
        HEAD.format(
            "/decisions", f"Content-Length: {len(data)}\r\nAuthorization: {secret}"
        ).encode()
        for secret in secrets[:16]
    ]
    check_honest_clients(sqlite_place, heads, 4, data, 1.0)
