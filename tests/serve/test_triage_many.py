"""The page for a reviewer of many cases: what fits, progress, filters, the grid, images."""

import io
import re
from importlib.resources import files as resources

import pytest
from browsing import needs_chromium, playwright
from PIL import Image
from standin import picture
from triage import GREEN, Serving, choose, no_pictures, shades, stored

from misgiving.serve.store import CaseQuery

pytestmark = needs_chromium

TIMES = "\N{MULTIPLICATION SIGN}"
TEN = [f"a class with a name {number}" for number in range(10)]


def ten_classes(page):
    """A model of ten classes, and an alarm of drift."""

    def cases(route):
        found = route.fetch().json()
        for one in found.get("cases", [found]):
            one |= {"probabilities": dict.fromkeys(TEN, 0.1), "predicted_class": TEN[0]}
        route.fulfill(json=found)

    page.route(re.compile(r"/cases(\?.*|/[0-9a-f]{32})$"), cases)
    page.route("**/drift", lambda route: route.fulfill(json=route.fetch().json() | {"alarm": True}))


@pytest.mark.parametrize("size", [(1400, 900), (1280, 720)])
def test_image_and_choices_fit_the_screen_with_banner_and_slider_open(size, page_service, opened):
    stored(page_service, 1)
    width, height = size
    page = opened(
        prepare=lambda page: (no_pictures(page), ten_classes(page)),
        viewport={"width": width, "height": height},
    )
    playwright.expect(page.locator("#drift")).to_be_visible()
    page.locator("#setting summary").first.click()
    page.locator(".row").click()
    playwright.expect(page.locator("#curve")).to_be_visible()
    buttons = page.locator("#agree, .panel .choices button")
    playwright.expect(buttons).to_have_count(14)
    for part in [page.locator("#stack"), page.locator("#setting"), *buttons.all()]:
        playwright.expect(part).to_be_in_viewport(ratio=1)
    assert page.locator("#stack").bounding_box()["height"] > 300
    assert page.evaluate("() => document.documentElement.scrollHeight") <= height


@pytest.mark.parametrize("width", [1280, 900])
def test_the_message_of_a_saved_review_covers_nothing_of_the_next_case(width, opened):
    page = opened(viewport={"width": width, "height": 720})
    choose(page, shades())
    page.locator(".row").first.click()
    page.locator("#agree").click()
    playwright.expect(page.locator("#saved")).to_be_visible()
    message, case = (page.locator(one).bounding_box() for one in ("#saved", "#detail"))
    assert message["x"] + message["width"] <= case["x"]


@pytest.mark.parametrize(
    ("key", "words", "verdict"),
    [("x", "none of these", "none"), ("g", "ungradable", "ungradable"), ("d", "unsure", "unsure")],
)
def test_a_reviewer_may_name_no_class(key, words, verdict, page_service, opened):
    page = opened()
    choose(page, shades({"doubtful": 0.45}))
    page.locator(".row").click()
    page.get_by_role("button", name=words).click()
    playwright.expect(page.locator("#status")).to_have_text(f"Saved: {words} for doubtful.png.")
    playwright.expect(page.locator("#case-class")).to_have_text(words)
    playwright.expect(page.get_by_role("button", name=words)).to_have_attribute(
        "aria-pressed", "true"
    )
    page.keyboard.press("1")
    playwright.expect(page.locator("#history li")).to_have_count(2)
    page.keyboard.press(key)
    playwright.expect(page.locator("#history li")).to_have_count(3)
    (one,) = page_service.store.all(CaseQuery())
    given = [review.verdict for review in page_service.store.reviews(one.id)]
    assert given == [verdict, "agree", verdict]


def test_a_key_means_the_same_class_in_list_and_grid_where_classes_are_numbers(
    page_service, opened
):
    names = ["1", "10", "2"]  # JavaScript sorts such keys of an object

    def model(route):
        route.fulfill(json=route.fetch().json() | {"classes": names})

    def cases(route):
        found = route.fetch().json()
        for one in found.get("cases", [found]):
            one |= {"probabilities": dict.fromkeys(names, 0.3), "predicted_class": "1"}
        route.fulfill(json=found)

    def prepare(page):
        no_pictures(page)
        page.route("**/model", model)
        page.route(re.compile(r"/cases(\?.*|/[0-9a-f]{32})$"), cases)

    stored(page_service, 1)
    page = opened(prepare=prepare)
    page.locator(".row").click()
    shown = page.locator(".panel #classes .label")
    playwright.expect(shown).to_have_text(names)


