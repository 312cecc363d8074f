"""Wording and rounding on the page: decisions, bounds, drift."""

import re

import pytest
from browsing import needs_chromium, playwright
from standin import picture
from triage import GREEN, choose, drop, no_pictures, reload, shades, stored

pytestmark = needs_chromium


def test_the_target_error_rate_is_not_attributed_to_a_single_case(opened):
    page = opened()
    choose(page, shades())
    note = page.locator("#target-note")
    page.get_by_role("option").filter(has_text="sure.png").click()
    playwright.expect(note).to_be_hidden()
    page.get_by_role("option").filter(has_text="quite.png").click()
    playwright.expect(note).to_contain_text("at most 10.0 %")
    page.locator("#setting summary").first.click()
    page.locator("#target").fill("0.5")
    playwright.expect(page.locator("#case-reason")).to_have_text(re.compile("^By the saved policy"))
    playwright.expect(note).to_be_hidden()


def test_a_predicted_class_that_is_not_the_most_probable_is_explained(opened):
    page = opened()
    choose(page, shades())

    def turn(route):
        found = route.fetch().json()
        for one in found["cases"]:
            if one["name"] == "sure.png":
                one["predicted_class"] = "light"
        route.fulfill(json=found)

    page.route("**/cases?*", turn)
    reload(page)
    note = page.locator("#shares-note")
    page.get_by_role("option").filter(has_text="quite.png").click()
    playwright.expect(note).to_be_hidden()
    page.get_by_role("option").filter(has_text="sure.png").click()
    playwright.expect(note).to_contain_text("light is named")
    playwright.expect(note).to_contain_text("dark is more probable")


def test_a_banner_says_when_images_have_changed(opened):
    page = opened()
    choose(page, shades())
    playwright.expect(page.locator("#drift")).to_be_hidden()
    choose(page, {f"odd{n}.png": picture(colour=(0, 255, n), size=(9, 9)) for n in range(5)})
    drop(page, {f"more{n}.png": picture(colour=(0, 255, n + 5), size=(9, 9)) for n in range(40)})
    playwright.expect(page.locator("#drift")).to_be_visible()
    playwright.expect(page.locator("#drift")).to_contain_text("less like the training images")


OOD = {f"odd{n}.png": picture(colour=(0, 255, n), size=(9, 9)) for n in range(45)}


def test_a_change_of_images_is_announced_once_and_stays_in_sight_on_a_phone(opened):
    page = opened(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    playwright.expect(page.locator("#notice")).to_be_visible()
    drop(page, OOD)
    playwright.expect(page.locator("#drift")).to_be_visible()
    playwright.expect(page.locator("#status")).to_contain_text("no longer like")
    page.locator("#list").focus()
    page.locator(".row").first.tap()
    playwright.expect(page.locator("#case")).to_be_visible()
    for part in ("#notice-brief", "#drift summary"):
        playwright.expect(page.locator(part)).to_be_in_viewport()
        assert page.locator(part).bounding_box()["height"] < 30
    page.locator("#agree").scroll_into_view_if_needed()
    playwright.expect(page.locator("#drift summary")).to_be_in_viewport()
    page.evaluate("() => { document.getElementById('status').textContent = 'else'; }")
    page.evaluate("() => import('./page/drift.js').then((one) => one.lookForDrift())")
    playwright.expect(page.locator("#status")).to_have_text("else")


ROUNDED = {
    "atMost(0.10049)": "10.1 %",
    "atMost(0.1)": "10.0 %",
    "atMost(0.07)": "7.0 %",
    "atMost(0.29)": "29.0 %",
    "atMost(0.00001)": "0.1 %",
    "atMost(1)": "100.0 %",
    "percent(0.10049)": "10.0 %",
    "percent(0.0004)": "<0.1 %",
    "percent(0.9996)": ">99.9 %",
    "percent(0)": "0.0 %",
    "percent(1, 0)": "100 %",
    "percent(null)": "\N{EN DASH}",
}


def test_bounds_are_rounded_up_and_0_and_100_percent_are_exact(opened):
    calls = ", ".join(f"one.{call}" for call in ROUNDED)
    found = opened().evaluate(f"() => import('./page/dom.js').then((one) => [{calls}])")
    assert dict(zip(ROUNDED, found, strict=True)) == ROUNDED


def test_a_bound_and_a_risk_are_not_shown_as_better_than_they_are(page_service, opened):
    stored(page_service, 1, error=0.004)
    stored(page_service, 2, error=0.996)

    def calibration(route):
        found = route.fetch().json()
        for one in found["operating_points"]:
            one["bound"] = 0.10049
        found["policy"]["threshold"] = found["operating_points"][0]["threshold"]
        route.fulfill(json=found)

    def prepare(page):
        no_pictures(page)
        page.route("**/calibration", calibration)

    page = opened(prepare=prepare)
    assert page.locator(".row .risk").all_inner_texts() == [">99 % risk", "<1 % risk"]
    page.locator("#setting summary").first.click()
    playwright.expect(page.locator("#fact-bound")).to_have_text("10.1 %")


@pytest.mark.parametrize("missing", ["ood_score", "acceptance_score", "error_probability"])
def test_no_target_accepts_a_number_that_is_not_finite(missing, page_service, opened):
    answered = {"error": 0.02, "policy_fingerprint": page_service.service.policy_fingerprint}
    stored(page_service, 1, **answered, name="finite.png")
    stored(page_service, 2, **answered | {missing: None}, name="odd.png")
    page = opened("#target=0.3", prepare=no_pictures)
    playwright.expect(page.locator(".row", has_text="was defer")).to_have_count(1)
    not_finite = page.locator(".row", has_text="odd.png")
    playwright.expect(not_finite.locator(".badge")).to_have_text("defer")


def test_the_banner_describes_the_alarm_and_the_present_state(opened):
    def turn(route):
        found = route.fetch().json()
        for one in found["tests"]:
            one |= {
                "since": "2026-01-01T00:00:00Z",
                "alarmed_with": "Less sure.",
                "sentence": "More.",
            }
        route.fulfill(json=found | {"alarm": True})

    page = opened(prepare=lambda page: page.route("**/drift", turn))
    first = page.locator("#drift-tests li").first
    assert re.match(r"Less sure\. Alarm since .* Now: More\.$", first.text_content())


def test_the_slider_previews_decisions_and_does_not_change_the_policy(opened):
    page = opened()
    choose(page, {**shades(), "odd.png": picture(colour=GREEN)})
    page.locator("#setting summary").first.click()
    page.locator("#target").fill("30")
    playwright.expect(page.locator("#target-text")).to_have_text("30.0 %")
    playwright.expect(page.locator("#setting-note")).to_contain_text(
        "Rule most_probable: the class"
    )
    badges = page.locator(".row .badge").all_inner_texts
    playwright.expect(page.locator(".row .was").first).to_have_text("was defer")
    assert badges().count("unfamiliar") == 1
    assert badges().count("accept") > 2
    bound = float(page.locator("#fact-bound").inner_text().rstrip(" %"))
    assert 20 < bound <= 30
    assert "--max-error 0.3 --confidence 0.95" in page.locator("#command").text_content()
    page.locator("#target").fill("0.5")
    playwright.expect(page.locator("#fact-coverage")).to_have_text("0 %")
    assert badges().count("accept") == 0
    page.locator("#back-to-policy").click()
    playwright.expect(page.locator(".row .was")).to_have_count(0)
    decided = page.evaluate("() => fetch('cases').then((answer) => answer.json())")["cases"]
    assert sorted(one["decision"] for one in decided) == ["accept"] * 2 + ["defer"] * 2 + ["ood"]
