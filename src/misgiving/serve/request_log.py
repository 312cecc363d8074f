"""Around every request: its log line, its counts, its headers, and its end where all else fails."""

import logging
import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from misgiving.serve.failures import explained
from misgiving.serve.monitoring import Monitoring

log = logging.getLogger("misgiving.serve")

METHODS = ("GET", "HEAD", "POST", "OPTIONS")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob: data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Observing:
    """Sees every request from its head to the end of its answer."""

    def __init__(self, app: ASGIApp, *, monitoring: Monitoring) -> None:
        self._app, self._monitoring = app, monitoring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        started = time.perf_counter()
        try:
            await self._app(scope, receive, answer.send)
        except Exception as failure:
            problem = explained(failure, self._monitoring, path=route_of(scope))
            if not answer.status:
                await problem.response()(scope, receive, answer.send)
        finally:
            self._note(scope, answer.status, time.perf_counter() - started)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        path = route_of(scope)
        self._monitoring.requests.labels(method, path, status).inc()
        self._monitoring.request_seconds.labels(method, path).observe(seconds)
        fields = {"method": method, "path": path, "status": status, "seconds": round(seconds, 4)}
        log.info("request", extra={"fields": fields})


class _Answer:
    """Sends on, with the headers that every answer has; remembers the status."""

    def __init__(self, send: Send) -> None:
        self._send, self.status = send, 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-store")
        await self._send(message)


def route_of(scope: Scope) -> str:
    """The route as it was declared: what a client makes up gets no count of its own."""
    return str(getattr(scope.get("route"), "path", "other"))
