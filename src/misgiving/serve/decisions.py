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
from misgiving.serve.problems import Problem, ProblemError, documented, problem
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

    Each file becomes a case, or a problem that names it; one bad file does not spoil the others.
    Where no file at all could be read the status is 422, and `results` says why for each. A case
    is on the disk before it is answered. 429 means that the queue is full: try again.
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
    one_by_one = [_result(index, upload, service) for index, upload in enumerate(uploads)]
    try:
        async with asyncio.timeout_at(limit):
            found = await asyncio.gather(*one_by_one, return_exceptions=True)
    except TimeoutError as error:
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"no answer within {service.settings.timeout:g} seconds; send the request again later, "
            "or with fewer files",
        ).with_header("Retry-After", "1") from error
    for failure in found:
        if isinstance(failure, BaseException):
            raise failure
    return [result for result in found if isinstance(result, Result)]


async def _result(index: int, upload: Upload, service: Service) -> Result:
    try:
        case = await service.decide(upload)
    except DataError as error:
        service.monitoring.refused_images.inc()
        refusal = problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        return Result(index=index, name=upload.name, problem=refusal)
    named = {"name": upload.name} if service.settings.log_names else {}
    log.info("case", extra={"fields": {"case": case.id, "decision": case.decision, **named}})
    return Result(index=index, name=upload.name, case=case)


def _none_answered(results: Sequence[Result]) -> ProblemError:
    details = [result.problem.detail for result in results if result.problem]
    several = f"none of the {len(details)} files could be read; the first: "
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        (several if len(details) > 1 else "") + details[0],
        results=[result.model_dump(mode="json") for result in results],
    )
