"""Middleware around every route: log and headers, key, limits on bodies and on the answer."""

import asyncio
import base64
import binascii
import hmac
import ipaddress
import json
import logging.config
import time
import traceback
from collections import Counter
from datetime import UTC, datetime
from functools import lru_cache, partial
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from misgiving.serve.problems import Metrics, ProblemError, problem_of
from misgiving.serve.settings import Settings

log = logging.getLogger("misgiving.serve")

METHODS = ("GET", "HEAD", "POST", "OPTIONS")
HEADERS = [
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

OPEN_PATHS = ("/health",)  # needs no key
REVIEWER_PATHS = ("/page/", "/cases", "/model", "/calibration", "/openapi.json")
READER = "misgiving.reader"  # key of a scope for the name of the reader whose API key was sent
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
CHALLENGE = {"WWW-Authenticate": 'Basic realm="misgiving", charset="UTF-8"'}

GRACE_SECONDS = 5.0  # beyond the limit of a request, so that its own message comes first

UNREAD_SECONDS = 30.0  # in which a client reads some of a response
PIECE = 65_536  # bytes of a response that are given to the server at once

SMALL_BODY = 100_000  # bytes; for everything but images
STREAMED = ("/decisions",)  # routes that limit bodies and clients themselves
MAX_REQUESTS = 64  # of one client at once


class RequestLog:
    """The outermost middleware: logs and counts every request, and adds headers to its response."""

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
                status = message["status"]
                given = {name for name, _ in message["headers"]}
                missing = [(name, value) for name, value in HEADERS if name not in given]
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


def log_as_json() -> None:
    """Write all log lines and warnings of this process to standard error as JSON."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"json": {"()": JsonLines}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
            "root": {"level": "INFO", "handlers": ["stderr"]},
        }
    )
    logging.captureWarnings(True)
    # What Python's "Optimization" of logging names: no line says in which thread it was logged.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


class Authentication:
    """Requires the API key, or without one a loopback address; refuses cross-site requests.

    None of the body of a refused request is read. The key of a reviewer is for the worklist alone.
    In a round of the event loop one request begins, beside uploads: many connections that send
    request after request, which takes no key, would else make each step of an upload wait for all.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self._app, self._key, self._reviewer_keys = app, settings.api_key, settings.reviewer_keys
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = self._problem(scope) if scope["type"] == "http" else None
        if problem is not None or scope.get("path") not in STREAMED:
            async with self._turn:
                await asyncio.sleep(0)
        app = self._app if problem is None else problem.response()
        await app(scope, receive, send)

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
        readers = self._reviewer_keys.items()
        if names := [name for own, name in readers if hmac.compare_digest(key, own.encode())]:
            scope[READER] = names[0]
            if scope["path"] in ("/", "/audit") or scope["path"].startswith(REVIEWER_PATHS):
                return None
            return ProblemError(HTTPStatus.FORBIDDEN, "this key opens the worklist alone")
        return ProblemError(
            HTTPStatus.UNAUTHORIZED,
            "send the API key as `Authorization: Bearer KEY`, or as the password of Basic "
            "authentication",
            headers=CHALLENGE,
        )


@lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """True for a name or address of this machine itself.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@lru_cache(maxsize=64)
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
    except (binascii.Error, ValueError):
        return b""


class SendDeadline:
    """Answers 503, or ends a response, where a route gives nothing to send for some time.

    PostgreSQL's driver waits indefinitely for a server that is stopped but still connected. Also
    ends a response that its client does not read; bodies go out in pieces, since the server keeps
    in memory what it was given.
    """

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self._app, self._seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._seconds) as deadline:
                in_pieces = partial(_send_in_pieces, send, deadline, self._seconds)
                await self._app(scope, receive, in_pieces)
        except TimeoutError as error:
            raise ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"no answer within {self._seconds:g} seconds; send the request again later",
                headers={"Retry-After": "5"},
            ) from error


async def _send_in_pieces(
    send: Send, deadline: asyncio.Timeout, seconds: float, message: Message
) -> None:
    body, more_follows = message.get("body", b""), message.get("more_body", False)
    while len(body) > PIECE:
        _extend(deadline, UNREAD_SECONDS)
        await send({**message, "body": body[:PIECE], "more_body": True})
        body = body[PIECE:]
    if more_follows:
        _extend(deadline, UNREAD_SECONDS)
    await send({**message, "body": body} if body else message)
    if more_follows:
        _extend(deadline, seconds)


def _extend(deadline: asyncio.Timeout, seconds: float) -> None:
    if not deadline.expired():
        deadline.reschedule(asyncio.get_running_loop().time() + seconds)


class RequestLimits:
    """Limits of requests, where a route has none of its own: of their bodies, and of each client.

    A body must be short and come in time, and one client has so many requests at once.
    """

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self._app, self._seconds = app, seconds
        self._requests = Counter[str]()  # by client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in STREAMED:
            await self._app(scope, receive, send)
            return
        client = client_of(scope)
        if self._requests[client] >= MAX_REQUESTS:
            detail = f"more than {MAX_REQUESTS} requests at once; send them one after the other"
            raise ProblemError(HTTPStatus.TOO_MANY_REQUESTS, detail, headers={"Retry-After": "1"})
        self._requests[client] += 1
        try:
            await self._app(scope, _limited(receive, self._seconds), send)
        finally:
            self._requests -= Counter([client])  # which drops a client that has none


def _limited(receive: Receive, seconds: float) -> Receive:
    deadline = asyncio.get_running_loop().time() + seconds
    length, complete = 0, False

    async def receive_within_limits() -> Message:
        nonlocal length, complete
        if complete:  # the caller waits for the client to disconnect
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError as error:
            detail = "the body did not arrive in time"
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, detail) from error
        length += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if length > SMALL_BODY:
            detail = f"the body may have at most {SMALL_BODY} bytes"
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
        return message

    return receive_within_limits


def client_of(scope: Scope) -> str:
    """The address of the client; behind a proxy on this machine, as the proxy forwards it."""
    return str((scope.get("client") or ("",))[0])
