"""The page in a real browser, against the real service."""

import csv
import io
import re
from pathlib import Path

import pytest
from browsing import needs_chromium, playwright
from standin import picture
from triage import GREEN, SCRIPT, choose, drop, drop_paths, files, names, reload, shades

pytestmark = needs_chromium


def test_dropped_images_are_listed_worst_first_with_reasons_and_thumbnails(opened):
    page = opened()
    drop(page, shades())
    rows = page.locator(".row")
    playwright.expect(rows).to_have_count(4)
    assert names(page) == ["doubtful.png", "middling.png", "quite.png", "sure.png"]
    playwright.expect(rows.first.locator(".badge")).to_have_text("defer")
    playwright.expect(rows.last.locator(".badge")).to_have_text("accept")
    playwright.expect(rows.first.locator(".risk")).to_have_text("45 % risk")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.row img')].every((one) => one.naturalWidth > 0)"
    )
    playwright.expect(page.locator("#counts")).to_contain_text("accept 2")


def test_a_folder_is_sent_and_files_that_are_not_images_are_named(opened, tmp_path):
    folder = tmp_path / "patients"
    (folder / "one").mkdir(parents=True)
    (folder / "one" / "a.png").write_bytes(picture(0.1))
    (folder / "b.png").write_bytes(picture(0.4))
    (folder / "notes.txt").write_text("no image")
    page = opened()
    page.locator("#folder").set_input_files(folder)
    playwright.expect(page.locator(".row")).to_have_count(2)
    assert names(page) == ["patients/b.png", "patients/one/a.png"]
    playwright.expect(page.locator("#failures-title")).to_contain_text("1 ")
    assert "notes.txt" in page.locator("#failures-list").text_content()


def test_a_file_without_a_decision_in_time_is_sent_again_alone(opened):
    page = opened()
    seen = []

    def late(route):
        found = route.fetch().json()
        seen.append([result["name"] for result in found["results"]])
        if len(seen) == 1:
            problem = {"status": 503, "title": "Service Unavailable", "detail": "not in time"}
            found["results"][1] |= {"case": None, "problem": problem}
        route.fulfill(json=found)

    page.route("**/decisions", late)
    page.locator("#files").set_input_files(files(shades({"sure": 0.02, "quite": 0.12})))
    playwright.expect(page.locator("#status")).to_have_text("2 images decided, 0 failed.")
    assert seen == [["sure.png", "quite.png"], ["quite.png"]]


def go_on(route):
    route.continue_()


def test_images_chosen_after_a_stop_are_sent_afterwards(opened):
    page = opened()
    waiting, held = [], [True]
    page.route("**/decisions", lambda route: (waiting.append if held else go_on)(route))
    page.evaluate("() => { window.said = []; }")
    page.evaluate(
        """() => new MutationObserver(() =>
            said.push(document.getElementById('status').textContent)
        ).observe(document.getElementById('status'), {childList: true})"""
    )
    many = {f"{number}.png": picture(number / 100) for number in range(30)}
    page.locator("#files").set_input_files(files(many))
    playwright.expect(page.locator("#progress-text")).to_have_text("0 of 30")
    page.locator("#stop").click()
    page.locator("#files").set_input_files(files(shades({"later": 0.45})))
    while len(waiting) < 2:
        page.wait_for_timeout(20)
    held.clear()
    for route in waiting:
        go_on(route)
    playwright.expect(page.locator("#shown")).to_have_text("17 of 17 cases")
    playwright.expect(page.locator("#sending")).to_be_hidden()
    said = page.evaluate("() => said")
    assert "16 images decided, 0 failed, 14 not sent." in said
    assert "1 images decided, 0 failed." in said


def test_a_link_with_an_unknown_order_has_the_default_one(opened):
    page = opened()
    choose(page, shades())
    usual = names(page)
    page.goto(page.url.partition("#")[0] + "#order=__proto__")
    reload(page)
    assert names(page) == usual


