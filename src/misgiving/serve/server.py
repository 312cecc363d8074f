"""The application behind a socket, by uvicorn, with limits on connections."""

import asyncio
import resource
import socket
import sys
from contextlib import suppress
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from threadpoolctl import threadpool_limits
from uvicorn.protocols.http.h11_impl import H11Protocol

from misgiving.errors import Parameter, UsageError, explain_damage
from misgiving.serve.middleware import is_loopback, log_as_json

OPEN_FILES = 4096  # of which connections, the database and image files take a part
BACKLOG = 256  # connections that are accepted before any of them is looked at

MAX_CONNECTIONS = 1000  # at once
ENDED_TOGETHER = 50  # connections, where there are too many
IDLE_SECONDS = 10.0  # of a connection on which no request is in progress
MAX_HEAD_BYTES = 65_536  # of a request
SWITCH_SECONDS = 0.0005  # else the event loop waits 5 ms after a system call for other threads
STOPPING_SECONDS = 2  # for requests in progress


def listen(host: str, port: int, *, has_key: bool) -> socket.socket:
    """Open a listening socket.

    Raises:
        UsageError: Other machines could connect without a key, or the socket cannot be opened.
    """
    if not has_key and not is_loopback(host):
        raise UsageError(
            Parameter("host"),
            f" {host} lets other machines connect, which needs a key: give ",
            *(Parameter("api_key_file"), " or MISGIVING_API_KEY"),
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}, port {port} ({error.strerror or error}); choose another "
            "host or port"
        ) from error
    # asyncio sets it on its own sockets alone; else a small answer waits 40 ms for the client.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def address(listener: socket.socket) -> str:
    """The URL for a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def read_key(file: Path | None, variable: str | None) -> str | None:
    """The API key from a file, else from the environment variable's value, else None.

    Raises:
        DataError: The file is missing, or is not the text of one key.
    """
    if file is None:
        return variable and variable.strip()
    with explain_damage(file, remedy="write a key into it with: openssl rand -hex 32"):
        words = file.read_text(encoding="utf-8").split()
        if len(words) != 1:
            raise ValueError(f"{len(words)} words, where a key is one")
        return words[0]


def read_reviewer_keys(file: Path | None) -> dict[str, str]:
    """Names of readers by their keys, from lines of a key and a name.

    Raises:
        DataError: The file is missing, or a line has no name.
    """
    if file is None:
        return {}
    with explain_damage(file, remedy="give a line of KEY NAME for each reader"):
        lines = filter(str.strip, file.read_text(encoding="utf-8").splitlines())
        return {key: name.strip() for key, name in (line.split(maxsplit=1) for line in lines)}


def run(app: FastAPI, listener: socket.socket) -> None:
    """Serve until the process is told to stop, and then finish requests for some seconds."""
    sys.setswitchinterval(SWITCH_SECONDS)
    log_as_json()
    _allow_open_files()
    config = uvicorn.Config(
        app,
        http=Connection,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=STOPPING_SECONDS,
    )
    with threadpool_limits(1, "blas"):  # more would wait for each other and for the graph's threads
        uvicorn.Server(config).run(sockets=[listener])


def _allow_open_files() -> None:
    """Raise the soft limit on open files, up to the hard limit."""
    with suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < limit:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


class Connection(H11Protocol):
    """Ends a connection without a request: uvicorn has a limit of time between requests alone.

    Of too many connections, the oldest without a request end, and then those whose body does not
    come, so that they lock nobody out.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self.loop.time()
        self._timer = self.loop.call_later(IDLE_SECONDS, self._end_if_idle)
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def on_response_complete(self) -> None:
        self._since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _end_if_idle(self) -> None:
        if self.transport.is_closing() or (
            self._is_idle and self.loop.time() >= self._since + IDLE_SECONDS
        ):
            self.transport.abort()  # also where it is closed, but its client reads nothing
        else:
            self._timer = self.loop.call_later(IDLE_SECONDS, self._end_if_idle)

    def _make_room(self) -> None:
        open_ones = [other for other in self.connections if isinstance(other, Connection)]
        oldest_first = sorted(open_ones, key=lambda other: other._since)
        old = oldest_first[:-ENDED_TOGETHER]  # the newest may not have had the time for a request
        idle = [other for other in old if other._is_idle]
        others = [other for other in old if not other._is_idle and other.cycle.more_body]
        for other in [*idle, *others][:ENDED_TOGETHER]:
            self.connections.discard(other)  # at once, though it is lost a little later
            other.transport.abort()
