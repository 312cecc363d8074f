"""Problem details for clients (RFC 9457), and their log."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from misgiving.errors import DataError, UsageError
from misgiving.serve.telemetry import Metrics

log = logging.getLogger("misgiving.serve")

Responses = dict[int | str, dict[str, Any]]

MEDIA_TYPE = "application/problem+json"
STORE_FAILED = "the database is not available; nothing was stored, send the request again later"
IMAGES_FAILED = "the image cannot be stored, so no case was kept; check the folder keep_images"
UNEXPECTED = "internal error; the log of the service shows where. Please report it"


class Problem(BaseModel):
    """A problem as in RFC 9457."""

    model_config = ConfigDict(extra="allow")

    status: int = Field(description="The HTTP status.")
    title: str = Field(description="The kind of problem.")
    detail: str = Field(description="The cause of this problem, and how to fix it.")


class ProblemError(Exception):
    """Ends a request with a problem.

    Args:
        status: The HTTP status.
        detail: The cause, and how to fix it.
        headers: Headers of the response.
        members: Further members of the problem.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.problem = Problem(status=status, title=status.phrase, detail=detail)
        self.headers, self.members = headers, members

    def response(self) -> JSONResponse:
        """The response that the client gets."""
        return JSONResponse(
            {**self.problem.model_dump(), **self.members},
            status_code=self.problem.status,
            headers=self.headers,
            media_type=MEDIA_TYPE,
        )


class ImageNotStoredError(Exception):
    """An image file could not be written."""


def too_busy(detail: str) -> ProblemError:
    """A problem of a request that may be sent again soon."""
    return ProblemError(HTTPStatus.TOO_MANY_REQUESTS, detail, headers={"Retry-After": "1"})


def content(media_type: str, schema: dict[str, Any]) -> Responses:
    """Document a successful response that is not JSON, for FastAPI's `responses`."""
    return {200: {"content": {media_type: {"schema": schema}}}}


def documented(*statuses: HTTPStatus) -> Responses:
    """Document these problems, for FastAPI's `responses`."""
    return {
        int(status): {
            "description": status.phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def problem_of(failure: Exception, metrics: Metrics, *, path: str) -> ProblemError:
    """Translate an exception for the client; log and count failures of the service itself.

    Args:
        failure: The exception of a request, or of one file in it.
        metrics: Counts the failure.
        path: The route, for the log.
    """
    match failure:
        case ProblemError():
            return failure
        case DataError() | UsageError():
            return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, str(failure))
        case ClientDisconnect():
            return ProblemError(HTTPStatus.BAD_REQUEST, "the client has disconnected")
        case SQLAlchemyError() | ImageNotStoredError():
            is_store = isinstance(failure, SQLAlchemyError)
            reason = storage_reason(failure if is_store else failure.__cause__)
            record_failure("store" if is_store else "images", metrics, path=path, reason=reason)
            return ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                STORE_FAILED if is_store else IMAGES_FAILED,
                headers={"Retry-After": "5"},
            )
    metrics.failures.labels("other").inc()
    log.error("failure", exc_info=failure, extra={"fields": {"path": path}})
    return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, UNEXPECTED)


def record_failure(part: str, metrics: Metrics, **fields: str) -> None:
    """Log and count a failure of the store or of the image files."""
    metrics.failures.labels(part).inc()
    log.error(f"{part} failure", extra={"fields": fields})


def storage_reason(cause: BaseException | None) -> str:
    """The first line of a failure: PostgreSQL's further lines may hold values of a row."""
    message = getattr(cause, "strerror", None) or getattr(cause, "orig", None)
    lines = str(message or "").strip().splitlines()
    return lines[0] if lines else type(cause).__name__


def route_of(scope: Scope) -> str:
    """The declared path of the route, so that clients cannot create metrics of their own."""
    return str(getattr(scope.get("route"), "path", "other"))
