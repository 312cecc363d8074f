"""The site: no violation of WCAG 2.1 AA that axe finds, light and dark; search without a server."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browsing import SIZES, needs_chromium, violations

pytestmark = [pytest.mark.docs, needs_chromium]

SITE = Path(__file__).parents[2] / "site"
PAGES = [  # one of each kind
    "index",
    "404",
    "tutorials/engineer",
    "how_to/clinic_service",
    "explanation/guarantee",
    "reference/api",
    "reference/command_line",
    "measurements/results",
    "examples/joint_training",
    "changelog",
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    """The site on a web server, so that the pages are as a reader of the web sees them."""
    assert (SITE / "index.html").exists(), "make docs builds the site"
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=SITE))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("name", PAGES)
def test_no_page_of_the_site_violates_anything(name, address, browser):
    page = browser.new_page()
    for size in SIZES.values():
        page.set_viewport_size(size)
        page.goto(f"{address}/{name}.html")
        assert violations(page) == []
    page.close()


@pytest.mark.parametrize("name", ["index", "how_to/clinic_service"])
def test_the_search_finds_a_page_where_the_site_is_opened_from_the_disk(name, browser):
    page = browser.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((SITE / f"{name}.html").as_uri())
    box, ready = page.get_by_role("textbox", name="Search"), "Type to start searching"
    box.focus()
    page.locator(".md-search-result__meta", has_text=ready).wait_for(state="attached")
    box.press_sequentially("Clopper-Pearson")
    found = page.locator(".md-search-result__link").first
    found.wait_for()
    assert found.get_attribute("href").startswith(SITE.as_uri())
    assert all(url.startswith("file:") for url in asked)
    page.close()
