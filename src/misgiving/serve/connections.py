"""Connections that share the event loop fairly, and that end so that their answer is still read."""

import asyncio
import re
import socket
from contextlib import suppress
from typing import Any, ClassVar

import h11
from h11._receivebuffer import ReceiveBuffer
from uvicorn.protocols.http.flow_control import CLOSE_HEADER, FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_EVENTS = 128  # that are parsed before others have their turn; each chunk of a body is one
REST_SECONDS = 0.01  # until the next events, for each connection that had more of them
MOST_RESTING = 256  # connections; each may hold what the system gives in one read
LINGER_SECONDS = 1.0  # for which a client can still send what it is no longer asked for
DISCARDED_BYTES = 1 << 18  # at a time
MOST_PARTS = 100  # lines of a head, parts of its fields, folders of a path, values of a query
MOST_BYTES = 64_000  # of a head or trailer: metadata of 4,000 characters may take 48,000
MOST_OF_LINE = 200  # bytes of the line before a chunk
# h11 refuses them as well, after a time that grows with the square of the spaces before them
FORBIDDEN = re.compile(rb"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n|\Z)")


class Lines(ReceiveBuffer):
    """The bytes that were received, of which a head or trailer has few parts: each takes time."""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """The lines of a head or trailer, once it is complete."""
        end = self._data.find(b"\r\n\r\n")
        head = self._data[: end + 2 if end >= 0 else None]
        path, _, query = head.partition(b"\n")[0].partition(b"?")
        folders = path.count(b"/") + path.count(b"%")  # which may stand for one
        count = max(folders, query.count(b"&"), *map(head.count, (b"\n", b";", b",")))
        if len(head) > MOST_BYTES or count > MOST_PARTS or FORBIDDEN.search(head):
            raise h11.RemoteProtocolError("a head that is too long, of too many parts or malformed")
        return super().maybe_extract_lines()

    def maybe_extract_next_line(self) -> bytearray | None:
        """The line before a chunk."""
        line = super().maybe_extract_next_line()
        if line and len(line) > MOST_OF_LINE:
            raise h11.RemoteProtocolError("a chunk whose first line is too long")
        return line


class Requests(h11.Connection):
    """The parser of a connection, which stops after some events until it is called again."""

    left = 0

    def __init__(self) -> None:
        super().__init__(h11.SERVER)
        self._receive_buffer = Lines()

    def next_event(self) -> Any:
        """The next event, as long as there may be one in this turn."""
        if not self.left:
            return h11.NEED_DATA
        self.left -= 1
        return super().next_event()

    def send(self, event: Any) -> Any:
        """The bytes of an event; an answer before the whole body ends the connection."""
        if isinstance(event, h11.Response) and self.their_state is h11.SEND_BODY:
            headers = [*event.headers, CLOSE_HEADER]
            event = h11.Response(
                status_code=event.status_code, headers=headers, reason=event.reason
            )
        return super().send(event)


class Flow(FlowControl):
    """Reads nothing from a connection that rests."""

    resting: ClassVar[set["Flow"]] = set()

    def resume_reading(self) -> None:
        """Read again, unless the connection rests."""
        if self not in self.resting:
            super().resume_reading()


class Connection(H11Protocol):
    """A connection that rests after many events, so that all of those together take little time."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn: Requests = Requests()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to read."""
        super().connection_made(transport)
        self.flow: Flow = Flow(transport)

    def handle_events(self) -> None:
        """Parse some events, and then rest if there may be more."""
        self.conn.left = MOST_EVENTS
        super().handle_events()
        if not self.conn.left and len(Flow.resting) == MOST_RESTING:
            self.transport.close()
        elif not self.conn.left:
            self.flow.pause_reading()
            Flow.resting.add(self.flow)
            self.loop.call_later(REST_SECONDS * len(Flow.resting), self._go_on)

    def _go_on(self) -> None:
        Flow.resting.discard(self.flow)
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self.handle_events()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the client send the rest: closed at once, the system would drop the answer."""
        Flow.resting.discard(self.flow)
        if exc is None and self.conn.their_state in (h11.SEND_BODY, h11.ERROR):
            task = self.loop.create_task(_linger(self.transport.get_extra_info("socket").dup()))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        super().connection_lost(exc)


async def _linger(connection: socket.socket) -> None:
    """Send no more, and read what still comes for some time, without parsing it."""
    loop = asyncio.get_running_loop()
    with connection, suppress(OSError):  # TimeoutError among them
        connection.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(LINGER_SECONDS):
            while await loop.sock_recv(connection, DISCARDED_BYTES):
                await asyncio.sleep(0)  # others have their turn
