"""`POST /decisions`: images in, decisions out; limits that hold before bodies fill the memory."""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from misgiving.errors import DataError
from misgiving.serve.middleware import client_of
from misgiving.serve.problems import Metrics, Problem, ProblemError, documented, problem_of
from misgiving.serve.service import Service, ServiceDep
from misgiving.serve.settings import Settings, share_of_one
from misgiving.serve.store import Case

router = APIRouter(tags=["decisions"])
log = logging.getLogger("misgiving.serve")

BINARY = {"type": "string", "format": "binary"}
FILES = {
    "type": "object",
    "properties": {"files": {"type": "array", "items": BINARY, "minItems": 1}},
    "required": ["files"],
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": FILES},
            "image/*": {"schema": BINARY},
            "application/octet-stream": {"schema": BINARY},
        },
    }
}

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


ImageName = Annotated[str, Query(description="Name of an image that is the body itself.")]


class Result(BaseModel):
    """A case or a problem for one file."""

    index: int = Field(description="Position of the file in the request, from 0.")
    name: str
    case: Case | None = None
    known: bool = Field(
        default=False, description="The file was decided before: `case` is its earlier case."
    )
    problem: Problem | None = None


class Results(BaseModel):
    """One result for each file, in the order of the request."""

    results: list[Result]


@router.post(
    "/decisions",
    openapi_extra=BODY,
    responses=documented(
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.SERVICE_UNAVAILABLE,
    ),
)
async def decide(request: Request, service: ServiceDep, name: ImageName = "") -> Results:
    """Decide about one or more images.

    Each file becomes a case or a problem; a problem with one file does not affect the others. If no
    file becomes a case, `results` gives the problem of each, and the status is that of the most
    serious one: 422 if none of the files can be read. A case is stored before it is returned. 429
    means that the queue is full: try again.
    """
    deadline = asyncio.get_running_loop().time() + service.settings.timeout
    admission: Admission = request.app.state.admission
    client = client_of(request.scope)
    with admission.request(client) as share:
        try:
            async with asyncio.timeout_at(deadline):
                uploads = await read_uploads(request, name, share, service.settings)
        except TimeoutError as error:
            raise ProblemError(
                HTTPStatus.REQUEST_TIMEOUT,
                f"the body did not arrive within {service.settings.timeout:g} seconds; send fewer "
                "files at once",
            ) from error
        results = await asyncio.gather(
            *(
                _result(index, upload, service, client, deadline)
                for index, upload in enumerate(uploads)
            )
        )
    if all(result.case is None for result in results):
        raise _most_serious(results)
    return Results(results=results)


async def _result(
    index: int, upload: Upload, service: Service, client: str, deadline: float
) -> Result:
    """The case of a file, or a problem, which does not affect the other files."""
    name, data = upload
    try:
        async with asyncio.timeout_at(deadline):
            case, is_earlier = await service.decide(name, data, client=client)
    except Exception as failure:
        if isinstance(failure, DataError):
            service.metrics.refused_images.inc()
        elif isinstance(failure, TimeoutError):
            failure = ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"no decision within {service.settings.timeout:g} seconds; send the request again "
                "later, or with fewer files",
            )
        problem = problem_of(failure, service.metrics, path="/decisions").problem
        return Result(index=index, name=name, problem=problem)
    log.info("case", extra={"fields": {"case": case.id, "decision": case.decision}})
    return Result(index=index, name=name, case=case, known=is_earlier)


def _most_serious(results: Sequence[Result]) -> ProblemError:
    """The problem of a request without any case: 503 before 500, and both before 422."""
    problems = [result.problem for result in results if result.problem]
    worst = max(problems, key=lambda problem: problem.status)
    prefix = f"none of the {len(problems)} files has a decision; the first reason: "
    unavailable = worst.status == HTTPStatus.SERVICE_UNAVAILABLE
    return ProblemError(
        HTTPStatus(worst.status),
        (prefix if len(problems) > 1 else "") + worst.detail,
        headers={"Retry-After": "1"} if unavailable else None,
        results=[result.model_dump(mode="json") for result in results],
    )


class Admission:
    """Counts queued images and the bytes of requests in progress; for the event loop's thread."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._queue, self._memory = settings.queue, settings.max_held_bytes
        self._images, self._held_bytes = Counter[str](), Counter[str]()  # by client
        metrics.waiting.set_function(self._images.total)
        metrics.held_bytes.set_function(self._held_bytes.total)

    @contextmanager
    def request(self, client: str) -> Iterator["Share"]:
        """The share of one request, which is given back at its end."""
        share = Share(self, client)
        try:
            yield share
        finally:
            self._images -= Counter({client: share.images})  # drops what is no longer above 0
            self._held_bytes -= Counter({client: share.held_bytes})

    def take(self, client: str, *, images: int = 0, held_bytes: int = 0) -> None:
        """Count these; ProblemError where they are beyond the client's part or all together."""
        if _is_beyond(self._images, client, images, self._queue):
            raise _too_busy(f"too many images are waiting; the queue holds {self._queue}")
        if _is_beyond(self._held_bytes, client, held_bytes, self._memory):
            raise _too_busy("the requests in progress use all of their memory")
        self._images[client] += images
        self._held_bytes[client] += held_bytes


def _is_beyond(counts: Counter[str], client: str, count: int, limit: int) -> bool:
    return counts[client] + count > share_of_one(limit) or counts.total() + count > limit


def _too_busy(reason: str) -> ProblemError:
    return ProblemError(
        HTTPStatus.TOO_MANY_REQUESTS,
        f"{reason}; send the request again after the seconds in Retry-After",
        headers={"Retry-After": "1"},
    )


class Share:
    """The share of one request in the queue and the memory."""

    def __init__(self, admission: Admission, client: str) -> None:
        self._admission, self._client = admission, client
        self.images = self.held_bytes = 0

    def take(self, *, images: int = 0, held_bytes: int = 0) -> None:
        """Reserve room in the queue, and memory."""
        self._admission.take(self._client, images=images, held_bytes=held_bytes)
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
    content = bytearray()
    async for chunk in request.stream():
        share.take(held_bytes=len(chunk))
        content += chunk
        if len(content) > settings.max_bytes:
            raise _too_large(f"the image has more than {settings.max_bytes} bytes; scale it down")
    share.take(images=1)  # now that it is here: a body that never comes takes nobody's place
    return bytes(content)


def _longest_body(settings: Settings) -> int:
    all_files = settings.max_files * (settings.max_bytes + OVERHEAD_BYTES)
    return min(all_files, share_of_one(settings.max_held_bytes))


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
        self._share.take(images=1)
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
