"""Authentication by API key, or by loopback address without one; refuses cross-site requests."""

import base64
import binascii
import hmac
import ipaddress
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from misgiving.serve.problems import ProblemError

OPEN_PATHS = ("/health",)  # needs no key
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
CHALLENGE = {"WWW-Authenticate": 'Basic realm="misgiving", charset="UTF-8"'}


class Authentication:
    """Refuses a request before any of its body is read."""

    def __init__(self, app: ASGIApp, *, api_key: str | None) -> None:
        self._app, self._key = app, api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = self._problem(scope) if scope["type"] == "http" else None
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
        key = _sent_key(headers.get("authorization", ""))
        if hmac.compare_digest(key, self._key.encode()):  # in constant time
            return None
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
    except (binascii.Error, ValueError):
        return b""
