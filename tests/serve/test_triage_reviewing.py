"""Reviews on the page: keys, notes, undoing, and two people at once; axe judges these states."""

from browsing import needs_chromium
from standin import case
from triage import (
    barriers,
    choose,
    expect,
    no_pictures,
    press,
    reload,
    said_by,
    shades,
    stored,
    wait_for_image,
)

from misgiving.serve.case import CaseQuery

pytestmark = needs_chromium


def with_cases(opened, fragment="#reviewed=all"):
    """The page with four cases and the focus on their list."""
    page = opened(fragment)
    choose(page, shades())
    page.locator("#list").focus()
    return page


def test_cases_are_reviewed_with_the_keyboard_alone_and_a_key_that_is_held_reviews_one(opened):
    page = with_cases(opened)
    name, status = page.locator("#case-name"), page.locator("#status")
    page.locator("#csv").focus()
    press(page, "a", "j")  # no keys of the list
    expect(name).to_have_text("")
    page.locator("#list").focus()
    press(page, "j")
    expect(name).to_have_text("doubtful.png")
    wait_for_image(page)
    for _ in range(8):  # held down, the browser repeats it
        page.keyboard.down("1")
    page.keyboard.up("1")
    expect(status).to_have_text("Saved: dark for doubtful.png.")
    expect(name).to_have_text("middling.png")
    ask = page.locator("#ask-name")
    expect(ask).to_be_visible()  # once, as the review has no name
    press(page, "n")
    page.keyboard.type("a jk note")
    press(page, "Escape", "o")
    expect(page.locator("#classes button")).to_have_count(2)
    press(page, "2")
    expect(status).to_have_text("Saved: light for middling.png.")
    press(page, "k")
    expect(page.locator("#case-class")).to_have_text("light")
    expect(page.locator("#history")).to_contain_text("overrode, light\na jk note")
    expect(page.locator(".row .done")).to_have_count(2)
    press(page, "?")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert barriers(page) == []
    page.locator("#shortcuts").uncheck()  # single keys stay switched off
    press(page, "Escape")
    reload(page)
    expect(ask).to_be_hidden()
    page.locator("#list").focus()
    press(page, "Home", "ArrowDown", "1", "j")
    expect(page.locator("#classes kbd").first).to_be_hidden()
    expect(name).to_have_text("middling.png")
    expect(page.locator(".row .done")).to_have_count(2)


def test_a_reviewer_may_name_no_class(page_service, opened):
    row = stored(page_service, 1)
    page = opened(prepare=no_pictures)
    page.locator(".row").click()
    for key, words in {"x": "none of these", "g": "ungradable", "d": "unsure"}.items():
        wait_for_image(page)
        page.get_by_role("button", name=words).click()
        expect(page.get_by_role("button", name=words)).to_have_attribute("aria-pressed", "true")
        for pressed, says in ("1", "dark"), (key, words):
            press(page, pressed)
            expect(page.locator("#case-class")).to_have_text(says)
    verdicts = [review.verdict for review in page_service.store.reviews(row.id)][::3]
    assert verdicts == ["none", "ungradable", "unsure"]


def test_several_cases_are_reviewed_together_in_the_grid_and_undone(page_service, opened):
    for number in range(6):
        stored(page_service, number, error=0.4 - number / 100)
    page = opened(prepare=no_pictures)
    press(page, "v")
    rows, count = page.locator(".row"), page.locator("#batch-count")
    rows.nth(1).click()
    rows.nth(3).click(modifiers=["Shift"])
    press(page, "ArrowRight", "Space")
    expect(count).to_have_text("4 selected")
    assert barriers(page) == []
    page.get_by_role("button", name="light").click()
    expect(page.locator("#bulk-question")).to_have_text("Review 4 cases together as light?")
    assert barriers(page) == []
    page.keyboard.press("Escape")
    expect(page.locator("#bulk")).to_be_hidden()
    assert not any(row.review for row in page_service.store.all(CaseQuery()))
    page.get_by_role("button", name="light").click()
    page.get_by_role("button", name="Review 4 cases").click()
    expect(page.locator("#saved")).to_contain_text("4 reviews")
    expect(page.locator("#tally-text")).to_have_text("4 of 6 reviewed")
    reviews = {row.name: row.review for row in page_service.store.all(CaseQuery()) if row.review}
    assert sorted(reviews) == [f"{number}.png" for number in (1, 2, 3, 4)]
    assert {review.final_class for review in reviews.values()} == {"light"}
    page.locator("#undo").click()
    expect(page.locator("#status")).to_contain_text("Back to 4 of 4 cases: the review is taken")
    expect(count).to_have_text("4 selected")
    expect(page.locator("#tally-text")).to_have_text("0 of 6 reviewed")
    assert page_service.store.count(CaseQuery(reviewed=True)) == 0
    page_service.store.review(case(2).id, said_by("B. C.", "light"))
    press(page, "g")
    page.get_by_role("button", name="Review 4 cases").click()
    expect(page.locator(".row", has_text="ungradable")).to_have_count(3)
    expect(page.locator(".row", has_text="B. C. has reviewed")).to_have_count(1)
    opened.errors.clear()  # a browser notes each 409
    press(page, "u")
    expect(page.locator("#tally-text")).to_have_text("1 of 6 reviewed")


