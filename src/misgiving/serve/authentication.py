"""Authentication of requests: by a key or a session, or from this machine without keys."""

import ipaddress
import logging
import re
from functools import partial
from http import HTTPStatus
from urllib.parse import urlsplit

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from misgiving.serve.keys import Key, Keys
from misgiving.serve.middleware import KEY_SCOPE
from misgiving.serve.problems import ProblemError
from misgiving.serve.settings import Role

log = logging.getLogger("misgiving.serve")

COOKIE = "misgiving"
MAX_LOGGED = 200  # characters of a request that is refused
TOKEN = re.compile(rf"(?:^|;) *{COOKIE}=([A-Za-z0-9_-]+)")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
HEALTH = "GET /health"  # waits for no database
PAGES = ("GET /", "GET /monitor")  # lead to the form that asks for a key
OPEN = re.compile(r"GET /health|(GET|POST) /sign-in|GET /page/.*")  # need no key
EVERYBODY = r"POST /sign-out|GET /openapi\.json"
REVIEW = r"POST /cases/[^/]+/review"
OPENS: dict[Role, re.Pattern[str]] = {
    "send": re.compile(rf"POST /decisions|GET /cases/[^/]+(/image)?|GET /model|{EVERYBODY}"),
    "read": re.compile(
        rf"GET /(cases(\.csv|/.*)?|model|calibration|audit)?|{REVIEW}|{EVERYBODY}",
    ),
    "operate": re.compile(rf"(?!{REVIEW}$).*"),
    "metrics": re.compile(rf"GET /metrics|{EVERYBODY}"),
}
"""Method and path of the requests that a role opens; a send key sees its own cases alone."""
USE = re.compile(r"POST .*|GET /cases/[0-9a-f]{32}")
"""Requests that a page makes for its reader, and not by itself."""


class Authentication:
    """Requires a key or a session, or without keys a loopback address; refuses cross-site requests.

    None of the body of a refused request is read.
    """

    def __init__(self, app: ASGIApp, *, keys: Keys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            secret, is_session = _secret_of(scope, headers)
            request = f"{scope['method'].replace('HEAD', 'GET')} {scope['path']}"
            key, exist = await self._find(secret, request, is_session=is_session)
            if key is not None:
                scope[KEY_SCOPE] = key
            if problem := _problem(scope["method"], request, headers, key, exist):
                if problem.problem.status == HTTPStatus.UNAUTHORIZED and request in PAGES:
                    await RedirectResponse("sign-in", HTTPStatus.SEE_OTHER)(scope, receive, send)
                    return
                if secret:
                    client = (scope.get("client") or ("", 0))[0]
                    fields = {"client": client, "request": request[:MAX_LOGGED]}
                    log.warning("refused", extra={"fields": fields})
                raise problem
        await self._app(scope, receive, send)

    async def _find(
        self, secret: str, request: str, *, is_session: bool
    ) -> tuple[Key | None, bool]:
        if request == HEALTH:
            return None, True
        is_use = USE.fullmatch(request) is not None
        find = partial(self._key, secret, is_session=is_session, is_use=is_use)
        recalled = self._keys.is_recalled(secret, is_session=is_session)
        if recalled and not (is_session and is_use):
            return find()
        # abandoned, where the database does not answer in time
        return await to_thread.run_sync(find, abandon_on_cancel=True)

    def _key(self, secret: str, *, is_session: bool, is_use: bool) -> tuple[Key | None, bool]:
        exist = self._keys.exist()
        if not (exist and secret):
            return None, exist
        key = self._keys.session(secret, is_use=is_use) if is_session else self._keys.find(secret)
        return key, True


def _problem(
    method: str, request: str, headers: Headers, key: Key | None, exist: bool
) -> ProblemError | None:
    if not exist and not is_loopback(_host(headers.get("host", ""))):
        return ProblemError(
            HTTPStatus.FORBIDDEN,
            "without keys, the service is only available on this machine, as localhost or "
            "127.0.0.1",
        )
    if method not in SAFE_METHODS and _is_cross_site(headers):
        return ProblemError(
            HTTPStatus.FORBIDDEN,
            "the request comes from a page of another site; a proxy must forward the Host header",
        )
    if not exist or OPEN.fullmatch(request):
        return None
    if key is None:
        return ProblemError(
            HTTPStatus.UNAUTHORIZED,
            "send a key as `Authorization: Bearer KEY`, or sign in on the page",
            headers={"WWW-Authenticate": "Bearer"},
        )
    if not OPENS[key.role].fullmatch(request):
        return ProblemError(HTTPStatus.FORBIDDEN, f"a key to {key.role} does not open {request}")
    return None


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


def _secret_of(scope: Scope, headers: Headers) -> tuple[str, bool]:
    """The key that was sent, or else the token of a session, and whether it is one.

    Other cookies are left out of the scope: Python's parser can take a second for them.
    """
    token = TOKEN.search(headers.get("cookie", ""))
    session = token[1] if token else ""
    others = [field for field in scope["headers"] if field[0] != b"cookie"]
    scope["headers"] = [*others, (b"cookie", f"{COOKIE}={session}".encode())]
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return (value.strip(), False) if scheme.lower() == "bearer" else (session, bool(session))
