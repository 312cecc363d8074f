"""Uploaded files, read chunk by chunk, and limits on them that hold before they fill the memory."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http import HTTPStatus

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from misgiving.serve.problems import ProblemError, too_busy
from misgiving.serve.settings import Settings

# Line ends among others, and NUL, which databases refuse
CONTROL = re.compile(r"[\0-\x1f\x7f-\x9f\u2028\u2029]")
RAW = (b"image/", b"application/octet-stream")
MAX_NAME = 255  # characters
OVERHEAD_BYTES = 10_000  # boundary and headers of one file, at most
MAX_HEAD_BYTES = 8_000  # headers of one file
ACCEPTED = (
    "send multipart/form-data with image files, or one image as image/* or application/octet-stream"
)


Upload = tuple[str, bytes | None]
"""Name and content of a file; None if the content exceeds the limit for one file."""


class Admission:
    """Counts queued images and the bytes of requests in progress; for the event loop's thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.images = self.held_bytes = 0

    @contextmanager
    def request(self) -> Iterator["Share"]:
        """The share of one request, which is given back at its end."""
        share = Share(self)
        try:
            yield share
        finally:
            self.images -= share.images
            self.held_bytes -= share.held_bytes

    def check(self, *, images: int = 0, held_bytes: int = 0) -> None:
        """Raise ProblemError for images beyond the queue, or bytes beyond the requests' memory."""
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


class Share:
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


async def read_uploads(
    request: Request, name: str, share: Share, settings: Settings
) -> list[Upload]:
    """Read all files of a request; the name is that of an image that is the body itself.

    Raises:
        ProblemError: The body is of another type, malformed or too large, or the queue is full.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > _longest_body(settings):
        raise _body_too_large(settings)
    if kind == b"multipart/form-data":
        form = _Multipart(options.get(b"boundary", b""), share, settings)
        return await form.read(request.stream())
    if kind.startswith(RAW):
        content = await _read_raw(request, share, settings)
        return [(clean_name(name), content)]
    raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, ACCEPTED)


def clean_name(name: str) -> str:
    """Remove control characters from a file name, and shorten it to the usual limit."""
    return CONTROL.sub("\ufffd", name)[:MAX_NAME] or "image"


async def _read_raw(request: Request, share: Share, settings: Settings) -> bytes:
    share.take(images=1)
    content = bytearray()
    async for chunk in request.stream():
        share.take(held_bytes=len(chunk))
        content += chunk
        if len(content) > settings.max_bytes:
            raise _too_large(f"the image has more than {settings.max_bytes} bytes; scale it down")
    return bytes(content)


def _longest_body(settings: Settings) -> int:
    all_files = settings.max_files * (settings.max_bytes + OVERHEAD_BYTES)
    return min(all_files, settings.max_held_bytes)


def _body_too_large(settings: Settings) -> ProblemError:
    return _too_large(
        f"a request may have {_longest_body(settings)} bytes; send the files in several requests"
    )


def _too_large(detail: str) -> ProblemError:
    return ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)


class _Multipart:
    """Collects the files of a multipart body while it arrives."""

    def __init__(self, boundary: bytes, share: Share, settings: Settings) -> None:
        if not boundary:
            raise _malformed("its Content-Type names no boundary")
        self._share, self._settings = share, settings
        self._uploads: list[Upload] = []
        self._field = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._content = bytearray()
        self._complete = False
        with _parser_errors_explained():
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

    async def read(self, chunks: AsyncIterator[bytes]) -> list[Upload]:
        length = 0
        async for chunk in chunks:
            length += len(chunk)
            if length > _longest_body(self._settings):
                raise _body_too_large(self._settings)
            with _parser_errors_explained():
                self._parser.write(chunk)
        if not self._complete:
            raise _malformed("it ends before its last boundary")
        if not self._uploads:
            raise _malformed("it has no file")
        return self._uploads

    def _begin(self) -> None:
        self._headers, self._content = {}, bytearray()
        self._head = 0
        self._too_long = False
        self._name = ""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._count_head(end - start)
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_head(end - start)
        self._value += data[start:end]

    def _count_head(self, length: int) -> None:
        self._head += length
        if self._head > MAX_HEAD_BYTES:
            raise _malformed(f"the headers of a file have more than {MAX_HEAD_BYTES} bytes")

    def _end_header(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if b"filename" not in options:
            field = options.get(b"name", b"").decode(errors="replace")
            raise _malformed(f"the field {field!r} has no file name; send each image as a file")
        if len(self._uploads) == self._settings.max_files:
            raise _too_large(
                f"a request may have {self._settings.max_files} files; send several requests"
            )
        self._share.take(images=1)
        self._name = clean_name(options[b"filename"].decode(errors="replace"))

    def _data(self, data: bytes, start: int, end: int) -> None:
        """Drop a file that is too large; the other files still count."""
        if self._too_long:
            return
        if len(self._content) + end - start > self._settings.max_bytes:
            self._too_long, self._content = True, bytearray()
            return
        self._share.take(held_bytes=end - start)
        self._content += data[start:end]

    def _end_part(self) -> None:
        self._uploads.append((self._name, None if self._too_long else bytes(self._content)))

    def _end(self) -> None:
        self._complete = True


@contextmanager
def _parser_errors_explained() -> Iterator[None]:
    try:
        yield
    except FormParserError as error:
        raise _malformed(str(error)) from error


def _malformed(reason: str) -> ProblemError:
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY, f"the body cannot be used: {reason}; {ACCEPTED}"
    )
