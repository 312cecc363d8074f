"""Shared by the tests that run in a real browser."""

from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

playwright.expect.set_options(timeout=30_000)  # ends only what would never end

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
]
SIZES = {"wide": {"width": 1280, "height": 720}, "phone": {"width": 390, "height": 780}}
WCAG = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa")
RULES = {
    "light": {"type": "tag", "values": WCAG},
    "dark": {"type": "rule", "values": ("color-contrast", "link-in-text-block")},
}
"""By colour scheme: all, and those that depend on colours."""

UNFOLD = "for (const fold of document.querySelectorAll('details')) fold.open = true"

needs_chromium = pytest.mark.skipif(
    not CHROMIUM.exists(), reason="there is no /usr/bin/chromium to try the page in"
)


def violations(page, schemes=RULES):
    """Violations of WCAG 2.1 A and AA that axe finds, light and dark: rule, element, reason."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is missing")
    found = []
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        options = {"runOnly": RULES[scheme], "resultTypes": ["violations"]}
        response = axe.Axe().run(page, options=options).response
        assert response["passes"], "axe has looked at nothing"
        found += [
            (scheme, rule["id"], node["target"], node["failureSummary"])
            for rule in response["violations"]
            for node in rule["nodes"]
        ]
    return found
