"""Authentication: the API key and the keys of readers; without a key, only this machine."""

import base64
import binascii
import hmac
import ipaddress
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from misgiving.errors import explain_damage
from misgiving.serve.problems import ProblemError
from misgiving.serve.settings import ServiceSettings

OPEN_PATHS = ("/health",)  # needs no key
READER_PATHS = ("/page/", "/cases", "/model", "/calibration", "/openapi.json")
READER_SCOPE = "misgiving.reader"  # key of a scope for the name of the reader whose key was sent
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
CHALLENGE = {"WWW-Authenticate": 'Basic realm="misgiving", charset="UTF-8"'}


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


def read_key(file: Path | None, variable: str | None) -> str | None:
    """The API key from a file, else from the environment variable's value, else None.

    Raises:
        DataError: The file is missing, or is not the text of one key.
    """
    if file is None:
        return variable and variable.strip()
    with explain_damage(file, remedy="write a key into it with: openssl rand -hex 32"):
        words = file.read_text(encoding="utf-8").split()
        if len(words) != 1:
            raise ValueError(f"{len(words)} words, where a key is one")
        return words[0]


def read_reviewer_keys(file: Path | None) -> dict[str, str]:
    """Names of readers by their keys, from lines of a key and a name.

    Raises:
        DataError: The file is missing, or a line has no name.
    """
    if file is None:
        return {}
    with explain_damage(file, remedy="give a line of KEY NAME for each reader"):
        lines = filter(str.strip, file.read_text(encoding="utf-8").splitlines())
        return {key: name.strip() for key, name in (line.split(maxsplit=1) for line in lines)}
