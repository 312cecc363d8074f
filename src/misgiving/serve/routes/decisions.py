"""`POST /decisions`: images in, decisions out."""

import asyncio
import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from misgiving.errors import DataError
from misgiving.serve.problems import Problem, ProblemError, documented, problem_of
from misgiving.serve.schemas import Case
from misgiving.serve.service import Service, ServiceDep
from misgiving.serve.uploads import Upload, read_uploads

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


class Decisions(BaseModel):
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
async def decide(request: Request, service: ServiceDep, name: ImageName = "") -> Decisions:
    """Decide about one or more images.

    Each file becomes a case or a problem; a problem with one file does not affect the others. If no
    file becomes a case, `results` gives the problem of each, and the status is that of the most
    serious one: 422 if none of the files can be read. A case is stored before it is returned. 429
    means that the queue is full: try again.
    """
    deadline = asyncio.get_running_loop().time() + service.settings.timeout
    with service.admission.request() as share:
        try:
            async with asyncio.timeout_at(deadline):
                service.admission.check(images=1)  # before any of the body is read
                uploads = await read_uploads(request, name, share, service.settings)
        except TimeoutError as error:
            raise ProblemError(
                HTTPStatus.REQUEST_TIMEOUT,
                f"the body did not arrive within {service.settings.timeout:g} seconds; send fewer "
                "files at once",
            ) from error
        results = await asyncio.gather(
            *(_result(index, upload, service, deadline) for index, upload in enumerate(uploads))
        )
    if all(result.case is None for result in results):
        raise _most_serious(results)
    return Decisions(results=results)


async def _result(index: int, upload: Upload, service: Service, deadline: float) -> Result:
    """The case of a file, or a problem, which does not affect the other files."""
    name, data = upload
    try:
        async with asyncio.timeout_at(deadline):
            case, is_earlier = await service.decide(name, data)
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
