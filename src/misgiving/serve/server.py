"""The application behind a socket, by uvicorn, with limits on connections."""

import asyncio
import heapq
import socket
from contextlib import suppress
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from threadpoolctl import threadpool_limits
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from misgiving.errors import UsageError, explain_damage
from misgiving.serve.middleware import is_loopback, log_as_json
from misgiving.serve.settings import Settings

OPEN_FILES = 4096  # of which connections, the database and image files take a part
BACKLOG = 256  # connections that are accepted before any of them is looked at

MAX_CONNECTIONS = 1000  # at once; more get 503
CLOSED_TOGETHER = 50  # idle connections that are closed at once where there are too many
HEAD_SECONDS = 10.0  # for the head of a request
MAX_HEAD_BYTES = 65_536
TOO_LONG = f"the head of the request has more than {MAX_HEAD_BYTES} bytes\n"
HEAD_TOO_LONG = (
    "HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: text/plain; charset=utf-8\r\n"
    f"Content-Length: {len(TOO_LONG)}\r\nConnection: close\r\n\r\n{TOO_LONG}"
).encode()
UNREAD_SECONDS = 30.0  # in which a client reads some of a response
LEAVING_SECONDS = 1.0  # in which what a refused client still sends is dropped


def listen(host: str, port: int, *, has_key: bool) -> socket.socket:
    """Open a listening socket.

    Raises:
        UsageError: Other machines could connect without a key, or the socket cannot be opened.
    """
    if not has_key and not is_loopback(host):
        raise UsageError(
            f"`host` {host} lets other machines connect, which needs a key: give `api_key_file` or "
            "MISGIVING_API_KEY"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}, port {port} ({error.strerror or error}); choose another "
            "host or port"
        ) from error


def address(listener: socket.socket) -> str:
    """The URL for a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def read_key(file: Path | None, variable: str | None) -> str | None:
    """The API key from a file, else from the environment variable's value, else None.

    Raises:
        DataError: The file is missing, or is no text.
    """
    if file is None:
        return variable
    with explain_damage(file, remedy="write a key into it with: openssl rand -hex 32"):
        return file.read_text(encoding="utf-8").strip()


def run(app: FastAPI, listener: socket.socket, settings: Settings) -> None:
    """Serve until the process is told to stop, and then finish the requests in progress."""
    log_as_json()
    _allow_open_files()
    config = uvicorn.Config(
        app,
        http=LimitedConnection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        backlog=BACKLOG,
        timeout_graceful_shutdown=round(settings.timeout) + 1,
    )
    with threadpool_limits(1, "blas"):  # more would wait for each other and for the graph's threads
        uvicorn.Server(config).run(sockets=[listener])


def _allow_open_files() -> None:
    """Raise the soft limit on open files, up to the hard limit."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < limit:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


class LimitedConnection(HttpToolsProtocol):
    """Closes a connection on which the head of a request is too long or too slow.

    Also one whose client does not read the response, which would keep it in memory.

    Where there are too many connections, those that have been idle for longest are closed, so that
    idle ones lock nobody out.

    The parser itself would keep any number of bytes before a body, and copy them at every piece.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_bytes, self._refused = 0, False
        self._idle_since = self.loop.time()
        if len(self.connections) >= MAX_CONNECTIONS:
            self._make_room()
        self._timer = self.loop.call_later(HEAD_SECONDS, self._close_if_idle)
        self._unread: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse()
        if self._idle() and self._timer.cancelled():
            self._timer = self.loop.call_later(HEAD_SECONDS, self._close_if_idle)
        elif not self._idle():
            self._timer.cancel()

    def on_headers_complete(self) -> None:
        self._head_bytes = len(self.url) + sum(
            len(name) + len(value) for name, value in self.headers
        )
        if self._head_bytes > MAX_HEAD_BYTES:
            raise OverflowError(TOO_LONG)  # the parser passes on an error of its own
        self._head_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._read()
        super().resume_writing()

    def _read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()

    def send_400_response(self, msg: str) -> None:
        if self._head_bytes <= MAX_HEAD_BYTES:
            super().send_400_response(msg)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._read()
        super().connection_lost(exc)

    def _refuse(self) -> None:
        """Answer, and let the client read it before the end; where it comes after a body, end."""
        self._refused = True
        if not self._idle():
            self.transport.abort()
            return
        self.transport.write(HEAD_TOO_LONG)
        self.transport.write_eof()
        self.loop.call_later(LEAVING_SECONDS, self.transport.abort)

    def _make_room(self) -> None:
        others = self.connections - {self}
        idle = [other for other in others if isinstance(other, LimitedConnection) and other._idle()]
        for connection in heapq.nsmallest(
            CLOSED_TOGETHER, idle, key=lambda other: other._idle_since
        ):
            self.connections.discard(connection)  # at once, though it is lost a little later
            connection.transport.abort()

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_if_idle(self) -> None:
        if self._idle() and not self.transport.is_closing():
            self.transport.close()