def test_progress_counts_what_the_filters_show_also_cases_of_a_list(page_service, opened):
    for number in range(5):
        stored(page_service, number, reviewed_by="A" if number < 2 else None, place=number + 1)
    stored(page_service, 9, decision="accept", error=0.01)
    page = opened(prepare=no_pictures)
    tally = page.locator("#tally-text")
    playwright.expect(tally).to_have_text("2 of 6 reviewed")
    playwright.expect(page.locator("#counts")).to_contain_text("defer 5")
    page.get_by_role("checkbox", name="defer").check()
    playwright.expect(tally).to_have_text("2 of 5 reviewed")
    page.locator("#reviewed").select_option("no")
    playwright.expect(page.locator("#shown")).to_have_text("3 of 6 cases")
    playwright.expect(tally).to_have_text("2 of 5 reviewed")
    page.locator(".row").first.click()
    page.keyboard.press("a")
    playwright.expect(tally).to_have_text("3 of 5 reviewed")
    playwright.expect(page.locator(".row")).to_have_count(2)


def test_a_class_and_a_part_of_the_name_filter_list_and_progress(page_service, opened):
    stored(page_service, 1, name="ward/Left arm.png")
    stored(page_service, 2, name="right arm.png", predicted_class="light")
    stored(page_service, 3, name="leg.png")
    page = opened(prepare=no_pictures)
    page.keyboard.press("/")
    page.keyboard.type("ARM")
    playwright.expect(page.locator("#shown")).to_have_text("2 of 3 cases")
    playwright.expect(page.locator("#tally-text")).to_have_text("0 of 2 reviewed")
    page.get_by_label("Predicted class").select_option("light")
    playwright.expect(page.locator(".row .file")).to_have_text(["right arm.png"])
    playwright.expect(page.locator("#tally-text")).to_have_text("0 of 1 reviewed")
    assert "class=light&name=ARM" in page.locator("#csv").get_attribute("href")
    page.reload()
    playwright.expect(page.locator(".row .file")).to_have_text(["right arm.png"])
    playwright.expect(page.locator("#search")).to_have_value("ARM")


def test_several_cases_are_reviewed_together_in_the_grid_and_undone(page_service, opened):
    for number in range(6):
        stored(page_service, number, error=0.4 - number / 100, name=f"{number}.png")
    page = opened(prepare=no_pictures)
    page.keyboard.press("v")
    rows = page.locator(".row")
    assert rows.nth(0).bounding_box()["y"] == rows.nth(1).bounding_box()["y"]
    rows.nth(1).click()
    rows.nth(3).click(modifiers=["Shift"])
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    playwright.expect(page.locator("#batch-count")).to_have_text("4 selected")
    page.locator("#search").fill("3")  # what is not shown is not reviewed
    playwright.expect(page.locator("#batch-count")).to_have_text("1 selected")
    page.locator("#search").fill("")
    playwright.expect(page.locator("#batch-count")).to_have_text("4 selected")
    page.get_by_role("button", name="light").click()
    playwright.expect(page.locator("#saved")).to_contain_text("Saved: 4 reviews.")
    playwright.expect(page.locator("#tally-text")).to_have_text("4 of 6 reviewed")
    found = {one.name: one.review for one in page_service.store.all(CaseQuery())}
    assert [name for name, review in found.items() if review] == [f"{n}.png" for n in (1, 2, 3, 4)]
    assert {review.final_class for review in found.values() if review} == {"light"}
    page.locator("#undo").click()
    playwright.expect(page.locator("#batch-count")).to_have_text("4 selected")
    page.keyboard.press("g")
    playwright.expect(page.locator(".row", has_text="ungradable")).to_have_count(4)
    assert len(page_service.store.reviews(f"{2:032x}")) == 2


def test_the_original_is_shown_where_it_is_kept(tmp_path, browser):
    service = Serving(tmp_path / "kept.sqlite", keep_images=tmp_path / "kept")
    page = browser.new_page()
    page.goto(service.address)
    page.wait_for_selector("body[data-ready]")
    choose(page, {"wide.png": picture(0.4, size=(64, 48))})
    page.locator(".row").click()
    says = page.locator("#picture-says")
    playwright.expect(says).to_have_text(f"Original, 64 {TIMES} 48 pixels.")
    page.keyboard.press("s")  # the regions are those of the model's input
    playwright.expect(says).to_contain_text("The model's 16-pixel input")
    page.keyboard.press("s")
    playwright.expect(says).to_have_text(f"Original, 64 {TIMES} 48 pixels.")
    page.close()
    service.close()


