"""The FastAPI application, and the process that serves it: its socket, its log, and uvicorn."""

import asyncio
import gc
import importlib.metadata
import json
import logging
import socket
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from importlib.resources import files

import uvicorn
from anyio import to_thread
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from fastapi.security import APIKeyCookie, HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from threadpoolctl import threadpool_limits

from misgiving.bundle.bundle import Bundle
from misgiving.errors import Parameter, UsageError
from misgiving.serve.authentication import COOKIE, Authentication, is_loopback
from misgiving.serve.connections import Connection
from misgiving.serve.database import shown
from misgiving.serve.keys import Keys, has_keys
from misgiving.serve.middleware import RequestLog, limit_bodies, limit_time, route_of
from misgiving.serve.problems import documented, problem_of
from misgiving.serve.routes import audits, cases, decisions, keys
from misgiving.serve.routes import model as model_routes
from misgiving.serve.service import Service
from misgiving.serve.settings import ServiceSettings
from misgiving.serve.store import Store

DESCRIPTION = """Decides about images: accept, defer to a person, or out-of-distribution (ood).

Problems follow RFC 9457; their `detail` says how to fix them.
"""
GRACE_SECONDS = 5.0  # beyond the limit of a request, so that its own message comes first
THREADS = 8  # that read the database; more of them keep the interpreter from the event loop
BACKLOG = 256  # connections that are accepted before any of them is looked at
SWITCH_SECONDS = 0.0005  # else the event loop waits 5 ms after a system call for other threads
STOPPING_SECONDS = 2  # for requests in progress
SCHEMES = [
    Depends(HTTPBearer(scheme_name="bearer", auto_error=False)),
    Depends(APIKeyCookie(scheme_name="session", name=COOKIE, auto_error=False)),
]
"""They describe keys in /openapi.json; `Authentication` checks them."""


def create_app(model: Bundle, store: Store, settings: ServiceSettings) -> FastAPI:
    """Create the service as an ASGI application, which closes the store at its end.

    Args:
        model: It decides, by its policy if it has one.
        store: The database of cases.
        settings: Limits and options. Without keys in the store, only this machine is served.
    """
    service = Service(model, store, settings)
    app = FastAPI(
        title="misgiving",
        version=importlib.metadata.version("misgiving"),
        description=DESCRIPTION,
        lifespan=_lifespan,
        # `RequestLog` answers all others
        exception_handlers=dict.fromkeys((RequestValidationError, HTTPException), _failed),
        responses=documented(HTTPStatus.FORBIDDEN),
        docs_url=None,  # FastAPI's pages would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    app.state.admission = decisions.Admission(settings, service.metrics)
    app.state.keys = Keys(store)
    for resource in (decisions, cases, audits, model_routes):
        app.include_router(
            resource.router,
            dependencies=SCHEMES,
            responses=documented(HTTPStatus.UNAUTHORIZED),
        )
    app.include_router(model_routes.without_key)
    app.include_router(keys.router)
    app.add_api_route("/", _page, include_in_schema=False, response_class=HTMLResponse)
    app.mount("/page", StaticFiles(packages=[("misgiving.serve", "page")]))
    # A request passes them from the last to the first.
    app.add_middleware(Authentication, keys=app.state.keys)
    app.add_middleware(limit_time, seconds=settings.timeout + GRACE_SECONDS)
    app.add_middleware(limit_bodies)
    app.add_middleware(RequestLog, metrics=service.metrics)
    return app


def _page() -> HTMLResponse:
    page = files("misgiving.serve") / "page" / "index.html"
    return HTMLResponse(page.read_bytes())


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    to_thread.current_default_thread_limiter().total_tokens = THREADS
    watching = asyncio.create_task(app.state.service.watch_store())
    try:
        yield
    finally:
        watching.cancel()
        await app.state.service.decoders.close()
        app.state.service.close()


async def _failed(request: Request, error: Exception) -> Response:
    metrics = request.app.state.service.metrics
    return problem_of(error, metrics, path=route_of(request.scope)).response()


def listen(host: str, port: int, *, location: str) -> socket.socket:
    """Open a listening socket for the service of a store.

    Raises:
        UsageError: Other machines could connect without a key, or the socket cannot be opened.
    """
    if not is_loopback(host) and not has_keys(location):
        raise UsageError(
            Parameter("host"),
            f" {host} lets other machines connect, which needs a key: run `misgiving keys add "
            f"{shown(location)} --role operate --name NAME`",
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}, port {port} ({error.strerror or error}); choose another "
            "host or port"
        ) from error
    # asyncio sets it on its own sockets alone; else a small answer waits 40 ms for the client.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def address(listener: socket.socket) -> str:
    """The URL for a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(app: FastAPI, listener: socket.socket) -> None:
    """Serve until the process is told to stop, and then finish requests for some seconds."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.freeze()  # what lives until the end is not looked through again and again
    _log_as_json()
    config = uvicorn.Config(
        app,
        http=Connection,
        loop="asyncio",  # uvloop's connections have no socket of their own
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=STOPPING_SECONDS,
    )
    with threadpool_limits(1, "blas"):  # more would wait for each other and for the graph's threads
        uvicorn.Server(config).run(sockets=[listener])


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, event, and the caller's `fields`.

    An exception is logged by its type and line only, since its text may contain file names.
    """

    def format(self, record: logging.LogRecord) -> str:
        created = datetime.fromtimestamp(record.created, UTC)
        content = {
            "time": created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1]:
            chain: list[BaseException] = [record.exc_info[1]]
            while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
                chain.append(cause)
            content["traceback"] = "\n".join(
                "".join([*traceback.format_tb(error.__traceback__), type(error).__name__])
                for error in reversed(chain)
            )
        return json.dumps(content)


def _log_as_json() -> None:
    """Write all log lines and warnings of this process to standard error as JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    # What Python's "Optimization" of logging names: no line says where it was logged.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