def test_progress_is_shown_while_many_reviews_are_sent(page_service, opened):
    for number in range(3):
        stored(page_service, number)
    page, waiting = opened("#layout=grid", prepare=no_pictures), []
    page.route("**/review", lambda route: waiting.append(route))
    page.route("**/cases?order=newest*", lambda _: None)  # what comes would draw it, too
    page.locator("#mark-all").click()
    press(page, "1")
    page.get_by_role("button", name="Review 3 cases").click()
    for sent in range(3):
        expect(page.locator("#batch-count")).to_have_text(f"{sent} of 3 sent")
        expect(page.locator("#batch-bar")).to_have_js_property("value", sent)
        while not waiting:  # a request comes later than what the page shows
            page.wait_for_timeout(20)
        assert sent or barriers(page) == []
        waiting.pop().continue_()
    expect(page.locator("#batch-bar")).to_be_hidden()
    expect(page.locator("#status")).to_have_text("Saved: 3 reviews.")


def test_nothing_is_saved_before_the_image_is_on_the_screen(page_service, opened):
    """Not while it is awaited, nor while the page looks again for one that failed."""
    row, waiting = stored(page_service, 1), []

    def hold(page):
        page.route("**/thumbnail", lambda route: waiting.append(route))

    def answer(status):
        while not waiting:  # a request comes later than what the page shows
            page.wait_for_timeout(20)
        for route in [waiting.pop() for _ in range(len(waiting))]:
            route.fulfill(status=status)

    page = opened(prepare=hold)
    page.locator(".row").click()
    page.keyboard.press("1")
    problem = page.locator("#problem")
    expect(problem).to_contain_text("still being loaded")
    problem.evaluate("(element) => { element.textContent = ''; }")
    answer(503)
    page.wait_for_function("() => document.getElementById('case-image').complete")
    page.keyboard.press("1")
    expect(problem).to_contain_text("still being loaded")
    answer(404)
    expect(page.locator("#no-image")).to_be_visible()
    page.keyboard.press("1")
    expect(page.locator("#status")).to_contain_text("Saved: dark")
    opened.errors.clear()  # a browser notes each 503 and 404
    assert len(page_service.store.reviews(row.id)) == 1


def test_a_slow_review_makes_the_next_one_wait_and_does_not_move_the_reviewer(opened):
    page, waiting = with_cases(opened), []
    page.route("**/review", lambda route: waiting.append(route))
    press(page, "j", "1", "1")
    expect(page.locator("#status")).to_contain_text("still being saved")
    press(page, "j", "j", "n")
    page.keyboard.type("half a")
    while not waiting:  # a request comes later than what the page shows
        page.wait_for_timeout(20)
    waiting.pop().continue_()
    expect(page.locator("#status")).to_have_text("Saved: dark for doubtful.png.")
    page.keyboard.type(" note")
    expect(page.locator("#case-name")).to_have_text("quite.png")
    expect(page.locator("#note")).to_have_value("half a note")
    expect(page.locator("#note")).to_be_focused()
    assert waiting == []


def test_a_review_is_undone_by_another_one_and_a_note_stays_until_it_is_saved(page_service, opened):
    page = with_cases(opened, "#reviewed=no")
    name, note = page.locator("#case-name"), page.locator("#note")
    script = "<script>alert(2)</script>"
    press(page, "j")
    note.fill(script)
    press(page, "Escape", "j")
    expect(note).to_have_value("")
    reload(page)
    page.locator("#list").focus()
    press(page, "k")
    expect(note).to_have_value(script)
    press(page, "1")
    expect(name).to_have_text("middling.png")
    expect(note).to_have_value("")
    expect(page.locator("#saved")).to_contain_text("Saved: dark for doubtful.png.")
    assert barriers(page) == []
    press(page, "u")
    expect(name).to_have_text("doubtful.png")
    expect(note).to_have_value(script)
    expect(page.locator("#history")).to_contain_text(script)
    press(page, "o", "2")
    expect(name).to_have_text("middling.png")
    (row,) = page_service.store.all(CaseQuery(reviewed=True))
    assert (row.name, row.review.final_class) == ("doubtful.png", "light")
    assert page_service.store.reviews(row.id)[0].final_class == "dark"


def test_a_faster_review_by_someone_else_is_shown_before_reviewing_again(page_service, opened):
    page = with_cases(opened)
    (row,) = page_service.store.all(CaseQuery(name="doubtful"))
    with page.expect_response(f"**/cases/{row.id}"):
        press(page, "j")
    page_service.store.review(row.id, said_by("B. C.", "light"))
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # the page looks for new
    expect(page.locator("#history")).to_contain_text("B. C., ")
    page.locator("#note").fill("mine")
    page.get_by_text("Scores and exact reason").click()
    page.locator("#zoom-in").click()
    wait_for_image(page)
    page.locator("#classes button").first.click()
    conflict = page.locator("#conflict")
    expect(conflict).to_contain_text("B. C. has reviewed this case")
    expect(page.locator("#problem")).to_be_hidden()
    expect(page.locator(f"#case-{row.id} .conflict")).to_contain_text("B. C. has reviewed")
    assert barriers(page) == []
    opened.errors.clear()  # a browser notes each 409
    expect(page.locator("#note")).to_have_value("mine")
    wait_for_image(page)
    page.locator("#classes button").first.click()
    expect(page.locator("#status")).to_have_text("Saved: dark for doubtful.png.")
    expect(page.locator(".conflict:visible")).to_have_count(0)
    reviews = [review.final_class for review in page_service.store.reviews(row.id)]
    assert reviews == ["light", "dark"]
