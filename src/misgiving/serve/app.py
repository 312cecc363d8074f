"""The FastAPI application."""

import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from misgiving.errors import DataError, UsageError
from misgiving.serve.authentication import OPEN_PATHS, Authentication
from misgiving.serve.middleware import GRACE_SECONDS, BodyLimits, RequestLog, SendDeadline
from misgiving.serve.problems import ProblemError, documented, problem_of, route_of
from misgiving.serve.routes import case_images, cases, decisions
from misgiving.serve.routes import model as model_routes
from misgiving.serve.service import Model, Service
from misgiving.serve.settings import Settings
from misgiving.serve.store import Store

DESCRIPTION = """Decides about images: accept, defer to a person, or out-of-distribution (ood).

Problems follow RFC 9457; their `detail` says how to fix them.
"""
SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "basic": {"type": "http", "scheme": "basic"},
}


def create_app(model: Model, store: Store, settings: Settings) -> FastAPI:
    """Create the service as an ASGI application, which closes the store at its end.

    Args:
        model: A `misgiving.bundle.bundle.Bundle`, or another model.
        store: The database of cases.
        settings: Limits and options; without an API key, only this machine is served.
    """
    service = Service(model, store, settings)
    app = FastAPI(
        title="misgiving",
        version=importlib.metadata.version("misgiving"),
        description=DESCRIPTION,
        lifespan=_lifespan,
        responses=documented(HTTPStatus.FORBIDDEN),
        docs_url=None,  # FastAPI's pages would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    for resource in (decisions, cases, case_images, model_routes):
        app.include_router(resource.router)
    app.add_api_route("/", _page, include_in_schema=False, response_class=HTMLResponse)
    app.mount("/page", StaticFiles(packages=[("misgiving.serve", "page")]))
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    if settings.api_key is not None:
        _document_key(app.openapi())
    # A request passes them from the last to the first.
    app.add_middleware(SendDeadline, seconds=settings.timeout + GRACE_SECONDS)
    app.add_middleware(Authentication, api_key=settings.api_key)
    app.add_middleware(BodyLimits, settings=settings)
    app.add_middleware(RequestLog, metrics=service.metrics)
    return app


def _page() -> HTMLResponse:
    page = files("misgiving.serve") / "page" / "index.html"
    return HTMLResponse(page.read_bytes())


def _document_key(schema: dict[str, Any]) -> None:
    """Add the API key to the OpenAPI description."""
    schema["components"]["securitySchemes"] = SCHEMES
    schema["security"] = [{name: []} for name in SCHEMES]
    (unauthorized,) = documented(HTTPStatus.UNAUTHORIZED).values()
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            if path in OPEN_PATHS:
                operation["security"] = []
            else:
                operation["responses"]["401"] = unauthorized


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    try:
        yield
    finally:
        app.state.service.close()


async def _invalid(_: Request, error: RequestValidationError) -> Response:
    details = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(details)).response()


async def _refused(_: Request, error: HTTPException) -> Response:
    detail = f"{error.detail}; GET /openapi.json describes the API"
    headers = dict(error.headers or {})
    return ProblemError(HTTPStatus(error.status_code), detail, headers=headers).response()


async def _failed(request: Request, error: Exception) -> Response:
    metrics = request.app.state.service.metrics
    return problem_of(error, metrics, path=route_of(request.scope)).response()


HANDLERS: dict[type[Exception], Any] = {
    ProblemError: _failed,
    UsageError: _failed,
    RequestValidationError: _invalid,
    HTTPException: _refused,
    DataError: _failed,
    SQLAlchemyError: _failed,
    ClientDisconnect: _failed,
}