def test_an_original_that_the_browser_cannot_show_is_replaced_by_the_input(tmp_path, browser):
    service = Serving(tmp_path / "kept.sqlite", keep_images=tmp_path / "kept")
    page = browser.new_page()
    page.goto(service.address)
    page.wait_for_selector("body[data-ready]")
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "TIFF")
    choose(page, {"scan.tif": file.getvalue()})
    page.locator(".row").click()
    playwright.expect(page.locator("#picture-says")).to_have_text(
        "The model's 16-pixel input: the browser cannot show the original."
    )
    page.close()
    service.close()


def test_the_page_says_that_an_image_is_only_the_models_input_and_enlarges_it(opened):
    page = opened()
    choose(page, shades({"doubtful": 0.45, "quite": 0.12}))
    page.locator(".row").first.click()
    playwright.expect(page.locator("#picture-says")).to_have_text(
        "The model's 16-pixel input: the original is not kept."
    )
    width = page.locator("#case-image").bounding_box()["width"]
    page.get_by_role("button", name="Zoom in").click()
    page.keyboard.press("+")
    assert page.locator("#case-image").bounding_box()["width"] == pytest.approx(4 * width, rel=0.05)
    middle = page.locator("#stack").evaluate(
        "(one) => (one.scrollLeft + one.clientWidth / 2) / one.scrollWidth"
    )
    assert middle == pytest.approx(0.5, abs=0.02)
    page.keyboard.press("j")
    playwright.expect(page.locator("#zoom")).to_have_text(f"1{TIMES}")


def test_one_number_says_the_risk_and_the_others_are_folded(opened):
    page = opened()
    choose(page, shades({"doubtful": 0.45}))
    page.locator(".row").click()
    playwright.expect(page.locator("#case-risk")).to_have_text("45 % risk")
    seen = page.locator(".panel").inner_text()
    assert not re.search(r"nats|p-value|score \d|0\.\d", seen)
    page.get_by_text("Scores and exact reason").click()
    playwright.expect(page.locator("#case-facts")).to_contain_text("nats")
    playwright.expect(page.locator("#case-exact")).to_contain_text("0.45")


def test_the_same_file_is_one_case_and_the_page_says_so(opened):
    page = opened()
    choose(page, {"first.png": picture(0.4)})
    page.locator(".row").click()
    page.locator("#agree").click()
    playwright.expect(page.locator(".row .done")).to_have_count(1)
    again = {"name": "second.png", "mimeType": "image/png", "buffer": picture(0.4)}
    page.locator("#files").set_input_files([again])
    playwright.expect(page.locator("#known")).to_have_text(
        "second.png is the same file as first.png: it stays one case."
    )
    playwright.expect(page.locator("#status")).to_contain_text("it stays one case")
    playwright.expect(page.locator("#shown")).to_have_text("1 of 1 cases")
    playwright.expect(page.locator(".row .done")).to_have_count(1)
    playwright.expect(page.locator("#counts")).to_contain_text("defer 1")


def test_model_card_and_policy_are_behind_one_link(opened):
    page = opened()
    page.get_by_role("button", name="Model and policy").click()
    dialog = page.get_by_role("dialog")
    playwright.expect(dialog.get_by_role("heading", level=2)).to_have_text("standin")
    playwright.expect(dialog).to_contain_text("at most 10")
    dialog.get_by_text("Versions and fingerprints").click()
    playwright.expect(dialog).to_contain_text("f" * 64)
    page.keyboard.press("Escape")
    playwright.expect(dialog).to_have_count(0)


def test_an_empty_page_teaches_the_three_steps_until_there_is_a_case(opened):
    page = opened()
    steps = page.locator("#start li h3")
    assert steps.all_inner_texts() == ["Add images", "Look at the riskiest first", "Review"]
    playwright.expect(page.locator("main")).to_be_hidden()
    choose(page, {"odd.png": picture(colour=GREEN)})
    playwright.expect(page.locator("#start")).to_be_hidden()


def test_colours_of_decisions_are_the_same_on_page_and_contact_sheet():
    page = (resources("misgiving.serve") / "page" / "style.css").read_text()
    sheet = (resources("misgiving.report") / "templates" / "contact_sheet.html").read_text()
    for name in ("defer", "defer-ground", "ood", "ood-ground"):
        found = [re.findall(rf"--{name}: (#\w+)", text) for text in (page, sheet)]
        assert len(found[0]) == 2  # in light and in dark
        assert found[0] == found[1]
