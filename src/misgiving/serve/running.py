"""The application behind a socket."""

import asyncio
import ctypes
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from misgiving.errors import UsageError
from misgiving.serve.authentication import is_loopback
from misgiving.serve.logs import log_as_json
from misgiving.serve.settings import Settings

CONNECTIONS = 1000  # at once; more get 503
LAST_PORT = 65535
MMAP_THRESHOLD, LARGE_BLOCK = -3, 2**20  # mallopt(3)
ARENA_MAX, ARENAS = -8, 2
HEAD_SECONDS = 10.0  # in which a connection must have sent the head of a request


class _Impatient(HttpToolsProtocol):
    """Closes a connection on which no whole head of a request comes."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._awaited = self.loop.call_later(HEAD_SECONDS, self._close_unless_asked)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._idle() and self._awaited.cancelled():
            self._awaited = self.loop.call_later(HEAD_SECONDS, self._close_unless_asked)
        elif not self._idle():
            self._awaited.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._awaited.cancel()
        super().connection_lost(exc)

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_unless_asked(self) -> None:
        if self._idle() and not self.transport.is_closing():
            self.transport.close()


def listen(host: str, port: int, *, has_key: bool) -> socket.socket:
    """A socket that listens.

    Raises:
        UsageError: There is no key and others than this machine could ask, or it cannot listen.
    """
    if not has_key and not is_loopback(host):
        raise UsageError(
            f"--host {host} lets other machines ask, which needs a key: give --api-key-file or "
            "MISGIVING_API_KEY"
        )
    if not 0 <= port <= LAST_PORT:
        raise UsageError(f"--port must be from 0 to {LAST_PORT}, got {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=CONNECTIONS)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}, port {port} ({error.strerror or error}); choose others with "
            "--host and --port"
        ) from error


def address(listener: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def read_key(file: Path | None, variable: str | None) -> str | None:
    """The API key from a file, or else from the environment; None: there is none."""
    if file is None:
        return variable
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8"
        raise UsageError(f"--api-key-file {file}: cannot be read ({reason})") from error
    if not key:
        raise UsageError(f"--api-key-file {file}: is empty; write a key into it")
    return key


def run(app: FastAPI, listener: socket.socket, settings: Settings) -> None:
    """Serve until the process is told to stop; requests that have begun are answered first."""
    log_as_json(names=settings.log_names)
    _give_memory_back()
    config = uvicorn.Config(app, **_configuration(settings))
    uvicorn.Server(config).run(sockets=[listener])


def _give_memory_back() -> None:
    """Let go of an image's memory once it is a square.

    The C library of most Linux systems would keep some for each thread that decodes: it takes the
    first large block that is freed for the size of blocks that are worth keeping, and has smaller
    ones in a heap of each thread's own.
    """
    with suppress(OSError, AttributeError):
        allocator = ctypes.CDLL(None)
        allocator.mallopt(MMAP_THRESHOLD, LARGE_BLOCK)
        allocator.mallopt(ARENA_MAX, ARENAS)


def _configuration(settings: Settings) -> dict[str, Any]:
    return {
        "http": _Impatient,
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "limit_concurrency": CONNECTIONS,
        "timeout_graceful_shutdown": round(settings.timeout) + 1,
    }
