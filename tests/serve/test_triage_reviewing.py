"""Reviews on the page: keys, notes, undoing, and two people at once."""

import re

import pytest
from browsing import needs_chromium, playwright
from triage import choose, no_pictures, reload, said_by, shades, stored

pytestmark = needs_chromium


def test_cases_are_reviewed_with_the_keyboard_alone(opened):
    page = opened()
    choose(page, shades())
    page.locator("#list").focus()
    page.keyboard.press("j")
    playwright.expect(page.locator("#case-name")).to_have_text("doubtful.png")
    page.keyboard.press("a")
    playwright.expect(page.locator("#status")).to_have_text("Saved: dark for doubtful.png.")
    playwright.expect(page.locator("#case-name")).to_have_text("middling.png")
    page.keyboard.press("n")
    page.keyboard.type("a jk note")
    page.keyboard.press("Escape")
    page.keyboard.press("o")
    playwright.expect(page.locator("#classes button")).to_have_count(2)
    page.keyboard.press("2")
    playwright.expect(page.locator("#status")).to_have_text("Saved: light for middling.png.")
    page.keyboard.press("k")
    playwright.expect(page.locator("#case-class")).to_have_text("light")
    playwright.expect(page.locator("#case-was")).to_have_text("was dark")
    playwright.expect(page.locator("#history")).to_contain_text("overrode, light\na jk note")
    page.keyboard.press("?")
    playwright.expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    playwright.expect(page.locator(".row .done")).to_have_count(2)


def test_classes_that_are_digits_are_their_own_keys(opened):
    page = opened()
    choose(page, shades())
    worst = {}

    def renamed(route):
        found = route.fetch().json()
        for one in found.get("cases", [found]):
            one["probabilities"] = {"0": 0.2, "4": 0.3, "7": 0.5}
            if one["name"] == "doubtful.png":
                worst.update(one)
        route.fulfill(json=found)

    def saved(route):
        said = route.request.post_data_json
        remark = {"verdict": "override", "final_class": said["class"], "note": "", "reviewer": ""}
        moment = {"reviewed_at": "2030-01-01T00:00:00Z"}
        route.fulfill(json={**worst, "reviewed": True, "review": {**remark, **moment}})

    page.route(re.compile(r"/cases(\?.*|/[0-9a-f]{32})$"), renamed)
    reload(page)
    page.locator(".row").first.click()
    page.keyboard.press("o")
    assert page.locator("#classes kbd").all_inner_texts() == ["0", "4", "7"]
    page.route("**/review", saved)
    page.keyboard.press("4")
    playwright.expect(page.locator("#status")).to_have_text("Saved: 4 for doubtful.png.")


def held(page, key, times):
    """Hold a key down: the browser repeats it."""
    page.keyboard.down(key)
    for _ in range(times - 1):
        page.keyboard.down(key)
    page.keyboard.up(key)


def test_a_key_that_is_held_reviews_one_case_and_moves_through_many(opened):
    page = opened()
    choose(page, shades())
    page.locator("#list").focus()
    held(page, "j", 2)
    playwright.expect(page.locator("#case-name")).to_have_text("middling.png")
    held(page, "a", 8)
    playwright.expect(page.locator("#case-name")).to_have_text("quite.png")
    page.wait_for_timeout(300)
    playwright.expect(page.locator(".row .done")).to_have_count(1)


@pytest.fixture
def slow_reviews(opened):
    """A page whose reviews are held back, and the function that releases one."""
    page, waiting = opened(), []
    choose(page, shades())
    page.route("**/review", lambda route: waiting.append(route))

    def arrived():
        while not waiting:  # a request comes later than what the page shows
            page.wait_for_timeout(20)
        return waiting

    def go():
        arrived().pop(0).continue_()

    go.arrived = arrived
    yield page, go
    for route in waiting:  # of a test that failed: the page would wait for it without end
        route.continue_()


@pytest.fixture
def slowly_agreeing(slow_reviews):
    """The page while its first review is being saved, and the function that releases it."""
    page, go = slow_reviews
    page.locator("#list").focus()
    page.keyboard.press("j")
    page.keyboard.press("a")
    return page, go


def test_a_review_waits_for_the_previous_one(slow_reviews):
    page, go = slow_reviews
    page.keyboard.press("j")
    page.keyboard.press("a")
    page.keyboard.press("a")
    playwright.expect(page.locator("#status")).to_contain_text("still being saved")
    assert len(go.arrived()) == 1
    go()
    playwright.expect(page.locator("#case-name")).to_have_text("middling.png")


@pytest.mark.parametrize("place", ["#target", "#choose-files", "[name=decision]", "#csv"])
def test_keys_review_nothing_while_another_control_has_the_focus(place, opened):
    page = opened()
    choose(page, shades())
    page.locator("#setting summary").first.click()
    page.locator(".row").first.click()
    page.locator(place).first.focus()
    page.keyboard.press("a")
    page.keyboard.press("j")
    page.wait_for_timeout(200)
    playwright.expect(page.locator("#case-name")).to_have_text("doubtful.png")
    playwright.expect(page.locator(".row .done")).to_have_count(0)


