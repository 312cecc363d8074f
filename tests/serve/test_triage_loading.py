"""Cases that the page loads, and changes by others in the meantime."""

from browsing import needs_chromium
from standin import picture
from triage import expect, names, no_pictures, said_by, start_again, stored

pytestmark = needs_chromium


def few_are_loaded(page):
    def change(route):
        text = route.fetch().text()
        assert "const MOST = 5000" in text
        changed = text.replace("const MOST = 5000", "const MOST = 4")
        route.fulfill(body=changed, content_type="text/javascript")

    no_pictures(page)
    page.route("**/page/cases.js", change)


def test_a_filter_or_order_finds_what_was_not_loaded_before(page_service, opened):
    for number in range(5):
        stored(page_service, number, error=0.4, reviewed_by="A")
    stored(page_service, 5, error=0.01, decision="ood")
    page = opened(prepare=few_are_loaded)
    ways = {
        lambda: page.get_by_role("checkbox", name="unfamiliar").check(): "1 of 6 cases",
        lambda: page.locator("#reviewed").select_option("no"): "1 of 6 cases",
        lambda: page.locator("#order").select_option("decision"): "4 of 6 cases; 2 more",
    }
    for choose_way, number in ways.items():
        start_again(page)
        expect(page.locator("#shown")).to_have_text("4 of 6 cases; 2 more match but are not loaded")
        expect(page.locator("#counts")).to_contain_text("defer 5")
        choose_way()
        expect(page.locator(".row .file").first).to_have_text("5.png")
        expect(page.locator("#shown")).to_contain_text(number)


def test_a_list_of_unreviewed_cases_loads_further_ones(page_service, opened):
    for number in range(6):
        stored(page_service, number, error=0.4 - number / 100)
    page = opened("#reviewed=no", prepare=few_are_loaded)
    expect(page.locator("#shown")).to_contain_text("4 of 6 cases; 2 more")
    page.locator("#list").focus()
    page.keyboard.press("j")
    page.keyboard.press("a")
    expect(page.locator("#shown")).to_contain_text("4 of 6 cases; 1 more")
    assert names(page) == ["1.png", "2.png", "3.png", "4.png"]


def test_a_missing_image_does_not_affect_other_images(browser, page_service):
    stored(page_service, 2, error=0.4)
    stored(page_service, 1, error=0.3, image_kept=True)
    requests = []

    def answer(route):
        requests.append(route.request.url)
        if f"{2:032x}" in route.request.url:
            route.fulfill(status=404)
        else:
            route.fulfill(body=picture(0.4), content_type="image/png")

    page = browser.new_page()
    page.route("**/thumbnail", answer)
    page.goto(page_service.address)
    expect(page.locator(".row").first.locator(".thumb")).to_have_text("no image")
    expect(page.locator(".row").last.locator("img")).to_have_count(1)
    page.locator(".row").first.click()
    expect(page.locator("#no-image")).to_be_visible()
    page.close()
    assert len(requests) == 3  # by the element, then for why it has not come; and the other one


def test_changes_by_others_appear_and_scroll_selection_and_note_stay(page_service, opened):
    cases = [stored(page_service, number, error=0.3 - number / 100) for number in range(30)]
    page = opened(prepare=no_pictures)
    page.locator("#list").evaluate("(list) => { list.scrollTop = 640; }")
    page.get_by_role("option").filter(has_text="12.png").click()
    page.locator("#note").fill("mine")
    stored(page_service, 100, error=0.45, name="urgent.png")
    page_service.store.review(cases[12].id, said_by("B", "light"))
    page_service.store.review(cases[13].id, said_by("B"))
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")  # to the tab again
    expect(page.locator("#counts")).to_contain_text("defer 31")
    expect(page.locator("#shown")).to_have_text("31 of 31 cases")
    expect(page.locator(".row .done")).to_have_count(2)
    expect(page.locator("#status")).to_contain_text("B has reviewed this case")
    expect(page.locator("#history")).to_contain_text("B, ")
    expect(page.locator("#note")).to_have_value("mine")
    assert page.locator("#list").evaluate("(list) => list.scrollTop") == 640 + 64
    page.locator("#list").evaluate("(list) => { list.scrollTop = 0; }")
    expect(page.locator(".row .file").first).to_have_text("urgent.png")
    page_service.store.review(f"{100:032x}", said_by("B. C.", "light"))
    page.locator(".row").first.click()  # a case that is opened shows the latest reviews
    expect(page.locator("#history")).to_contain_text("B. C., ")
    expect(page.locator(".row .done").first).to_be_visible()


def test_the_page_looks_for_new_cases_cheaply(page_service, opened):
    stored(page_service, 1)
    responses = []

    def prepare(page):
        no_pictures(page)
        page.clock.install()
        page.on(
            "response", lambda answer: responses.append(answer) if "_after" in answer.url else None
        )

    page = opened(prepare=prepare)
    stored(page_service, 2)
    responses.clear()
    page.clock.fast_forward(20_000)
    expect(page.locator("#shown")).to_have_text("2 of 2 cases")
    assert [len(answer.json()["cases"]) for answer in responses] == [1, 0]
