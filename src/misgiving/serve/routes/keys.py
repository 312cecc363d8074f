"""Signing in to the page with a key, and out again."""

from http import HTTPStatus
from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from misgiving.serve.authentication import COOKIE
from misgiving.serve.keys import Keys

router = APIRouter(include_in_schema=False)
FORM = files("misgiving.serve") / "page" / "sign_in.html"
UNKNOWN = '<p class="alert" role="alert">No such key opens the page.</p>'


@router.get("/sign-in")
async def show_form() -> HTMLResponse:
    """A form that asks for a key."""
    return HTMLResponse(FORM.read_text(encoding="utf-8").replace("{problem}", ""))


@router.post("/sign-in", response_model=None)
def sign_in(
    request: Request, key: Annotated[str, Form(max_length=200)]
) -> HTMLResponse | RedirectResponse:
    """Open a session of this browser."""
    keys: Keys = request.app.state.keys
    found = keys.find(key.strip())
    if found is None or found.role not in ("read", "operate"):
        content = FORM.read_text(encoding="utf-8").replace("{problem}", UNKNOWN)
        return HTMLResponse(content, HTTPStatus.UNAUTHORIZED)
    response = RedirectResponse("./", HTTPStatus.SEE_OTHER)
    is_secure = request.url.scheme == "https"
    response.set_cookie(
        COOKIE, keys.sign_in(found), httponly=True, samesite="strict", secure=is_secure
    )
    return response


@router.post("/sign-out")
def sign_out(request: Request) -> RedirectResponse:
    """End the session of this browser."""
    keys: Keys = request.app.state.keys
    keys.sign_out(request.cookies.get(COOKIE, ""))
    response = RedirectResponse("sign-in", HTTPStatus.SEE_OTHER)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response