@pytest.mark.parametrize("way", ["key", "button"])
def test_a_review_is_undone_by_another_one_and_both_are_kept(way, opened):
    page = opened("#reviewed=no")
    choose(page, shades())
    page.locator("#list").focus()
    page.keyboard.press("j")
    page.locator("#note").fill("too fast")
    page.locator("#agree").click()
    playwright.expect(page.locator("#case-name")).to_have_text("middling.png")
    playwright.expect(page.locator("#saved")).to_contain_text("Saved: dark for doubtful.png.")
    page.keyboard.press("u") if way == "key" else page.locator("#undo").click()
    playwright.expect(page.locator("#case-name")).to_have_text("doubtful.png")
    playwright.expect(page.locator("#note")).to_have_value("too fast")
    page.keyboard.press("o")
    page.keyboard.press("2")
    playwright.expect(page.locator("#case-name")).to_have_text("middling.png")
    (found,) = page.evaluate("() => fetch('cases?reviewed=true').then((one) => one.json())")[
        "cases"
    ]
    assert (found["name"], found["review"]["final_class"]) == ("doubtful.png", "light")


def test_single_keys_can_be_switched_off_and_stay_off(opened):
    page = opened()
    choose(page, shades())
    page.keyboard.press("?")
    page.locator("#shortcuts").uncheck()
    page.keyboard.press("Escape")
    reload(page)
    page.locator("#list").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("a")
    page.keyboard.press("j")
    page.wait_for_timeout(200)
    playwright.expect(page.locator("#case-name")).to_have_text("doubtful.png")
    playwright.expect(page.locator(".row .done")).to_have_count(0)
    playwright.expect(page.locator("#agree kbd")).to_be_hidden()


def test_a_slow_review_does_not_move_the_reviewer(slowly_agreeing):
    page, go = slowly_agreeing
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("n")
    page.keyboard.type("half a")
    go()
    playwright.expect(page.locator("#status")).to_have_text("Saved: dark for doubtful.png.")
    page.keyboard.type(" note")
    playwright.expect(page.locator("#case-name")).to_have_text("quite.png")
    playwright.expect(page.locator("#note")).to_have_value("half a note")
    playwright.expect(page.locator("#note")).to_be_focused()


def test_a_note_started_during_a_review_stays_with_its_case(slowly_agreeing):
    page, go = slowly_agreeing
    page.keyboard.press("n")
    page.keyboard.type("late")
    go()
    playwright.expect(page.locator("#history li")).to_have_count(1)
    page.keyboard.type("r")
    playwright.expect(page.locator("#case-name")).to_have_text("doubtful.png")
    playwright.expect(page.locator("#note")).to_have_value("later")


def test_a_note_stays_with_its_case_until_it_is_saved(opened):
    page = opened()
    choose(page, shades())
    page.locator("#list").focus()
    page.keyboard.press("j")
    page.keyboard.press("n")
    page.keyboard.type("border unclear")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    playwright.expect(page.locator("#note")).to_have_value("")
    page.keyboard.press("k")
    playwright.expect(page.locator("#note")).to_have_value("border unclear")
    page.keyboard.press("a")
    playwright.expect(page.locator("#case-name")).to_have_text("middling.png")
    page.keyboard.press("k")
    playwright.expect(page.locator("#history")).to_contain_text("border unclear")
    playwright.expect(page.locator("#note")).to_have_value("")


def test_an_unsaved_note_survives_a_reload(opened):
    page = opened()
    choose(page, shades())
    page.locator(".row").first.click()
    page.locator("#note").fill("border <unclear>")
    reload(page)
    playwright.expect(page.locator("#note")).to_have_value("border <unclear>")
    page.locator("#agree").click()
    playwright.expect(page.locator(".row .done")).to_have_count(1)
    reload(page)
    page.locator(".row").first.click()
    playwright.expect(page.locator("#note")).to_have_value("")


def test_a_faster_review_by_someone_else_is_shown_before_reviewing_again(page_service, opened):
    one = stored(page_service, 1)
    page = opened(prepare=no_pictures)
    page.locator("#list").focus()
    with page.expect_response(f"**/cases/{one.id}"):
        page.keyboard.press("j")
    page_service.store.review(one.id, said_by("B. C.", "light"))
    page.locator("#note").fill("mine")
    page.locator("#agree").click()
    playwright.expect(page.locator("#problem")).to_contain_text("B. C. has reviewed this case")
    opened.errors.clear()  # a browser notes each 409
    playwright.expect(page.locator("#history")).to_contain_text("B. C., ")
    playwright.expect(page.locator("#note")).to_have_value("mine")
    assert [each.reviewer for each in page_service.store.reviews(one.id)] == ["B. C."]
    page.locator("#agree").click()
    playwright.expect(page.locator("#status")).to_have_text("Saved: dark for 1.png.")
    assert [each.final_class for each in page_service.store.reviews(one.id)] == ["light", "dark"]


def test_on_a_phone_the_next_case_is_shown_from_its_top(opened):
    page = opened(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    choose(page, shades())
    page.locator(".row").first.tap()
    page.locator("#agree").tap()
    playwright.expect(page.locator("#case-name")).to_have_text("middling.png")
    playwright.expect(page.locator("#case-name")).to_be_in_viewport()
    page.locator("#undo").tap()
    playwright.expect(page.locator("#case-name")).to_have_text("doubtful.png")


def test_the_shortcuts_dialog_focuses_its_close_button(opened):
    page = opened()
    page.keyboard.press("?")
    playwright.expect(page.get_by_role("button", name="Close")).to_be_focused()
