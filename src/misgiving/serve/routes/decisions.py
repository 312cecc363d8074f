"""`POST /decisions`: images in, decisions out; limits that hold before bodies fill the memory."""

import asyncio
import json
import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser

from misgiving.errors import DataError, UsageError
from misgiving.serve.case import Case
from misgiving.serve.decoders import clean_name
from misgiving.serve.problems import BINARY, Metrics, Problem, ProblemError, documented, problem_of
from misgiving.serve.service import Service, client_of, key_of
from misgiving.serve.settings import ServiceSettings, three_quarters

router = APIRouter(tags=["decisions"])
log = logging.getLogger("misgiving.serve")

FILES_SCHEMA = {
    "type": "object",
    "properties": {"files": {"type": "array", "items": BINARY, "minItems": 1}},
    "required": ["files"],
}
UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": FILES_SCHEMA},
            "image/*": {"schema": BINARY},
            "application/octet-stream": {"schema": BINARY},
        },
    },
}

RAW = (b"image/", b"application/octet-stream")
MAX_METADATA = 4000
MOST_LEVELS = 50  # of metadata
MOST_OPTIONS = 20  # of a header of a part of a form
LAST_BYTES = 1000  # of a form, among which is its last boundary
ACCEPTED = (
    "send multipart/form-data with image files, or one image as image/* or application/octet-stream"
)
BUSY = {
    "images": "too many images are waiting; the queue holds {}",
    "bytes": "the requests in progress use all of their memory",
}
Take = Callable[[str, int], None]
Decide = Callable[[str, bytes], Awaitable[tuple[Case, bool]]]
Upload = tuple[str, bytes]  # name and content of a file


class UploadResult(BaseModel):
    """A case or a problem for one file."""

    index: int = Field(description="Position of the file in the request, from 0.")
    name: str
    case: Case | None = None
    known: bool = Field(
        default=False, description="The file was decided before: `case` is its earlier case."
    )
    problem: Problem | None = None


class UploadResults(BaseModel):
    """One result for each file, in the order of the request."""

    results: list[UploadResult]
    alarm: bool = Field(
        description="True from an alarm of the audits until it is lifted: too many accepted "
        "answers were wrong. Unless the service only warns, it defers every image."
    )


@router.post(
    "/decisions",
    openapi_extra=UPLOAD,
    response_model=UploadResults,
    responses=documented(
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.SERVICE_UNAVAILABLE,
    ),
)
async def decide(
    request: Request,
    name: Annotated[str, Query(description="Name of an image that is the body itself.")] = "",
    group: Annotated[str, Query(description="Lesion or patient that the images show.")] = "",
    metadata: Annotated[
        str, Query(max_length=MAX_METADATA, description="JSON object to show with the images.")
    ] = "",
) -> Response:
    """Decide about one or more images.

    Each file becomes a case or a problem; a problem with one file does not affect the others. If no
    file becomes a case, `results` gives the problem of each, and the status is that of the most
    serious one: 422 if none of the files can be read. A case is stored before it is returned. 429
    means that the queue is full: try again. The sender sees the decision even of a blind case.
    Where each value of a column has a threshold, the value is a parameter with the column's name.
    """
    service: Service = request.app.state.service
    admission: Admission = request.app.state.admission
    deadline = asyncio.get_running_loop().time() + service.settings.timeout
    client, key = client_of(request), key_of(request)
    sender = key.name if key else None
    with admission.request(client) as take:
        try:
            async with asyncio.timeout_at(deadline):
                uploads = await read_uploads(request, name, take, service.settings)
        except TimeoutError as error:
            raise ProblemError(
                HTTPStatus.REQUEST_TIMEOUT,
                f"the body did not arrive within {service.settings.timeout:g} seconds; send fewer "
                "files at once",
            ) from error
        value = clean_name(request.query_params.get(service.column, ""), "") or None
        decide = partial(
            service.decide,
            client=client,
            group=clean_name(group, "") or None,
            value=value,
            metadata=_object(metadata),
            sent_by=sender,
        )
        files = [_result(n, upload, service, decide, deadline) for n, upload in enumerate(uploads)]
        results = await asyncio.gather(*files) if len(files) > 1 else [await files[0]]
    for result in results:
        if (case := result.case) is None:
            continue
        if key and key.role == "send":
            result.case = case.as_sent(key.name)
        fields = {"case": case.id, "decision": case.decision} | ({"name": sender} if sender else {})
        log.info("case", extra={"fields": fields})
    if all(result.case is None for result in results):
        raise _most_serious(results)
    alarm = service.monitor is not None and service.monitor.audit_alarm
    content = UploadResults(results=results, alarm=alarm).model_dump_json()
    return Response(content, media_type="application/json")


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object that a sender gives; None for an empty text."""
    try:
        content = json.loads(text or "null")
        json.dumps(content, allow_nan=False, ensure_ascii=False).encode()  # as answers must be
        if _depth(content) > MOST_LEVELS:  # which could not be shown in a list
            raise ValueError
    except (ValueError, RecursionError):
        content = text
    if content is None or isinstance(content, dict):
        return content
    raise UsageError(
        f'metadata must be a JSON object, such as {{"age": 61}}, of at most {MOST_LEVELS} levels'
    )


def _depth(content: Any) -> int:
    """Levels of lists and objects."""
    if not isinstance(content, dict | list):
        return 0
    return 1 + max(
        map(_depth, content.values() if isinstance(content, dict) else content), default=0
    )


async def _result(
    index: int, upload: Upload, service: Service, decide: Decide, deadline: float
) -> UploadResult:
    """The case of a file, or a problem, which does not affect the other files."""
    name, data = upload
    try:
        async with asyncio.timeout_at(deadline):
            case, is_earlier = await decide(name, data)
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
        return UploadResult(index=index, name=name, problem=problem)
    return UploadResult(index=index, name=name, case=case, known=is_earlier)


def _most_serious(results: Sequence[UploadResult]) -> ProblemError:
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

    def __init__(self, settings: ServiceSettings, metrics: Metrics) -> None:
        self._limits = {"images": settings.queue, "bytes": settings.max_held_bytes}
        self._taken = {kind: Counter[str]() for kind in self._limits}  # by client
        metrics.waiting.set_function(self._taken["images"].total)
        metrics.held_bytes.set_function(self._taken["bytes"].total)

    @contextmanager
    def request(self, client: str) -> Iterator[Take]:
        """A function that counts the images or bytes that a request takes, until its end.

        It raises ProblemError for what is beyond the client's part, or all together.
        """
        own = Counter[str]()

        def take(kind: str, count: int) -> None:
            taken, limit = self._taken[kind], self._limits[kind]
            if taken[client] + count > three_quarters(limit) or taken.total() + count > limit:
                raise ProblemError(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    f"{BUSY[kind].format(limit)}; send the request again after the seconds in "
                    "Retry-After",
                    headers={"Retry-After": "1"},
                )
            taken[client] += count
            own[kind] += count

        try:
            yield take
        finally:
            for kind, count in own.items():
                self._taken[kind] -= Counter({client: count})  # drops a client that has none


async def read_uploads(
    request: Request, name: str, take: Take, settings: ServiceSettings
) -> list[Upload]:
    """Read all files of a request; `name` is that of an image that is the body itself.

    Raises:
        ProblemError: The body is of another type, malformed or too large, or the queue is full.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind == b"multipart/form-data":
        limit = three_quarters(settings.max_held_bytes)
        begin = b"\r\n--" + options.get(b"boundary", b"")
        body = _body(request, take, limit)
        return await _read_form(request.headers, body, take, settings, begin)
    if not kind.startswith(RAW):
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, ACCEPTED)
    chunks = [chunk async for chunk in _body(request, take, settings.max_bytes)]
    take("images", 1)  # only now: a body that never comes takes nobody's place
    return [(clean_name(name), b"".join(chunks))]


