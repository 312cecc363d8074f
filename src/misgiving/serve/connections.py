"""Limits on connections: their number, and the length and time of the head of a request."""

import asyncio
import heapq

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CONNECTIONS = 1000  # at once; more get 503
ROOM = 50  # idle connections that are closed at once where there are too many
HEAD_SECONDS = 10.0  # for the head of a request
LONGEST_HEAD = 65_536  # bytes
TOO_LONG = f"the head of the request has more than {LONGEST_HEAD} bytes\n"
REFUSAL = (
    "HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: text/plain; charset=utf-8\r\n"
    f"Content-Length: {len(TOO_LONG)}\r\nConnection: close\r\n\r\n{TOO_LONG}"
).encode()
UNREAD_SECONDS = 30.0  # in which a client reads some of a response
LEAVING_SECONDS = 1.0  # in which what a refused client still sends is dropped


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
        if len(self.connections) >= CONNECTIONS:
            self._make_room()
        self._timer = self.loop.call_later(HEAD_SECONDS, self._close_if_idle)
        self._unread: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > LONGEST_HEAD:
            self._refuse()
        if self._idle() and self._timer.cancelled():
            self._timer = self.loop.call_later(HEAD_SECONDS, self._close_if_idle)
        elif not self._idle():
            self._timer.cancel()

    def on_headers_complete(self) -> None:
        self._head_bytes = len(self.url) + sum(
            len(name) + len(value) for name, value in self.headers
        )
        if self._head_bytes > LONGEST_HEAD:
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
        if self._head_bytes <= LONGEST_HEAD:
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
        self.transport.write(REFUSAL)
        self.transport.write_eof()
        self.loop.call_later(LEAVING_SECONDS, self.transport.abort)

    def _make_room(self) -> None:
        others = (one for one in self.connections if isinstance(one, LimitedConnection))
        idle = [one for one in others if one is not self and one._idle()]
        for one in heapq.nsmallest(ROOM, idle, key=lambda one: one._idle_since):
            self.connections.discard(one)  # at once, though it is lost a little later
            one.transport.abort()

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_if_idle(self) -> None:
        if self._idle() and not self.transport.is_closing():
            self.transport.close()
