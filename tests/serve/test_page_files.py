"""The files of the page, without a browser."""

import re
from graphlib import TopologicalSorter
from importlib.resources import files

PAGE = files("misgiving.serve") / "page"


def test_every_file_of_the_page_is_used_and_served_and_no_module_imports_itself(shared):
    page = shared.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert 'href="page/style.css"' in page.text
    assert shared.get("/page/style.css").headers["content-type"].startswith("text/css")
    pending, graph = ["main.js"], {}
    while pending:
        name = pending.pop()
        answer = shared.get(f"/page/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/javascript")
        assert answer.headers["cache-control"] == "no-store"
        graph[name] = re.findall(r'from "\./([^"]+)"', answer.text)
        pending += [other for other in graph[name] if other not in graph]
    assert list(TopologicalSorter(graph).static_order())[-1] == "main.js"  # fails on a circle
    assert set(graph) == {path.name for path in PAGE.iterdir() if path.name.endswith(".js")}
