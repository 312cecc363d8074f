"""Middleware around every route: log and headers, limits of bodies and time."""

import asyncio
import logging
import time
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from misgiving.serve.problems import Metrics, ProblemError, problem_of

log = logging.getLogger("misgiving.serve")

METHODS = ("GET", "HEAD", "POST", "OPTIONS")
SECURITY_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        b"img-src 'self' blob: data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
MAX_BODY_BYTES = 100_000  # of a request, where its route has no limit of its own
MAX_FORM_BYTES = {"/sign-in": 1000}  # is parsed without a key
UPLOAD_PATHS = ("/decisions",)  # they limit bodies and clients themselves
KEY_SCOPE = "misgiving.key"  # key of a scope for the `Key` that was sent


class RequestLog:
    """Logs and counts every request, and answers each failure that nothing else has answered.

    To every response, it adds headers that forbid scripts, frames and copies elsewhere.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status, given = message["status"], {name for name, _ in message["headers"]}
                missing = [header for header in SECURITY_HEADERS if header[0] not in given]
                message = {**message, "headers": [*message["headers"], *missing]}
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as failure:
            problem = problem_of(failure, self._metrics, path=route_of(scope))
            if not status:
                await problem.response()(scope, receive, send_with_headers)
        finally:
            self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        path = route_of(scope)
        self._metrics.requests.labels(method, path, status).inc()
        self._metrics.request_seconds.labels(method, path).observe(seconds)
        fields = {"method": method, "path": path, "status": status, "seconds": round(seconds, 4)}
        if key := scope.get(KEY_SCOPE):  # who looked at which case, and never what was seen
            fields |= {"key": key.number, "name": key.name}
        if case := scope.get("path_params", {}).get("id"):
            fields |= {"case": case}
        log.info("request", extra={"fields": fields})


def route_of(scope: Scope) -> str:
    """The declared path of the route, so that clients cannot create metrics of their own."""
    return str(getattr(scope.get("route"), "path", "other"))


def limit_bodies(app: ASGIApp) -> ASGIApp:
    """Answer 413 to a body that is too large, where the route has no limit of its own."""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        length = 0

        async def receive_within_limit() -> Message:
            nonlocal length
            message = await receive()
            length += len(message.get("body", b""))
            if length > (most := MAX_FORM_BYTES.get(scope["path"], MAX_BODY_BYTES)):
                detail = f"the body may have at most {most} bytes"
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
            return message

        has_own = scope["type"] != "http" or scope["path"] in UPLOAD_PATHS
        await app(scope, receive if has_own else receive_within_limit, send)

    return limited


def limit_time(app: ASGIApp, *, seconds: float) -> ASGIApp:
    """Answer 503, or end a response, where nothing was sent for some time.

    PostgreSQL's driver waits indefinitely for a server that is stopped but still connected.
    """

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            await send(message)
            if not deadline.expired():
                deadline.reschedule(asyncio.get_running_loop().time() + seconds)

        try:
            is_request = scope["type"] == "http"
            async with asyncio.timeout(seconds if is_request else None) as deadline:
                await app(scope, receive, send_in_time if is_request else send)
        except TimeoutError as error:
            raise ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"no answer within {seconds:g} seconds; send the request again later",
                headers={"Retry-After": "5"},
            ) from error

    return limited
