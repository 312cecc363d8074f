"""Who may ask: holders of the key, or this machine alone; never a foreign page in a browser."""

import base64
import binascii
import hmac
import ipaddress
from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from misgiving.serve.problems import ProblemError

OPEN = ("/health",)
SAFE = ("GET", "HEAD", "OPTIONS")
CHALLENGE = 'Basic realm="misgiving", charset="UTF-8"'


class Gate:
    """Lets a request in, or answers it with a problem, before any of its body is read."""

    def __init__(self, app: ASGIApp, *, api_key: str | None) -> None:
        self._app, self._key = app, api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await refusal.response()(scope, receive, send)

    def _refusal(self, scope: MutableMapping[str, Any]) -> ProblemError | None:
        headers = Headers(scope=scope)
        if self._key is None and not is_loopback(_host(headers.get("host", ""))):
            return ProblemError(
                HTTPStatus.FORBIDDEN,
                "without an API key only this machine is answered, as localhost or 127.0.0.1",
            )
        if scope["method"] not in SAFE and _from_another_site(headers):
            return ProblemError(
                HTTPStatus.FORBIDDEN,
                "the request comes from a page of another site; behind a proxy, let it pass the "
                "Host header on",
            )
        if scope["path"] in OPEN or self._key is None or self._has_key(headers):
            return None
        return ProblemError(
            HTTPStatus.UNAUTHORIZED,
            "send the API key as `Authorization: Bearer KEY`, or as the password of Basic "
            "authentication",
        ).with_header("WWW-Authenticate", CHALLENGE)

    def _has_key(self, headers: Headers) -> bool:
        """Compared in constant time, so that its time does not tell how much of it is right."""
        given = _given_key(headers.get("authorization", ""))
        return hmac.compare_digest(given, (self._key or "").encode())


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own.

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


def _from_another_site(headers: Headers) -> bool:
    """Whether a browser says that another site's page has sent this."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host", "")


def _given_key(authorization: str) -> bytes:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode("latin-1")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""