def test_filters_show_matching_cases(opened):
    page = opened()
    choose(page, {**shades(), "odd.png": picture(colour=GREEN)})
    page.get_by_role("checkbox", name="unfamiliar").check()
    playwright.expect(page.locator(".row")).to_have_count(1)
    assert names(page) == ["odd.png"]
    page.get_by_role("checkbox", name="accept").check()
    playwright.expect(page.locator(".row")).to_have_count(3)
    page.locator("#reviewed").select_option("yes")
    playwright.expect(page.locator("#empty")).to_have_text("No matching cases.")


def test_screen_readers_can_read_the_list(opened):
    page = opened()
    choose(page, shades())
    page.locator("#list").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    option = page.locator("#list").get_by_role("option", selected=True)
    assert page.locator("#list").get_attribute("aria-activedescendant") == option.get_attribute(
        "id"
    )
    assert option.get_attribute("aria-posinset") == "2"
    assert option.get_attribute("aria-setsize") == "4"


def test_the_worklist_is_exported_as_it_is_filtered(opened):
    page = opened()
    choose(page, shades())
    page.get_by_role("checkbox", name="accept").check()
    playwright.expect(page.locator(".row")).to_have_count(2)
    with page.expect_download() as download:
        page.locator("#csv").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert [row["name"] for row in rows] == ["quite.png", "sure.png"]


def test_a_reload_keeps_filters_slider_order_and_selection(opened):
    page = opened()
    choose(page, shades())
    page.get_by_role("checkbox", name="defer").check()
    page.locator("#order").select_option("newest")
    page.locator("#setting summary").first.click()
    page.locator("#target").fill("7.5")
    playwright.expect(page.locator(".row")).to_have_count(4)  # all are deferred at this target
    page.locator(".row").nth(1).click()
    chosen = page.locator("#case-name").inner_text()
    shown = names(page)
    reload(page)
    assert names(page) == shown
    assert page.get_by_role("checkbox", name="defer").is_checked()
    assert page.locator("#order").input_value() == "newest"
    assert page.locator("#target").input_value() == "7.5"
    playwright.expect(page.locator("#case-name")).to_have_text(chosen)


