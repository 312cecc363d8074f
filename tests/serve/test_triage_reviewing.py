"""Reviews on the page: keys, notes, undoing, and two people at once."""

from itertools import chain

import pytest
from browsing import needs_chromium
from triage import CASES, changing, choose, expect, no_pictures, reload, said_by, shades, stored

from misgiving.serve.store import CaseQuery

pytestmark = needs_chromium


def test_cases_are_reviewed_with_the_keyboard_alone(opened):
    page = opened()
    choose(page, shades())
    page.locator("#list").focus()
    page.keyboard.press("j")
    expect(page.locator("#case-name")).to_have_text("doubtful.png")
    page.keyboard.press("a")
    expect(page.locator("#status")).to_have_text("Saved: dark for doubtful.png.")
    expect(page.locator("#case-name")).to_have_text("middling.png")
    page.keyboard.press("n")
    page.keyboard.type("a jk note")
    page.keyboard.press("Escape")
    page.keyboard.press("o")
    expect(page.locator("#classes button")).to_have_count(2)
    page.keyboard.press("2")
    expect(page.locator("#status")).to_have_text("Saved: light for middling.png.")
    page.keyboard.press("k")
    expect(page.locator("#case-class")).to_have_text("light")
    expect(page.locator("#case-was")).to_have_text("was dark")
    expect(page.locator("#history")).to_contain_text("overrode, light\na jk note")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".row .done")).to_have_count(2)


def test_keys_of_classes_that_are_numbers(page_service, opened):
    classes = ["0", "4", "7"]

    def rename(answer):
        for row in answer.get("cases", [answer]):
            row |= {"probabilities": dict.fromkeys(classes, 0.3), "predicted_class": classes[0]}

    def prepare(page):
        no_pictures(page)
        changing(page, "**/model", lambda model: model.update(classes=classes))
        changing(page, CASES, rename)

    stored(page_service, 1)
    page = opened(prepare=prepare)
    for values, expected in (classes[:], classes[:]), (["1", "10", "2"], ["1", "2", "3"]):
        classes[:] = values
        reload(page)
        page.locator(".row").click()
        labels = page.locator(".panel #classes .label")
        expect(labels).to_have_text(classes)  # not as JavaScript sorts
        assert page.locator("#classes kbd").all_inner_texts() == expected


def test_a_reviewer_may_name_no_class(page_service, opened):
    row = stored(page_service, 1)
    page = opened(prepare=no_pictures)
    page.locator(".row").click()
    history = page.locator("#history li")
    for key, words in {"x": "none of these", "g": "ungradable", "d": "unsure"}.items():
        count = history.count()
        page.get_by_role("button", name=words).click()
        expect(page.locator("#case-class")).to_have_text(words)
        expect(page.get_by_role("button", name=words)).to_have_attribute("aria-pressed", "true")
        page.keyboard.press("1")
        expect(history).to_have_count(count + 2)
        page.keyboard.press(key)
        expect(history).to_have_count(count + 3)
    verdicts = [review.verdict for review in page_service.store.reviews(row.id)]
    expected = ((verdict, "agree", verdict) for verdict in ("none", "ungradable", "unsure"))
    assert verdicts == list(chain(*expected))


def test_several_cases_are_reviewed_together_in_the_grid_and_undone(page_service, opened):
    for number in range(6):
        stored(page_service, number, error=0.4 - number / 100)
    page = opened(prepare=no_pictures)
    page.keyboard.press("v")
    rows, count = page.locator(".row"), page.locator("#batch-count")
    assert rows.nth(0).bounding_box()["y"] == rows.nth(1).bounding_box()["y"]
    rows.nth(1).click()
    rows.nth(3).click(modifiers=["Shift"])
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    expect(count).to_have_text("4 selected")
    page.locator("#search").fill("3")  # what is not shown is not reviewed
    expect(count).to_have_text("1 selected")
    page.locator("#search").fill("")
    expect(count).to_have_text("4 selected")
    page.get_by_role("button", name="light").click()
    expect(page.locator("#saved")).to_contain_text("4 reviews")
    expect(page.locator("#tally-text")).to_have_text("4 of 6 reviewed")
    reviews = {row.name: row.review for row in page_service.store.all(CaseQuery()) if row.review}
    assert sorted(reviews) == [f"{number}.png" for number in (1, 2, 3, 4)]
    assert {review.final_class for review in reviews.values()} == {"light"}
    page.locator("#undo").click()
    expect(count).to_have_text("4 selected")
    page.keyboard.press("g")
    expect(page.locator(".row", has_text="ungradable")).to_have_count(4)
    assert len(page_service.store.reviews(f"{2:032x}")) == 2


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
    expect(page.locator("#case-name")).to_have_text("middling.png")
    held(page, "a", 8)
    expect(page.locator("#case-name")).to_have_text("quite.png")
    page.wait_for_timeout(300)
    expect(page.locator(".row .done")).to_have_count(1)


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


