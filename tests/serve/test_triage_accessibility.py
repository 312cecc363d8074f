"""The page and axe: no violation of WCAG 2.1 AA in any of its states, in light and in dark."""

import pytest
from browsing import SIZES, needs_chromium, violations
from triage import GREEN, changing, choose, expect, files, picture, shades

pytestmark = needs_chromium

CASES = {**shades(), "odd.png": picture(colour=GREEN)}


def with_cases(page):
    choose(page, CASES)


def reviewing(page):
    choose(page, CASES)
    page.locator(".row").nth(1).click()
    page.locator("#agree").click()
    expect(page.locator("#saved")).to_be_visible()
    page.locator("#note").fill("border unclear")
    page.get_by_text("Scores and exact reason").click()
    page.locator("#zoom-in").click()
    page.locator("#saliency").click()
    expect(page.locator("#heat")).to_be_visible()


def reviewed(page):
    choose(page, CASES)
    page.locator(".row").first.click()
    page.locator("#agree").click()
    expect(page.locator("#saved")).to_be_visible()
    page.keyboard.press("u")
    expect(page.locator("#history li")).to_have_count(1)


def several_in_the_grid(page):
    choose(page, CASES)
    page.keyboard.press("v")
    page.locator(".row").nth(1).click()
    page.locator(".row").nth(3).click(modifiers=["Shift"])
    expect(page.locator("#batch-count")).to_have_text("3 selected")


def about(page):
    page.get_by_role("button", name="Model and policy").click()
    for fold in page.locator("#about summary").all():
        fold.click()


def shortcuts(page):
    page.keyboard.press("?")


def slider_and_banner_open(page):
    """With a file that failed, and one that was sent twice."""
    choose(page, CASES)
    again = files({"again.png": picture(0.45), "broken.png": b"no image"})
    page.locator("#files").set_input_files(again)
    expect(page.locator("#failures")).to_be_visible()
    expect(page.locator("#known")).to_be_visible()
    page.locator("#setting > summary").click()
    page.get_by_text("What this means").click()
    page.locator("#target").fill("7.5")
    page.locator("#drift > summary").click()
    page.locator("#failures > summary").click()


def nothing_found(page):
    choose(page, CASES)
    page.locator("#search").fill("no such name")
    expect(page.locator("#empty")).to_be_visible()


def empty(page):
    expect(page.locator("#start")).to_be_visible()


STATES = [
    empty,
    with_cases,
    reviewing,
    reviewed,
    several_in_the_grid,
    about,
    shortcuts,
    slider_and_banner_open,
    nothing_found,
]


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@pytest.mark.parametrize("size", SIZES)
def test_no_state_of_the_page_violates_anything(size, state, opened):
    def alarm(page):
        changing(page, "**/drift", lambda drift: drift.update(alarm=True))

    page = opened(viewport=SIZES[size], prepare=alarm)
    state(page)
    assert violations(page) == []
    identities = page.evaluate("() => [...document.querySelectorAll('[id]')].map((it) => it.id)")
    assert len(identities) == len(set(identities))


def test_the_message_of_a_failed_review_violates_nothing(opened):
    page = opened()
    choose(page, CASES)
    page.route("**/review", lambda route: route.abort())
    page.locator(".row").first.click()
    page.locator("#agree").click()
    expect(page.locator("#problem")).to_be_visible()
    opened.errors.clear()  # a browser notes each request that failed
    assert violations(page) == []
