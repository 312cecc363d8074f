"""Limits on what clients send: length and time of a body, queue, memory."""

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from misgiving.serve.problems import too_busy
from misgiving.serve.settings import Settings

SMALL_BODY = 100_000  # bytes; for everything but images
STREAMED = ("/decisions",)  # routes that limit their bodies themselves
DRAINED_BYTES = 4 * 2**20  # or one file, if that is larger
DRAINED_SECONDS, IDLE_SECONDS = 10.0, 2.0


class BodyLimits:
    """Cuts off bodies that are too long or too slow.

    A response that does not wait for the whole body is sent at once; then the rest of the body is
    read and dropped, within limits. Closing the connection earlier could reset it before a client
    that is still sending has read the response.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self._app, self._timeout = app, settings.timeout
        self._drained_bytes = max(DRAINED_BYTES, settings.max_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(Headers(scope=scope), receive, send, self._drained_bytes)
        if scope["path"] not in STREAMED:
            body.limit(SMALL_BODY, self._timeout)
        await self._app(scope, body.receive, body.send)


class _Body:
    """The body of one request, and the response to it."""

    def __init__(self, headers: Headers, receive: Receive, send: Send, drained_bytes: int) -> None:
        self._receive, self._send, self._drained_bytes = receive, send, drained_bytes
        declared = headers.get("content-length", "0")
        known = declared.isdecimal() and "transfer-encoding" not in headers
        self._declared = int(declared) if known else None
        self._complete = self._declared == 0
        self._length = 0
        self._max_bytes: float = math.inf
        self._deadline: float | None = None

    def limit(self, max_bytes: int, seconds: float) -> None:
        self._max_bytes = max_bytes
        self._deadline = asyncio.get_running_loop().time() + seconds

    async def receive(self) -> Message:
        if self._complete:  # the caller waits for the client to disconnect
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._next()
        except TimeoutError as error:
            raise HTTPException(
                HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive in time"
            ) from error
        if self._length > self._max_bytes:
            raise HTTPException(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the body may have at most {self._max_bytes} bytes",
            )
        return message

    async def _next(self) -> Message:
        message = await self._receive()
        self._length += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)  # as after a disconnect
        return message

    async def send(self, message: Message) -> None:
        if self._complete:
            await self._send(message)
        elif message["type"] == "http.response.start":
            declared = math.inf if self._declared is None else self._declared
            ends_soon = declared - self._length <= self._drained_bytes
            if not ends_soon or message["status"] == HTTPStatus.REQUEST_TIMEOUT:
                MutableHeaders(scope=message)["Connection"] = "close"
            await self._send(message)
        elif message.get("more_body", False):
            await self._send(message)
        else:
            await self._send({**message, "more_body": True})
            await self._drain()
            await self._send({"type": "http.response.body", "body": b""})

    async def _drain(self) -> None:
        until = self._length + self._drained_bytes
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAINED_SECONDS):
                while not self._complete and self._length <= until:
                    async with asyncio.timeout(IDLE_SECONDS):
                        await self._next()


class Admission:
    """Counts queued images and the bytes of requests in progress; for the event loop's thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.images = self.held_bytes = 0

    @contextmanager
    def request(self) -> Iterator["Ticket"]:
        """The share of one request, returned at its end."""
        ticket = Ticket(self)
        try:
            yield ticket
        finally:
            self.images -= ticket.images
            self.held_bytes -= ticket.held_bytes

    def check(self, *, images: int = 0, held_bytes: int = 0) -> None:
        """Refuse images beyond the queue, and bytes beyond the memory for requests."""
        if self.images + images > self._settings.queue:
            raise too_busy(
                f"{self.images} images are waiting, and the queue holds {self._settings.queue}; "
                "send the request again after the seconds in Retry-After"
            )
        if self.held_bytes + held_bytes > self._settings.max_held_bytes:
            raise too_busy(
                "the requests in progress use all of their memory; send the request again after "
                "the seconds in Retry-After"
            )


class Ticket:
    """The share of one request in the queue and the memory."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.images = self.held_bytes = 0

    def take(self, *, images: int = 0, held_bytes: int = 0) -> None:
        """Reserve room in the queue, and memory."""
        self._admission.check(images=images, held_bytes=held_bytes)
        self._admission.images += images
        self._admission.held_bytes += held_bytes
        self.images += images
        self.held_bytes += held_bytes
