"""`/`: the page, and the files that it is made of."""

from http import HTTPStatus
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

from misgiving.serve.problems import ProblemError

router = APIRouter(include_in_schema=False)

PARTS = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}

MODULES = (
    "deciding.js",
    "detail.js",
    "drift.js",
    "loading.js",
    "pictures.js",
    "remembering.js",
    "renewing.js",
    "reviewing.js",
    "saliency.js",
    "sending.js",
    "setting.js",
    "shared.js",
    "worklist.js",
)


@router.get("/")
def page() -> Response:
    """The page for a person at a screen."""
    return _part("page.html")


@router.get("/page.css")
def style() -> Response:
    """How it looks."""
    return _part("page.css")


@router.get("/page.js")
def script() -> Response:
    """What it does."""
    return _part("page.js")


@router.get("/script/{name}")
def part_of_script(name: str) -> Response:
    """One of the modules that the script imports."""
    if name not in MODULES:
        raise ProblemError(HTTPStatus.NOT_FOUND, "there is no such module of the page")
    return _part(f"script/{name}", media_type="text/javascript")


def _part(name: str, *, media_type: str | None = None) -> Response:
    """A file of the package; nothing of a request becomes part of its path."""
    file = files("misgiving.serve") / name
    if not file.is_file():
        raise ProblemError(
            HTTPStatus.NOT_FOUND, f"{name} is not installed; install misgiving again"
        )
    return Response(file.read_bytes(), media_type=f"{media_type or PARTS[name]}; charset=utf-8")