async def _body(request: Request, take: Take, limit: int) -> AsyncGenerator[bytes]:
    """The chunks of a body, whose bytes are counted."""
    declared, length = request.headers.get("content-length", ""), 0
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    async for chunk in request.stream():
        length += len(chunk)
        if length > limit:
            raise _too_large(limit)
        take("bytes", len(chunk))
        yield chunk


async def _read_form(
    headers: Headers,
    body: AsyncGenerator[bytes],
    take: Take,
    settings: ServiceSettings,
    boundary: bytes,
) -> list[Upload]:
    """The files of a form, which is parsed only once they have a place in the queue."""
    parts, count = await _counted(body, boundary, settings.max_files)
    take("images", count)
    last = b""

    async def chunks() -> AsyncGenerator[bytes]:
        nonlocal last
        while parts:
            last = (last + parts[0])[-LAST_BYTES:]
            yield parts.popleft()
            await asyncio.sleep(0)  # others have their turn

    parser = Form(headers, chunks(), max_files=settings.max_files, max_fields=0)
    parser.spool_max_size = settings.max_held_bytes  # in memory, which is counted
    try:
        form = await parser.parse()
    except (MultiPartException, LookupError, UnicodeError) as error:  # of the charset
        raise _malformed(str(error)) from error
    uploads = []
    for _, file in form.multi_items():
        assert not isinstance(file, str)  # there are no fields
        uploads.append((clean_name(file.filename or ""), await file.read()))
        await file.close()
    if not uploads or boundary[2:] + b"--" not in last:
        raise _malformed("it has no file, or ends before its last boundary")
    take("images", len(uploads) - count)  # a boundary may be in two chunks
    return uploads


async def _counted(
    body: AsyncGenerator[bytes], boundary: bytes, most: int
) -> tuple[deque[bytes], int]:
    """The chunks of a form, and the boundaries in them, or what only begins like one."""
    chunks, count = deque[bytes](), 0
    async for chunk in body:
        chunks.append(chunk)
        count += chunk.count(boundary)
        if count > most + 1:
            raise _malformed(f"it has more than {most} files")
    return chunks, count


class Form(MultiPartParser):
    """A form whose parts have few options: the time to parse them grows with their square."""

    def on_header_end(self) -> None:
        """Refuse a header with many options."""
        if self._current_partial_header_value.count(b";") > MOST_OPTIONS:
            raise MultiPartException(f"a header of a part has more than {MOST_OPTIONS} options")
        super().on_header_end()


def _too_large(limit: int) -> ProblemError:
    return ProblemError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body may have {limit} bytes; scale the image down, or send several requests",
    )


def _malformed(reason: str) -> ProblemError:
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY, f"the body cannot be used: {reason}; {ACCEPTED}"
    )
