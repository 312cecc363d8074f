"""Problem details for clients (RFC 9457)."""

from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

Responses = dict[int | str, dict[str, Any]]

MEDIA_TYPE = "application/problem+json"


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
        self.status, self.detail, self.members = status, detail, members
        self.headers = headers or {}

    def problem(self) -> Problem:
        """The problem without its further members."""
        return Problem(status=self.status, title=self.status.phrase, detail=self.detail)

    def response(self) -> JSONResponse:
        """The response that the client gets."""
        return JSONResponse(
            {**self.problem().model_dump(), **self.members},
            status_code=self.status,
            headers=self.headers,
            media_type=MEDIA_TYPE,
        )


def too_busy(detail: str) -> ProblemError:
    """A refusal of a request that may be sent again soon."""
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
