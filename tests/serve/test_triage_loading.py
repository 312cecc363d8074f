"""Cases that the page loads, and changes by others in the meantime."""

import pytest
from browsing import needs_chromium, playwright
from standin import picture
from triage import names, no_pictures, rewriting, said_by, stored

pytestmark = needs_chromium


def few_are_loaded(page):
    no_pictures(page)
    rewriting(page, "cases.js", "const MOST = 5000", "const MOST = 4")


@pytest.fixture
def more_than_are_loaded(page_service, opened):
    """Five reviewed cases of high risk, and an OOD one of low risk without a review."""
    for number in range(5):
        stored(page_service, number, error=0.4, reviewed_by="A")
    stored(page_service, 5, error=0.01, decision="ood")
    return opened(prepare=few_are_loaded)


def test_the_page_says_that_not_all_cases_are_loaded_and_counts_all(more_than_are_loaded):
    page = more_than_are_loaded
    playwright.expect(page.locator("#shown")).to_have_text(
        "4 of 6 cases; 2 more match but are not loaded"
    )
    playwright.expect(page.locator("#counts")).to_contain_text("defer 5")
    playwright.expect(page.locator("#counts")).to_contain_text("unfamiliar 1")
    page.locator("#setting summary").first.click()
    page.locator("#target").fill("30")
    playwright.expect(page.locator("#setting-now")).to_contain_text("4 loaded cases")


@pytest.mark.parametrize("way", ["ood", "unreviewed", "newest", "decision"])
def test_a_filter_or_order_finds_what_was_not_loaded_before(way, more_than_are_loaded):
    page = more_than_are_loaded
    if way == "ood":
        page.get_by_role("checkbox", name="unfamiliar").check()
    elif way == "unreviewed":
        page.locator("#reviewed").select_option("no")
    else:
        page.locator("#order").select_option(way)
    playwright.expect(page.locator(".row .file").first).to_have_text("5.png")
    shown = "1 of 6 cases" if way in ("ood", "unreviewed") else "4 of 6 cases; 2 more"
    playwright.expect(page.locator("#shown")).to_contain_text(shown)


def test_a_previewed_target_loads_cases_that_it_moves_into_the_filter(page_service, opened):
    fingerprint = page_service.service.policy_fingerprint
    for number in range(5):
        stored(page_service, number, error=0.4, decision="accept")
    stored(page_service, 9, error=0.02, policy_fingerprint=fingerprint)
    page = opened("#show=accept", prepare=few_are_loaded)
    playwright.expect(page.locator("#shown")).to_contain_text("4 of 6 cases; 1 more")
    page.locator("#order").select_option("newest")
    page.locator("#setting summary").first.click()
    page.locator("#target").fill("30")
    playwright.expect(page.locator(".row .was")).to_have_text("was defer")


