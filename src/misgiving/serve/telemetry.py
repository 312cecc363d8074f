"""Logs and metrics: requests, failures, JSON lines, Prometheus."""

import json
import logging
import sys
import time
import traceback
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from misgiving.errors import DataError, UsageError
from misgiving.serve.problems import ProblemError

log = logging.getLogger("misgiving.serve")

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
STORE_FAILED = "the database is not available; nothing was stored, send the request again later"
IMAGES_FAILED = "the image cannot be stored, so no case was kept; check the folder keep_images"
UNEXPECTED = "internal error; the log of the service shows where. Please report it"
METHODS = ("GET", "HEAD", "POST", "OPTIONS")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob: data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


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
            "request_seconds", "From request to end of response.", route, buckets=SECONDS
        )
        self.decisions = counter("decisions", "Images that were sent, by decision.", ("decision",))
        self.refused_images = counter("refused_images", "Files that could not be read.")
        self.failures = counter("failures", "Failures of store, images or other.", ("of",))
        self.batch_sizes = histogram("batch_images", "Images in one batch.", buckets=SIZES)
        self.waiting = gauge("waiting_images", "Images in the queue.")
        self.hung_readers = gauge("hung_readers", "Threads that are stuck at one image.")
        self.held_bytes = gauge("held_bytes", "Bytes of requests in progress.")
        self.drift_alarm = gauge("drift_alarm", "1 since an alarm of the drift tests, else 0.")
        self.drift_cases = gauge("drift_cases", "Images that the drift tests have seen.")
        self.drift_e_value = gauge("drift_e_value", "Evidence of a drift test.", ("test",))


class ImageNotStoredError(Exception):
    """An image file could not be written."""


def problem_of(failure: Exception, metrics: Metrics, *, path: str) -> ProblemError:
    """Translate an exception for the client; log and count failures of the service itself.

    Args:
        failure: Of a request, or of one file in it.
        metrics: Counts the failure.
        path: The route, for the log.
    """
    match failure:
        case ProblemError():
            return failure
        case DataError() | UsageError():
            return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, str(failure))
        case ClientDisconnect():
            return ProblemError(HTTPStatus.BAD_REQUEST, "the client has disconnected")
        case SQLAlchemyError():
            return _unavailable("store", STORE_FAILED, failure, metrics, path)
        case ImageNotStoredError():
            return _unavailable("images", IMAGES_FAILED, failure.__cause__, metrics, path)
    metrics.failures.labels("other").inc()
    log.error("failure", exc_info=failure, extra={"fields": {"path": path}})
    return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, UNEXPECTED)


def record_failure(part: str, metrics: Metrics, **fields: str) -> None:
    """Log and count a failure of the store or of the image files."""
    metrics.failures.labels(part).inc()
    log.error(f"{part} failure", extra={"fields": fields})


def _unavailable(
    part: str, detail: str, cause: BaseException | None, metrics: Metrics, path: str
) -> ProblemError:
    record_failure(part, metrics, path=path, reason=storage_reason(cause))
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "5"})


def storage_reason(cause: BaseException | None) -> str:
    """The first line of a failure: PostgreSQL's further lines may hold values of a row."""
    message = getattr(cause, "strerror", None) or getattr(cause, "orig", None)
    lines = str(message or "").strip().splitlines()
    return lines[0] if lines else type(cause).__name__


class RequestLog:
    """The outermost middleware: logs and counts every request, and adds headers to its response."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.perf_counter(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
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

    Args:
        names: True if lines may contain file names. Otherwise an exception is logged by its type
            and line only, since its text may contain anything.
    """

    def __init__(self, *, names: bool = False) -> None:
        super().__init__()
        self._names = names

    def format(self, record: logging.LogRecord) -> str:
        created = datetime.fromtimestamp(record.created, UTC)
        content = {
            "time": created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1]:
            describe = self.formatException if self._names else _types_and_lines
            content["traceback"] = describe(record.exc_info)
        return json.dumps(content)


def _types_and_lines(exc_info: Any) -> str:
    """A traceback without the texts of its exceptions, the first cause first."""
    chain: list[BaseException] = [exc_info[1]]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    parts = [[*traceback.format_tb(one.__traceback__), type(one).__name__] for one in chain[::-1]]
    return "\n".join("".join(part) for part in parts)


def log_as_json(*, names: bool = False) -> None:
    """Write all log lines and warnings of this process to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(names=names))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