def test_a_review_waits_for_the_previous_one(slow_reviews):
    page, go = slow_reviews
    page.keyboard.press("j")
    page.keyboard.press("a")
    page.keyboard.press("a")
    expect(page.locator("#status")).to_contain_text("still being saved")
    assert len(go.arrived()) == 1
    go()
    expect(page.locator("#case-name")).to_have_text("middling.png")


def test_keys_review_nothing_while_another_control_has_the_focus(opened):
    page = opened()
    choose(page, shades())
    page.locator("#setting summary").first.click()
    page.locator(".row").first.click()
    for control in ("#target", "#choose-files", "[name=decision]", "#csv"):
        page.locator(control).first.focus()
        page.keyboard.press("a")
        page.keyboard.press("j")
    page.wait_for_timeout(200)
    expect(page.locator("#case-name")).to_have_text("doubtful.png")
    expect(page.locator(".row .done")).to_have_count(0)


def test_a_review_is_undone_by_another_one_and_both_are_kept(page_service, opened):
    page = opened("#reviewed=no")
    choose(page, shades())
    page.locator("#list").focus()
    page.keyboard.press("j")
    page.locator("#note").fill("too fast")
    page.locator("#agree").click()
    expect(page.locator("#case-name")).to_have_text("middling.png")
    expect(page.locator("#saved")).to_contain_text("Saved: dark for doubtful.png.")
    page.keyboard.press("u")
    expect(page.locator("#case-name")).to_have_text("doubtful.png")
    expect(page.locator("#note")).to_have_value("too fast")
    page.keyboard.press("o")
    page.keyboard.press("2")
    expect(page.locator("#case-name")).to_have_text("middling.png")
    (row,) = page_service.store.all(CaseQuery(reviewed=True))
    assert (row.name, row.review.final_class) == ("doubtful.png", "light")


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
    expect(page.locator("#case-name")).to_have_text("doubtful.png")
    expect(page.locator(".row .done")).to_have_count(0)
    expect(page.locator("#agree kbd")).to_be_hidden()


def test_a_slow_review_does_not_move_the_reviewer(slow_reviews):
    page, go = slow_reviews
    page.locator("#list").focus()
    page.keyboard.press("j")
    page.keyboard.press("a")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("n")
    page.keyboard.type("half a")
    go()
    expect(page.locator("#status")).to_have_text("Saved: dark for doubtful.png.")
    page.keyboard.type(" note")
    expect(page.locator("#case-name")).to_have_text("quite.png")
    expect(page.locator("#note")).to_have_value("half a note")
    expect(page.locator("#note")).to_be_focused()


def test_a_note_stays_with_its_case_until_it_is_saved_also_after_a_reload(opened):
    page = opened()
    choose(page, shades())
    note, name = page.locator("#note"), page.locator("#case-name")
    page.locator("#list").focus()
    page.keyboard.press("j")
    note.fill("border <unclear>")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    expect(note).to_have_value("")
    reload(page)
    page.locator("#list").focus()
    page.keyboard.press("k")
    expect(note).to_have_value("border <unclear>")
    page.keyboard.press("a")
    expect(name).to_have_text("middling.png")
    page.keyboard.press("k")
    expect(page.locator("#history")).to_contain_text("border <unclear>")
    expect(note).to_have_value("")


def test_a_faster_review_by_someone_else_is_shown_before_reviewing_again(page_service, opened):
    row = stored(page_service, 1)
    page = opened(prepare=no_pictures)
    page.locator("#list").focus()
    with page.expect_response(f"**/cases/{row.id}"):
        page.keyboard.press("j")
    page_service.store.review(row.id, said_by("B. C.", "light"))
    page.locator("#note").fill("mine")
    page.locator("#agree").click()
    expect(page.locator("#problem")).to_contain_text("B. C. has reviewed this case")
    opened.errors.clear()  # a browser notes each 409
    expect(page.locator("#history")).to_contain_text("B. C., ")
    expect(page.locator("#note")).to_have_value("mine")
    assert [review.reviewer for review in page_service.store.reviews(row.id)] == ["B. C."]
    page.locator("#agree").click()
    expect(page.locator("#status")).to_have_text("Saved: dark for 1.png.")
    assert [review.final_class for review in page_service.store.reviews(row.id)] == [
        "light",
        "dark",
    ]
