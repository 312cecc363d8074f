"""Bodies of requests: read as they come, and cut off at the limits, before they fill the memory."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import NamedTuple

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from misgiving.serve.admission import Ticket
from misgiving.serve.problems import ProblemError
from misgiving.serve.settings import Settings

CONTROL = re.compile(r"[\0-\x1f\x7f-\x9f\u2028\u2029]")  # ends lines; NUL is in no database
RAW = ("image/", "application/octet-stream")
LONGEST_NAME = 255
OVERHEAD = 10_000  # bytes of boundaries and headers that come with each file, at most
LONGEST_HEAD = 8_000  # bytes of the headers of one file
DRAINED_SECONDS = 2.0
ACCEPTED = (
    "send multipart/form-data with image files, or one image as image/* or application/octet-stream"
)


class Upload(NamedTuple):
    """One file of a request.

    Attributes:
        name: As the sender calls it.
        data: Its content; None where it is larger than a file may be.
    """

    name: str
    data: bytes | None


class Body:
    """What a client sends; chunk by chunk."""

    def __init__(self, request: Request) -> None:
        self._receive = request.receive
        self.complete = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while not self.complete:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            self.complete = not message.get("more_body", False)
            yield message.get("body", b"")

    async def drain(self, max_bytes: int) -> None:
        """Let go what is left, within limits.

        A client that is still sending would otherwise find its connection reset, and no answer.
        """
        length = 0
        with suppress(TimeoutError, ClientDisconnect):
            async with asyncio.timeout(DRAINED_SECONDS):
                async for chunk in self:
                    length += len(chunk)
                    if length > max_bytes:
                        return


async def read_uploads(
    request: Request, body: Body, ticket: Ticket, settings: Settings
) -> list[Upload]:
    """All files of a request.

    Raises:
        ProblemError: The body is of another type, broken or too large, or there is no room for it.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    _refuse_length(request, settings)
    if kind == b"multipart/form-data":
        reader = _Multipart(options.get(b"boundary", b""), ticket, settings)
        return await reader.read(body)
    if kind.startswith(tuple(prefix.encode() for prefix in RAW)):
        return [await _raw(request, body, ticket, settings)]
    raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, ACCEPTED)


def clean_name(name: str) -> str:
    """The name without control characters, and no longer than a file's name is."""
    return CONTROL.sub("\ufffd", name)[:LONGEST_NAME] or "image"


async def _raw(request: Request, body: Body, ticket: Ticket, settings: Settings) -> Upload:
    name = clean_name(request.query_params.get("name", ""))
    ticket.take_image()
    content = bytearray()
    async for chunk in body:
        ticket.take_bytes(len(chunk))
        content += chunk
        if len(content) > settings.max_bytes:
            raise _too_large(f"the image has more than {settings.max_bytes} bytes; scale it down")
    return Upload(name, bytes(content))


def _refuse_length(request: Request, settings: Settings) -> None:
    """Refuse what says of itself that it is too long, before any of it is read."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > _longest(settings):
        raise _too_large(
            f"a request may have {_longest(settings)} bytes; send the files in several requests"
        )


def _longest(settings: Settings) -> int:
    """Bytes of a request, whatever it is made of."""
    whole = settings.max_files * (settings.max_bytes + OVERHEAD)
    return min(whole, settings.max_held_bytes)


def _too_large(detail: str) -> ProblemError:
    return ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)


class _Multipart:
    """Gathers the files of a multipart body while it comes in."""

    def __init__(self, boundary: bytes, ticket: Ticket, settings: Settings) -> None:
        if not boundary:
            raise _broken("its Content-Type names no boundary")
        self._ticket, self._settings = ticket, settings
        self._uploads: list[Upload] = []
        self._field = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._content = bytearray()
        self._complete = False
        with _understood():
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_part_data": self._data,
                    "on_part_end": self._end_part,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._headers_finished,
                    "on_end": self._end,
                },
            )

    async def read(self, body: Body) -> list[Upload]:
        """The files, once the whole body is here."""
        length = 0
        async for chunk in body:
            length += len(chunk)
            if length > _longest(self._settings):
                raise _too_large(
                    f"a request may have {_longest(self._settings)} bytes; send the files in "
                    "several requests"
                )
            with _understood():
                self._parser.write(chunk)
        if not self._complete:
            raise _broken("it ends before its last boundary")
        if not self._uploads:
            raise _broken("it has no file")
        return self._uploads

    def _begin(self) -> None:
        self._headers, self._content = {}, bytearray()
        self._head = 0
        self._too_long = False
        self._name = ""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._refuse_head(end - start)
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._refuse_head(end - start)
        self._value += data[start:end]

    def _refuse_head(self, more: int) -> None:
        self._head += more
        if self._head > LONGEST_HEAD:
            raise _broken(f"the headers of a file have more than {LONGEST_HEAD} bytes")

    def _end_header(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if b"filename" not in options:
            field = options.get(b"name", b"").decode(errors="replace")
            raise _broken(f"its part {field!r} has no file name; send each image as a file")
        if len(self._uploads) == self._settings.max_files:
            raise _too_large(
                f"a request may have {self._settings.max_files} files; send them in several"
            )
        self._ticket.take_image()
        self._name = clean_name(options[b"filename"].decode(errors="replace"))

    def _data(self, data: bytes, start: int, end: int) -> None:
        """More of a file; what is too large is let go at once, and the other files still count."""
        if self._too_long:
            return
        if len(self._content) + end - start > self._settings.max_bytes:
            self._too_long, self._content = True, bytearray()
            return
        self._ticket.take_bytes(end - start)
        self._content += data[start:end]

    def _end_part(self) -> None:
        self._uploads.append(Upload(self._name, None if self._too_long else bytes(self._content)))

    def _end(self) -> None:
        self._complete = True


@contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except FormParserError as error:
        raise _broken(str(error)) from error


def _broken(why: str) -> ProblemError:
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY, f"the body cannot be used: {why}; {ACCEPTED}"
    )
