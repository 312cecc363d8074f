"""`POST /decisions`: images in, decisions out."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from misgiving.errors import DataError
from misgiving.serve.dependencies import Served
from misgiving.serve.failures import explained
from misgiving.serve.problems import Problem, ProblemError, documented
from misgiving.serve.records import Case
from misgiving.serve.service import Service
from misgiving.serve.uploads import Body, Upload, read_uploads

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
    },
    "parameters": [
        {
            "name": "name",
            "in": "query",
            "description": "What to call an image that is the body itself.",
            "schema": {"type": "string"},
        }
    ],
}


class Result(BaseModel):
    """What became of one file: a case, or a problem."""

    index: int = Field(description="Which file of the request, from 0.")
    name: str
    case: Case | None = None
    problem: Problem | None = None


class Decisions(BaseModel):
    """One result for each file of the request, in its order."""

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
async def decide(request: Request, service: Served) -> Decisions:
    """Decide about one image or many.

    Each file becomes a case, or a problem; whatever fails with one does not spoil the others. Where
    no file at all is answered, `results` says why for each, and the status is that of the gravest
    problem: 422 where none can be read. A case is on the disk before it is answered. 429 means that
    the queue is full: try again.
    """
    limit = asyncio.get_running_loop().time() + service.settings.timeout
    body = Body(request)
    with service.admission.request() as ticket:
        try:
            async with _within(limit, service):
                service.admission.refuse_images(1)  # before any of the body is read
                uploads = await read_uploads(request, body, ticket, service.settings)
        except ProblemError as refusal:
            await body.drain(service.settings.max_bytes)
            if not body.complete:
                refusal.with_header("Connection", "close")
            raise
        results = await _results(uploads, service, limit)
    if all(result.case is None for result in results):
        raise _none_answered(results)
    return Decisions(results=results)


@asynccontextmanager
async def _within(limit: float, service: Service) -> AsyncIterator[None]:
    """Cut slow bodies off."""
    try:
        async with asyncio.timeout_at(limit):
            yield
    except TimeoutError as error:
        raise ProblemError(
            HTTPStatus.REQUEST_TIMEOUT,
            f"the body did not come within {service.settings.timeout:g} seconds; send fewer files "
            "at once",
        ) from error


async def _results(uploads: Sequence[Upload], service: Service, limit: float) -> list[Result]:
    """Of every file that is answered in time, and a problem for each that is not."""
    loop = asyncio.get_running_loop()
    numbered = list(enumerate(uploads))
    asked = [loop.create_task(_result(index, upload, service)) for index, upload in numbered]
    try:
        done, _ = await asyncio.wait(asked, timeout=max(0.0, limit - loop.time()))
    finally:
        for task in asked:
            task.cancel()  # which what is done does not mind
    return [
        task.result() if task in done and not task.cancelled() else _late(index, upload, service)
        for task, (index, upload) in zip(asked, numbered, strict=True)
    ]


async def _result(index: int, upload: Upload, service: Service) -> Result:
    try:
        case = await service.decide(upload)
    except Exception as failure:  # whatever it is, the other files are answered
        if isinstance(failure, DataError):
            service.monitoring.refused_images.inc()
        problem = explained(failure, service.monitoring, path="/decisions").problem()
        return Result(index=index, name=upload.name, problem=problem)
    named = {"name": upload.name} if service.settings.log_names else {}
    log.info("case", extra={"fields": {"case": case.id, "decision": case.decision, **named}})
    return Result(index=index, name=upload.name, case=case)


def _late(index: int, upload: Upload, service: Service) -> Result:
    refusal = ProblemError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"no answer within {service.settings.timeout:g} seconds; send the request again later, "
        "or with fewer files",
    )
    return Result(index=index, name=upload.name, problem=refusal.problem())


def _none_answered(results: Sequence[Result]) -> ProblemError:
    """The gravest of all problems: 503 before 500, and both before what is wrong with the files."""
    problems = [result.problem for result in results if result.problem]
    gravest = max(problems, key=lambda problem: problem.status)
    several = f"none of the {len(problems)} files was answered; one of them: "
    refusal = ProblemError(
        HTTPStatus(gravest.status),
        (several if len(problems) > 1 else "") + gravest.detail,
        results=[result.model_dump(mode="json") for result in results],
    )
    if gravest.status == HTTPStatus.SERVICE_UNAVAILABLE:
        refusal.with_header("Retry-After", "1")
    return refusal
