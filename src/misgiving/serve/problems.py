"""Failures as the API tells them: RFC 9457, with a detail that says what helps."""

from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

Responses = dict[int | str, dict[str, Any]]

MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """Why something was not done (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    status: int = Field(description="The HTTP status.")
    title: str = Field(description="The kind of problem.")
    detail: str = Field(description="What is wrong here, and what helps.")


class ProblemError(Exception):
    """Ends a request with a problem.

    Args:
        status: The HTTP status.
        detail: What is wrong, and what helps.
        members: What else the answer tells.
    """

    def __init__(self, status: HTTPStatus, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.status, self.detail, self.members = status, detail, members
        self.headers: dict[str, str] = {}

    def with_header(self, name: str, value: str) -> "ProblemError":
        """The same, with a header more."""
        self.headers[name] = value
        return self

    def problem(self) -> Problem:
        """As a part of an answer."""
        return Problem(status=self.status, title=self.status.phrase, detail=self.detail)

    def response(self) -> JSONResponse:
        """What the client gets."""
        return JSONResponse(
            {**self.problem().model_dump(), **self.members},
            status_code=self.status,
            headers=self.headers,
            media_type=MEDIA_TYPE,
        )


def too_busy(detail: str) -> ProblemError:
    """The client may try again in a moment."""
    return ProblemError(HTTPStatus.TOO_MANY_REQUESTS, detail).with_header("Retry-After", "1")


def content(media_type: str, schema: dict[str, Any]) -> Responses:
    """A success that is not JSON, as FastAPI's `responses`."""
    return {200: {"content": {media_type: {"schema": schema}}}}


def documented(*statuses: HTTPStatus) -> Responses:
    """These problems as FastAPI's `responses`."""
    return {
        int(status): {
            "description": status.phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }
