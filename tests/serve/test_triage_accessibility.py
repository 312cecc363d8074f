"""The page and axe: no violation of WCAG 2.1 AA in any of its states, in light and in dark."""

import pytest
from browsing import SIZES, needs_chromium, violations
from triage import GREEN, changing, choose, expect, files, picture, shades, start_again

pytestmark = needs_chromium


def empty(page):
    expect(page.locator("#start")).to_be_visible()


def cases_slider_and_banners(page):
    """With a file that failed, and one that was sent twice."""
    choose(page, {**shades(), "odd.png": picture(colour=GREEN)})
    again = files({"again.png": picture(0.45), "broken.png": b"no image"})
    page.locator("#files").set_input_files(again)
    expect(page.locator("#failures")).to_be_visible()
    expect(page.locator("#known")).to_be_visible()
    page.locator("#setting > summary").click()
    page.get_by_text("What this means").click()
    page.locator("#target").fill("7.5")
    page.locator("#drift > summary").click()
    page.locator("#failures > summary").click()


def reviewing_after_a_review_that_failed(page):
    page.locator(".row").nth(1).click()
    page.locator("#agree").click()
    expect(page.locator("#saved")).to_be_visible()
    page.keyboard.press("u")
    expect(page.locator("#history li")).to_have_count(1)
    page.locator("#note").fill("border unclear")
    page.get_by_text("Scores and exact reason").click()
    page.locator("#zoom-in").click()
    page.locator("#saliency").click()
    expect(page.locator("#heat")).to_be_visible()
    page.route("**/review", lambda route: route.abort())
    page.locator("#agree").click()
    expect(page.locator("#problem")).to_be_visible()


def several_in_the_grid(page):
    page.keyboard.press("v")
    page.locator(".row").nth(1).click()
    page.locator(".row").nth(3).click(modifiers=["Shift"])
    expect(page.locator("#batch-count")).to_have_text("3 selected")


def no_match_and_about(page):
    page.locator("#search").fill("no such name")
    expect(page.locator("#empty")).to_be_visible()
    page.get_by_role("button", name="Model and policy").click()
    for fold in page.locator("#about summary").all():
        fold.click()


def shortcuts(page):
    page.keyboard.press("?")


PHONE = (cases_slider_and_banners, reviewing_after_a_review_that_failed, several_in_the_grid)
STATES = {"wide": (empty, *PHONE, no_match_and_about, shortcuts), "phone": PHONE}


@pytest.mark.parametrize("size", SIZES)
def test_no_state_of_the_page_violates_anything(size, opened):
    def alarm(page):
        changing(page, "**/drift", lambda drift: drift.update(alarm=True))

    page = opened(viewport=SIZES[size], prepare=alarm)
    for state in STATES[size]:
        start_again(page)
        state(page)
        schemes = ("light", "dark") if size == "wide" else ("light",)  # the colours are the same
        assert violations(page, schemes) == [], state.__name__
        identities = page.evaluate(
            "() => [...document.querySelectorAll('[id]')].map((element) => element.id)"
        )
        assert len(identities) == len(set(identities))
    opened.errors.clear()  # a browser notes the request that failed