@pytest.mark.parametrize(
    ("kept", "other"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_a_missing_image_does_not_affect_other_images(kept, other, browser, page_service):
    stored(page_service, 2, error=0.4, image_kept=kept)
    stored(page_service, 1, error=0.3, image_kept=other)
    asked = []

    def answer(route):
        asked.append(route.request.url)
        if f"{2:032x}" in route.request.url:
            route.fulfill(status=404)
        else:
            route.fulfill(body=picture(0.4), content_type="image/png")

    page = browser.new_page()
    page.route("**/thumbnail", answer)
    page.goto(page_service.address)
    playwright.expect(page.locator(".row").first.locator(".thumb")).to_have_text("no image")
    page.wait_for_timeout(500)
    playwright.expect(page.locator(".row").last.locator("img")).to_have_count(1)
    page.locator(".row").first.click()
    playwright.expect(page.locator("#no-image")).to_contain_text("another instance received it")
    page.close()
    assert len(asked) == 3  # by the element, then for why it has not come; and the other one


def test_an_image_that_was_not_available_is_loaded_later(browser, page_service):
    for number, error in ((2, 0.4), (1, 0.3)):
        stored(page_service, number, error=error)
    answers = {"now": "unreachable"}

    def answer(route):
        if answers["now"] == "unreachable":
            route.abort()
        elif answers["now"] == "busy":
            route.fulfill(status=503)
        else:
            route.fulfill(body=picture(0.4), content_type="image/png")

    page = browser.new_page()
    rewriting(page, "thumbnails.js", "LATER = 5000", "LATER = 300")
    page.route("**/thumbnail", answer)
    page.goto(page_service.address)
    page.locator(".row").first.click()
    for now in ("busy", "there"):
        page.wait_for_timeout(500)
        answers["now"] = now
    pictures = "[...document.querySelectorAll('.thumb img, #case-image')]"
    page.wait_for_function(f"() => {pictures}.every((one) => one.naturalWidth)")
    playwright.expect(page.locator(".thumb img")).to_have_count(2)
    page.close()


def look_again(page):
    """Return to the tab."""
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")


def test_changes_by_others_appear_and_scroll_selection_and_note_stay(page_service, opened):
    cases = [stored(page_service, number, error=0.3 - number / 100) for number in range(30)]
    page = opened(prepare=no_pictures)
    page.locator("#list").evaluate("(list) => { list.scrollTop = 640; }")
    page.get_by_role("option").filter(has_text="12.png").click()
    page.locator("#note").fill("mine")
    stored(page_service, 100, error=0.45, name="urgent.png")
    page_service.store.review(cases[12].id, said_by("B", "light"))
    page_service.store.review(cases[13].id, said_by("B"))
    look_again(page)
    playwright.expect(page.locator("#counts")).to_contain_text("defer 31")
    playwright.expect(page.locator("#shown")).to_have_text("31 of 31 cases")
    playwright.expect(page.locator(".row .done")).to_have_count(2)
    playwright.expect(page.locator("#status")).to_have_text("B has reviewed this case: light.")
    playwright.expect(page.locator("#history")).to_contain_text("B, ")
    playwright.expect(page.locator("#note")).to_have_value("mine")
    assert page.locator("#list").evaluate("(list) => list.scrollTop") == 640 + 64
    page.locator("#list").evaluate("(list) => { list.scrollTop = 0; }")
    playwright.expect(page.locator(".row .file").first).to_have_text("urgent.png")


def test_the_page_looks_for_new_cases_cheaply(page_service, opened):
    stored(page_service, 1)
    asked = []

    def prepare(page):
        no_pictures(page)
        page.clock.install()
        page.on("response", lambda one: asked.append(one) if "_after" in one.url else None)

    page = opened(prepare=prepare)
    stored(page_service, 2)
    asked.clear()
    page.clock.fast_forward(20_000)
    playwright.expect(page.locator("#shown")).to_have_text("2 of 2 cases")
    assert [len(one.json()["cases"]) for one in asked] == [1, 0]


def test_a_case_that_is_opened_shows_the_reviews_of_others(page_service, opened):
    one = stored(page_service, 1)
    page = opened(prepare=no_pictures)
    page_service.store.review(one.id, said_by("B. C.", "light"))
    page.locator(".row").click()
    playwright.expect(page.locator("#history")).to_contain_text("B. C., ")
    playwright.expect(page.locator(".row .done")).to_have_count(1)


def test_many_new_cases_reload_the_list(page_service, opened):
    def prepare(page):
        no_pictures(page)
        rewriting(page, "cases.js", "const PAGE = 500", "const PAGE = 1")

    stored(page_service, 1)
    page = opened(prepare=prepare)
    for number in range(12):
        stored(page_service, 2 + number)
    look_again(page)
    playwright.expect(page.locator("#shown")).to_have_text("13 of 13 cases")


def test_a_list_of_unreviewed_cases_loads_further_ones(page_service, opened):
    for number in range(6):
        stored(page_service, number, error=0.4 - number / 100)
    page = opened("#reviewed=no", prepare=few_are_loaded)
    playwright.expect(page.locator("#shown")).to_contain_text("4 of 6 cases; 2 more")
    page.locator("#list").focus()
    page.keyboard.press("j")
    page.keyboard.press("a")
    playwright.expect(page.locator("#shown")).to_have_text(
        "4 of 6 cases; 1 more match but are not loaded"
    )
    assert names(page) == ["1.png", "2.png", "3.png", "4.png"]


def test_a_click_during_which_the_list_is_drawn_again_opens_its_case(page_service, opened):
    stored(page_service, 1, error=0.3)
    page = opened(prepare=no_pictures)
    page.locator(".row").hover()
    page.mouse.down()
    stored(page_service, 2, error=0.2)
    look_again(page)
    playwright.expect(page.locator(".row")).to_have_count(2)
    page.mouse.up()
    playwright.expect(page.locator("#case-name")).to_have_text("1.png")
