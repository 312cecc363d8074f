"""The FastAPI application."""

import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.resources import files

from anyio import to_thread
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from fastapi.security import HTTPBasic, HTTPBearer
from fastapi.staticfiles import StaticFiles
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from misgiving.bundle.bundle import Bundle
from misgiving.errors import ExplainedError
from misgiving.serve.authentication import Authentication
from misgiving.serve.middleware import (
    BodyLimit,
    RequestLog,
    SecurityHeaders,
    Timeout,
    Turns,
    route_of,
)
from misgiving.serve.problems import ProblemError, documented, problem_of
from misgiving.serve.routes import cases, decisions
from misgiving.serve.routes import model as model_routes
from misgiving.serve.service import Service
from misgiving.serve.settings import ServiceSettings
from misgiving.serve.store import Store

DESCRIPTION = """Decides about images: accept, defer to a person, or out-of-distribution (ood).

Problems follow RFC 9457; their `detail` says how to fix them.
"""
GRACE_SECONDS = 5.0  # beyond the limit of a request, so that its own message comes first
THREADS = 8  # that read the database; more of them keep the interpreter from the event loop
HANDLED = (
    ProblemError,
    ExplainedError,
    RequestValidationError,
    HTTPException,
    SQLAlchemyError,
    ClientDisconnect,
)
SCHEMES = [
    Depends(HTTPBearer(scheme_name="bearer", auto_error=False)),
    Depends(HTTPBasic(scheme_name="basic", auto_error=False)),
]
"""They describe the key in /openapi.json; `Authentication` checks it."""


def create_app(model: Bundle, store: Store, settings: ServiceSettings) -> FastAPI:
    """Create the service as an ASGI application, which closes the store at its end.

    Args:
        model: It decides, by its policy if it has one.
        store: The database of cases.
        settings: Limits and options; without an API key, only this machine is served.
    """
    service = Service(model, store, settings)
    app = FastAPI(
        title="misgiving",
        version=importlib.metadata.version("misgiving"),
        description=DESCRIPTION,
        lifespan=_lifespan,
        exception_handlers=dict.fromkeys(HANDLED, _failed),
        responses=documented(HTTPStatus.FORBIDDEN),
        docs_url=None,  # FastAPI's pages would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    app.state.admission = decisions.Admission(settings, service.metrics)
    has_key = settings.api_key is not None
    for resource in (decisions, cases, model_routes):
        app.include_router(
            resource.router,
            dependencies=SCHEMES if has_key else None,
            responses=documented(HTTPStatus.UNAUTHORIZED) if has_key else None,
        )
    app.include_router(model_routes.without_key)
    app.add_api_route("/", _page, include_in_schema=False, response_class=HTMLResponse)
    app.mount("/page", StaticFiles(packages=[("misgiving.serve", "page")]))
    # A request passes them from the last to the first.
    app.add_middleware(Timeout, seconds=settings.timeout + GRACE_SECONDS)
    app.add_middleware(Authentication, settings=settings)
    app.add_middleware(Turns)
    app.add_middleware(BodyLimit)
    app.add_middleware(RequestLog, metrics=service.metrics)
    app.add_middleware(SecurityHeaders)
    return app


def _page() -> HTMLResponse:
    page = files("misgiving.serve") / "page" / "index.html"
    return HTMLResponse(page.read_bytes())


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    to_thread.current_default_thread_limiter().total_tokens = THREADS
    try:
        yield
    finally:
        await app.state.service.decoders.close()
        app.state.service.close()


async def _failed(request: Request, error: Exception) -> Response:
    metrics = request.app.state.service.metrics
    return problem_of(error, metrics, path=route_of(request.scope)).response()
