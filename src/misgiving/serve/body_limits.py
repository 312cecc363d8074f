"""Small bodies for everything but images; `uploads` bounds those itself."""

import asyncio
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LONGEST = 100_000  # bytes
STREAMED = ("/decisions",)


class Bounding:
    """Cuts bodies off that are too long, or that do not come in time."""

    def __init__(self, app: ASGIApp, *, timeout: float) -> None:
        self._app, self._timeout = app, timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        bounded = scope["type"] == "http" and scope["path"] not in STREAMED
        await self._app(scope, _Bounded(receive, self._timeout) if bounded else receive, send)


class _Bounded:
    """The messages of one request."""

    def __init__(self, receive: Receive, timeout: float) -> None:
        self._receive, self._length, self._complete = receive, 0, False
        self._limit = asyncio.get_running_loop().time() + timeout

    async def __call__(self) -> Message:
        if self._complete:  # what is waited for now is that the client goes
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._limit):
                message = await self._receive()
        except TimeoutError as error:
            raise HTTPException(
                HTTPStatus.REQUEST_TIMEOUT, "the body did not come in time", {"Connection": "close"}
            ) from error
        self._complete = not message.get("more_body", False)
        self._length += len(message.get("body", b""))
        if self._length > LONGEST:
            raise HTTPException(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"a body may have {LONGEST} bytes here",
                {"Connection": "close"},
            )
        return message
