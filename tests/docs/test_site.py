"""The site: the gallery, no violation of WCAG 2.1 AA that axe finds, search without a server."""

import html
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browsing import RULES, SIZES, UNFOLD, needs_chromium, violations

pytestmark = [pytest.mark.docs, needs_chromium]

ROOT = Path(__file__).parents[2]
SITE = ROOT / "site"
PAGES = [  # one of each kind
    "index",
    "404",
    "how_to/images",
    "how_to/clinic_service",
    "explanation/guarantee",
    "reference/command_line",
    "measurements/results",
    "gallery/index",
    "gallery/five_percent",
    "changelog",
]
# What the sentence under each figure of the gallery says, and what must be true of its numbers.
SEEN = {
    "class_or_superclass": (
        r"(\d+) % of the .* in (\d+) %\.",
        lambda alone, finest: finest < alone,
    ),
    "drift": (r"comes with batch (\d+);", lambda batch: batch > 1),
    "few_labels": (r"accept (\d+) % .* takes (\d+) %", lambda others, drawn: others < drawn),
    "five_percent": (
        r"accepts (\d+) %, and ([\d.]+) % of these",
        lambda n, wrong: n > 50 and wrong < 5,
    ),
    "language_model": (
        r"worth (\d+) %.* stated (\d+) %",
        lambda worth, at: worth < 88 and at < 100,
    ),
    "missed_target": (
        r"(\d+) %, the average .* (\d+) % .* (\d+) % \(",
        lambda obvious, _, confident: confident <= 10 < obvious,
    ),
    "photographs": (
        r"accepts (\d+) %, of which ([\d.]+) % are",
        lambda n, wrong: n > 50 and wrong < 5,
    ),
    "review_cost": (
        r"is ([\d.]+) and ([\d.]+), .* ([\d.]+)\.",
        lambda low, high, alone: low < high <= alone,
    ),
    "score_ranking": (r"([\d.]+) % .* that of the acceptance score", lambda error: error > 5),
    "sites": (r", ([\d.]+) % of .* each, ([\d.]+) %\.", lambda one, each: each <= 3 < one),
    "table": (r"says ([\d.]+) %, .* itself ([\d.]+) %\.", lambda stated, raw: raw < stated),
    "text": (r"([\d.]+) % of these .* all ([\d.]+) %\.", lambda accepted, every: accepted < every),
    "unlike_training": (r"(\d+) % of new .* (\d+) % of the s", lambda new, other: new <= 5 < other),
}


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


@pytest.mark.parametrize(
    "script", sorted((ROOT / "docs" / "gallery").glob("*.py")), ids=lambda path: path.stem
)
def test_each_script_of_the_gallery_draws_a_figure_and_says_what_one_sees(script):
    page = (SITE / "gallery" / f"{script.stem}.html").read_text(encoding="utf-8")
    question, _, _ = script.read_text(encoding="utf-8").removeprefix('"""').partition("\n")
    assert question.endswith("?")
    assert f"{question}<" in page
    assert f" {question}<" in (SITE / "gallery" / "index.html").read_text(encoding="utf-8")
    assert (SITE / "gallery" / f"{script.stem}.png").stat().st_size > 10_000
    (said,) = re.findall(rf'<img alt="([^"]+)" src="{script.stem}.png"', page)
    pattern, is_so = SEEN[script.stem]
    found = re.search(pattern, html.unescape(said))
    assert found, said
    assert is_so(*map(float, found.groups())), said


@pytest.mark.parametrize("name", PAGES)
def test_no_page_of_the_site_violates_anything(name, address, browser):
    page = browser.new_page()
    for size, schemes in (("wide", RULES), ("phone", ["light"])):
        page.set_viewport_size(SIZES[size])
        page.goto(f"{address}/{name}.html")
        page.evaluate(UNFOLD)
        assert violations(page, schemes) == []
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
