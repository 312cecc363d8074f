"""Problems for clients (RFC 9457), and the log and the metrics that count them."""

import logging
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from h11 import LocalProtocolError
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from misgiving.errors import ExplainedError

log = logging.getLogger("misgiving.serve")

Responses = dict[int | str, dict[str, Any]]

BINARY = {"type": "string", "format": "binary"}

PROBLEM_TYPE = "application/problem+json"
STORE_FAILED = "the database is not available; nothing was stored, send the request again later"
IMAGES_FAILED = "the image cannot be stored, so no case was kept; check the folder keep_images"
UNEXPECTED = "internal error; the log of the service shows where. Please report it"
SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Metrics of one service; in a registry of its own, so that a process can hold several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, namespace="misgiving", registry=self.registry)
        gauge = partial(Gauge, namespace="misgiving", registry=self.registry)
        histogram = partial(Histogram, namespace="misgiving", registry=self.registry)
        route = ("method", "path")
        self.requests = counter("requests", "Requests by route and status.", (*route, "status"))
        self.request_seconds = histogram(
            "request_seconds", "From request to end of response.", route, buckets=SECONDS_BUCKETS
        )
        self.decisions = counter("decisions", "Images that were sent, by decision.", ("decision",))
        self.refused_images = counter("refused_images", "Files that could not be read.")
        self.failures = counter("failures", "Failures of store, images or other.", ("part",))
        self.batch_sizes = histogram("batch_images", "Images in one batch.", buckets=SIZE_BUCKETS)
        self.waiting = gauge("waiting_images", "Images in the queue.")
        self.held_bytes = gauge("held_bytes", "Bytes of requests in progress.")
        self.found_wrong = gauge(
            "found_wrong", "Accepted answers that were found wrong, by state.", ("state",)
        )
        self.found_wrong_overdue = gauge(
            "found_wrong_overdue", "Of these, open for more than a day: nobody was told."
        )
        self.audit_alarm = gauge("audit_alarm", "1 since an alarm of the audits, else 0.")
        self.kept_too_long = gauge(
            "kept_too_long", "Cases beyond keep_days that somebody must look at.", ("reason",)
        )
        self.audit_upper = gauge("audit_upper", "Upper bound of the error of accepted answers.")
        self.audit_answers = gauge(
            "audit_answers", "Audited, wrong and other answers, as in /audit.", ("kind",)
        )
        self.group_cases = gauge(
            "group_cases", "Cases of groups with more than 20, as of a device.", ("group",)
        )
        self.drift_alarm = gauge("drift_alarm", "1 since an alarm of the drift tests, else 0.")
        self.drift_cases = gauge("drift_cases", "Images that the drift tests have seen.")
        self.drift_e_value = gauge("drift_e_value", "Evidence of a drift test.", ("test",))


class Problem(BaseModel, extra="allow"):
    """A problem as in RFC 9457."""

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
        self.problem = Problem(status=status, title=status.phrase, detail=detail, **members)
        self.headers = headers

    def response(self) -> JSONResponse:
        """The response that the client gets."""
        return JSONResponse(
            self.problem.model_dump(),
            status_code=self.problem.status,
            headers=self.headers,
            media_type=PROBLEM_TYPE,
        )


class ImageNotStoredError(Exception):
    """An image file could not be written."""


def content(media_type: str, schema: dict[str, Any]) -> Responses:
    """Document a successful response that is not JSON, for FastAPI's `responses`."""
    return {200: {"content": {media_type: {"schema": schema}}}}


def documented(*statuses: HTTPStatus) -> Responses:
    """Document these problems, for FastAPI's `responses`."""
    return {
        int(status): {
            "description": status.phrase,
            "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
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
        case ExplainedError():
            return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, str(failure))
        case RequestValidationError():
            details = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in failure.errors()]
            return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(details))
        case HTTPException():
            detail = f"{failure.detail}; GET /openapi.json describes the API"
            headers = dict(failure.headers or {})
            return ProblemError(HTTPStatus(failure.status_code), detail, headers=headers)
        case ClientDisconnect() | LocalProtocolError():  # or its request was refused meanwhile
            return ProblemError(HTTPStatus.BAD_REQUEST, "the client has disconnected")
    return _failure_of_the_service(failure, metrics, path)


def _failure_of_the_service(failure: Exception, metrics: Metrics, path: str) -> ProblemError:
    if not isinstance(failure, SQLAlchemyError | ImageNotStoredError):
        metrics.failures.labels("other").inc()
        log.error("failure", exc_info=failure, extra={"fields": {"path": path}})
        return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, UNEXPECTED)
    is_store = isinstance(failure, SQLAlchemyError)
    part, detail = ("store", STORE_FAILED) if is_store else ("images", IMAGES_FAILED)
    metrics.failures.labels(part).inc()
    fields = {"path": path, "reason": storage_reason(failure)}
    log.error(f"{part} failure", extra={"fields": fields})
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "5"})


def storage_reason(failure: Exception) -> str:
    """The first line of a failure: PostgreSQL's further lines may hold values of a row."""
    cause = failure.__cause__ if isinstance(failure, ImageNotStoredError) else failure
    message = getattr(cause, "strerror", None) or getattr(cause, "orig", None)
    lines = str(message or "").strip().splitlines()
    return lines[0] if lines else type(cause).__name__
