"""The web application, from parts that are passed in."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from misgiving import __version__
from misgiving.errors import DataError, UsageError
from misgiving.serve import about, cases, decisions, insight, page
from misgiving.serve.authentication import OPEN, Gate
from misgiving.serve.body_limits import Bounding
from misgiving.serve.failures import explained
from misgiving.serve.model import Model
from misgiving.serve.problems import Problem, ProblemError, documented
from misgiving.serve.request_log import Observing, route_of
from misgiving.serve.service import Service
from misgiving.serve.settings import Settings
from misgiving.serve.store import Store

DESCRIPTION = """Decisions about images: accept, defer to a person, or ood; and the worklist.

Failures are problems as in RFC 9457, and their `detail` says what helps.
"""
PLAINLY = {"union_tag_not_found": "give `verdict`: agree or override"}  # by pydantic's name
SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "basic": {"type": "http", "scheme": "basic"},
}


def create_app(model: Model, store: Store, settings: Settings | None = None) -> FastAPI:
    """The service as an ASGI application; it closes the store at its end.

    Args:
        model: A `misgiving.bundle.Bundle`, or what else answers squares.
        store: Where cases are kept.
        settings: Limits and habits; without an API key only this machine is answered.
    """
    settings = settings or Settings()
    service = Service(model, store, settings)
    app = _Application(
        title="misgiving",
        version=__version__,
        description=DESCRIPTION,
        lifespan=_lifespan,
        docs_url=None,  # FastAPI's pages would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    for room in (decisions, cases, insight, about, page):
        app.include_router(room.router)
    for kind, told in EXPLAINED.items():
        app.add_exception_handler(kind, told)
    app.add_middleware(Bounding, timeout=settings.timeout)
    app.add_middleware(Gate, api_key=settings.api_key)
    app.add_middleware(Observing, monitoring=service.monitoring)
    return app


class _Application(FastAPI):
    """Documents problems, the key and the gate, which FastAPI does not know of."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            found = super().openapi()
            parts = found.setdefault("components", {})
            parts.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
            has_key = self.state.service.settings.api_key is not None
            if has_key:
                parts["securitySchemes"] = SCHEMES
                found["security"] = [{"bearer": []}, {"basic": []}]
            for path, operations in found["paths"].items():
                for operation in operations.values():
                    _document_gate(operation, asks_for_key=has_key and path not in OPEN)
        return self.openapi_schema or {}


def _document_gate(operation: dict[str, Any], *, asks_for_key: bool) -> None:
    statuses = [HTTPStatus.FORBIDDEN, *([HTTPStatus.UNAUTHORIZED] if asks_for_key else [])]
    for status, told in documented(*statuses).items():
        operation["responses"][str(status)] = told
    if not asks_for_key:
        operation["security"] = []


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    try:
        yield
    finally:
        app.state.service.close()


async def _problem(_: Request, error: ProblemError) -> Response:
    return error.response()


async def _unusable(_: Request, error: UsageError) -> Response:
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)).response()


async def _invalid(_: Request, error: RequestValidationError) -> Response:
    said = [
        f"{'.'.join(map(str, one['loc']))}: {PLAINLY.get(one['type'], one['msg'])}"
        for one in error.errors()
    ]
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(said)).response()


async def _refused(_: Request, error: HTTPException) -> Response:
    detail = f"{error.detail}; GET /openapi.json describes what there is"
    problem = ProblemError(HTTPStatus(error.status_code), detail)
    problem.headers.update(error.headers or {})
    return problem.response()


async def _explained(request: Request, error: Exception) -> Response:
    monitoring = request.app.state.service.monitoring
    return explained(error, monitoring, path=route_of(request.scope)).response()


async def _gone(_: Request, __: ClientDisconnect) -> Response:
    return ProblemError(HTTPStatus.BAD_REQUEST, "the client has gone").response()


EXPLAINED: dict[type[Exception], Any] = {
    ProblemError: _problem,
    UsageError: _unusable,
    RequestValidationError: _invalid,
    HTTPException: _refused,
    DataError: _explained,
    SQLAlchemyError: _explained,
    ClientDisconnect: _gone,
}
