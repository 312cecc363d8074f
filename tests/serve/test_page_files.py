"""The files of the page, without a browser."""

import re
from graphlib import TopologicalSorter
from importlib.resources import files
from urllib.parse import urljoin

import pytest

PAGE = files("misgiving.serve") / "page"


def imports_of(text):
    return re.findall(r'from "(\./[^"]+)"', text)


def test_modules_of_the_page_do_not_import_each_other_in_a_circle():
    modules = {path.name: path.read_text() for path in PAGE.iterdir() if path.name.endswith(".js")}
    graph = {name: [path[2:] for path in imports_of(text)] for name, text in modules.items()}
    order = list(TopologicalSorter(graph).static_order())  # fails on a circle
    assert sorted(order) == sorted(modules)
    assert order[-1] == "main.js"


@pytest.mark.parametrize(
    "name", ["../app.py", "app.py", "..%2fapp.py", "%2e%2e/app.py", "nothing.js", ""]
)
def test_only_files_of_the_page_are_served_with_it(name, shared):
    assert shared.get(f"/page/{name}").status_code == 404


def test_every_file_that_the_page_uses_is_served_with_its_type(shared):
    page = shared.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert 'href="page/style.css"' in page.text
    assert shared.get("/page/style.css").headers["content-type"].startswith("text/css")
    pending, seen = ["/page/main.js"], set()
    while pending:
        path = pending.pop()
        seen.add(path)
        answer = shared.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/javascript")
        assert answer.headers["cache-control"] == "no-store"
        pending += sorted({urljoin(path, name) for name in imports_of(answer.text)} - seen)
    assert {path.rpartition("/")[2] for path in seen} == {
        path.name for path in PAGE.iterdir() if path.name.endswith(".js")
    }
