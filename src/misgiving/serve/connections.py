"""Limits on one connection: the length of the head of a request, and the time until it is there."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0  # for the head of a request
LONGEST_HEAD = 65_536  # bytes
TOO_LONG = f"the head of the request has more than {LONGEST_HEAD} bytes\n"
REFUSAL = (
    "HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: text/plain; charset=utf-8\r\n"
    f"Content-Length: {len(TOO_LONG)}\r\nConnection: close\r\n\r\n{TOO_LONG}"
).encode()
LEAVING_SECONDS = 1.0  # in which what a refused client still sends is dropped


class LimitedConnection(HttpToolsProtocol):
    """Closes a connection on which the head of a request is too long or too slow.

    The parser itself would keep any number of bytes before a body, and copy them at every piece.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_bytes, self._refused = 0, False
        self._timer = self.loop.call_later(HEAD_SECONDS, self._close_if_idle)

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

    def send_400_response(self, msg: str) -> None:
        if self._head_bytes <= LONGEST_HEAD:
            super().send_400_response(msg)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
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

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_if_idle(self) -> None:
        if self._idle() and not self.transport.is_closing():
            self.transport.close()
