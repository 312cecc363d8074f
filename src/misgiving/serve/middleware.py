"""Middleware around every route: log and headers, limits of bodies and time, authentication.

The API key or a key of a reader is required; without keys, only this machine is served.
"""

import asyncio
import base64
import hmac
import ipaddress
import logging
import time
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from misgiving.serve.problems import Metrics, ProblemError, problem_of
from misgiving.serve.settings import ServiceSettings

log = logging.getLogger("misgiving.serve")

METHODS = ("GET", "HEAD", "POST", "OPTIONS")
SECURITY_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        b"img-src 'self' blob: data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
MAX_BODY_BYTES = 100_000  # of a request, where its route has no limit of its own
UPLOAD_PATHS = ("/decisions",)  # they limit bodies and clients themselves
OPEN_PATHS = ("/health",)  # needs no key
READER_PATHS = ("/page/", "/cases", "/model", "/calibration", "/openapi.json")
READER_SCOPE = "misgiving.reader"  # key of a scope for the name of the reader whose key was sent
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
CHALLENGE = {"WWW-Authenticate": 'Basic realm="misgiving", charset="UTF-8"'}


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
            if length > MAX_BODY_BYTES:
                detail = f"the body may have at most {MAX_BODY_BYTES} bytes"
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


class Authentication:
    """Requires the API key, or without one a loopback address; refuses cross-site requests.

    None of the body of a refused request is read. The key of a reader is for the worklist alone.
    """

    def __init__(self, app: ASGIApp, *, settings: ServiceSettings) -> None:
        self._app, self._key, self._reader_keys = app, settings.api_key, settings.reviewer_keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (problem := self._problem(scope)):
            raise problem
        await self._app(scope, receive, send)

    def _problem(self, scope: Scope) -> ProblemError | None:
        headers = Headers(scope=scope)
        if self._key is None and not is_loopback(_host(headers.get("host", ""))):
            return ProblemError(
                HTTPStatus.FORBIDDEN,
                "without an API key, the service is only available on this machine, as localhost "
                "or 127.0.0.1",
            )
        if scope["method"] not in SAFE_METHODS and _is_cross_site(headers):
            return ProblemError(
                HTTPStatus.FORBIDDEN,
                "the request comes from a page of another site; a proxy must forward the Host "
                "header",
            )
        if scope["path"] in OPEN_PATHS or self._key is None:
            return None
        return self._problem_of_key(scope, headers, self._key)

    def _problem_of_key(self, scope: Scope, headers: Headers, expected: str) -> ProblemError | None:
        key = _sent_key(headers.get("authorization", ""))
        if hmac.compare_digest(key, expected.encode()):  # in constant time
            return None
        readers = self._reader_keys.items()
        if names := [name for own, name in readers if hmac.compare_digest(key, own.encode())]:
            scope[READER_SCOPE] = names[0]
            if scope["path"] in ("/", "/audit") or scope["path"].startswith(READER_PATHS):
                return None
            return ProblemError(HTTPStatus.FORBIDDEN, "this key opens the worklist alone")
        return ProblemError(
            HTTPStatus.UNAUTHORIZED,
            "send the API key as `Authorization: Bearer KEY`, or as the password of Basic "
            "authentication",
            headers=CHALLENGE,
        )


def is_loopback(host: str) -> bool:
    """True for a name or address of this machine itself.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host(value: str) -> str:
    try:
        return urlsplit(f"//{value}").hostname or ""
    except ValueError:
        return ""


def _is_cross_site(headers: Headers) -> bool:
    """True if a browser sent the request for a page of another site."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host", "")


def _sent_key(authorization: str) -> bytes:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode("latin-1")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
    except ValueError:
        return b""