def test_on_a_phone_nothing_is_wider_than_the_screen_and_a_case_takes_its_place(opened):
    page = opened(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    long = "a_very_long_name_without_any_space_" * 4 + ".png"
    choose(page, {long: picture(0.4)})
    wide = "() => document.documentElement.scrollWidth"
    page.locator("#setting summary").first.tap()
    assert page.evaluate(wide) <= 360
    page.locator(".row").tap()
    playwright.expect(page.locator("#list")).to_be_hidden()
    playwright.expect(page.locator("#case")).to_be_visible()
    assert page.evaluate(wide) <= 360
    page.locator("#back").tap()
    playwright.expect(page.locator("#list")).to_be_visible()


def test_a_script_in_a_name_or_note_is_shown_as_text(opened):
    page = opened()
    choose(page, {SCRIPT: picture(0.4)})
    page.locator(".row").click()
    playwright.expect(page.locator("#case-name")).to_have_text(SCRIPT)
    page.locator("#note").fill("<script>alert(2)</script>")
    page.locator("#agree").click()
    playwright.expect(page.locator("#history")).to_contain_text("<script>alert(2)</script>")
    assert page.locator("script").count() == 1


def test_important_regions_are_drawn_on_request(opened):
    page = opened()
    choose(page, shades())
    page.locator(".row").last.click()
    playwright.expect(page.locator("#heat")).to_be_hidden()
    page.locator("#saliency").click()
    playwright.expect(page.locator("#heat")).to_be_visible()
    playwright.expect(page.locator("#saliency-says")).to_contain_text("the probability of dark by")
    page.keyboard.press("s")
    playwright.expect(page.locator("#heat")).to_be_hidden()


def test_a_saliency_error_is_not_shown_for_another_case(opened):
    page = opened()
    choose(page, shades())
    waiting = []
    page.route("**/saliency", lambda route: waiting.append(route))
    page.locator(".row").first.click()
    page.locator("#saliency").click()
    playwright.expect(page.locator("#saliency-says")).to_contain_text("Covering")
    page.locator(".row").last.click()
    waiting[0].fulfill(status=429, json={"detail": "too much"})
    page.wait_for_timeout(300)
    playwright.expect(page.locator("#saliency-says")).to_be_empty()
    opened.errors.clear()  # a browser notes each 429


def test_only_visible_rows_are_in_the_document(opened):
    page = opened()
    page.evaluate(
        """async () => {
            for (let batch = 0; batch < 4; batch++) {
                const body = new FormData();
                const image = new OffscreenCanvas(4, 4), pen = image.getContext("2d");
                for (let one = 0; one < 50; one++) {
                    pen.fillStyle = `rgb(${one} ${one} ${batch})`;
                    pen.fillRect(0, 0, 4, 4);
                    body.append("files", await image.convertToBlob(), `${batch}-${one}.png`);
                }
                await fetch("decisions", {method: "POST", body});
            }
        }"""
    )
    reload(page)
    playwright.expect(page.locator("#shown")).to_have_text("200 of 200 cases")
    assert page.locator(".row").count() < 40
    page.locator("#list").focus()
    page.keyboard.press("End")
    option = page.locator("#list").get_by_role("option", selected=True)
    playwright.expect(option).to_be_in_viewport()
    assert option.get_attribute("aria-posinset") == "200"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(scheme, opened):
    page = opened(color_scheme=scheme)
    choose(page, {**shades(), "odd.png": picture(colour=GREEN)})
    page.locator("#setting summary").first.click()
    page.locator(".row").first.click()
    page.keyboard.press("o")
    found = page.evaluate(COLOURS)
    assert len(found) > 40
    poor = [one for one in found if contrast(one["ink"], one["ground"]) < 4.5]
    assert poor == []


COLOURS = """() => [...document.querySelectorAll("body *")]
    .filter((one) => one.checkVisibility() && !one.closest("svg") && !one.disabled
        && [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .map((one) => {
        let under = one;
        while (getComputedStyle(under).backgroundColor === "rgba(0, 0, 0, 0)")
            under = under.parentElement;
        return {text: one.textContent.trim().slice(0, 30), ink: getComputedStyle(one).color,
            ground: getComputedStyle(under).backgroundColor};
    })"""


def contrast(*colours):
    """The ratio of relative luminances (WCAG 2.2)."""
    dark, light = sorted(map(luminance, colours))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    shares = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_control_has_a_name(opened):
    page = opened()
    choose(page, shades())
    page.locator("#setting summary").first.click()
    page.locator(".row").first.click()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, a, progress")]
            .filter((one) => !one.hidden && one.checkVisibility())
            .filter((one) => !(one.getAttribute("aria-label") || one.textContent.trim()
                || [...(one.labels ?? [])].some((label) => label.textContent.trim())))
            .map((one) => one.outerHTML)"""
    )
    assert nameless == []
    identities = page.evaluate("() => [...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(identities) == len(set(identities))


def test_a_dropped_folder_is_sent_with_its_subfolders(opened, tmp_path):
    folder = tmp_path / "patients"
    (folder / "one" / "two").mkdir(parents=True)
    for number in range(130):
        (folder / "one" / f"{number:03d}.png").write_bytes(
            picture(colour=(number % 12, number // 12, 20), size=(4, 4))
        )
    (folder / "one" / "two" / "deep.png").write_bytes(picture(0.4))
    (folder / ".hidden").write_text("of the system")
    (tmp_path / "alone.png").write_bytes(picture(0.3))
    page = opened()
    drop_paths(page, folder, tmp_path / "alone.png")
    playwright.expect(page.locator("#shown")).to_have_text("132 of 132 cases")
    assert names(page)[:2] == ["patients/one/two/deep.png", "alone.png"]
    playwright.expect(page.locator("#failures")).to_be_hidden()
