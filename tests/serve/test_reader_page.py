"""What the reader's page shows with a case, and above the worklist."""

import re

import httpx
import pytest
from browsing import SIZES, needs_chromium
from standin import made_policy, picture
from test_blind_page import as_reader
from triage import (
    barriers,
    choose,
    expect,
    names,
    no_pictures,
    press,
    reload,
    said_by,
    shades,
    stored,
    stored_blind,
    stored_wrong,
)

from misgiving.deferral.targets import Targets
from misgiving.serve.case import CaseQuery

pytestmark = needs_chromium


@pytest.mark.parametrize("page_service", [{"audit_share": 1.0}], indirect=True)
def test_a_banner_is_one_line_until_it_is_opened(opened, page_service):
    stored_wrong(page_service, 30)
    page = opened()
    for size in SIZES.values():
        page.set_viewport_size(size)
        for name in ("audit-alarm", "wrong"):
            banner = page.locator(f"#{name}")
            expect(banner).to_be_visible()
            assert banner.bounding_box()["height"] < 48
    opened.errors.clear()  # a browser notes each missing image
    page.locator("#audit-alarm summary").click()
    expect(page.locator("#audit-alarm-says")).to_contain_text("The audits show more errors")
    assert barriers(page) == []
    opened.errors.clear()


def test_brightness_and_contrast_change_the_image_of_this_case_alone(opened):
    page = opened()
    choose(page, shades())
    page.locator(".row").first.click()
    image = page.locator("#case-image")
    expect(image).to_have_css("filter", "brightness(1) contrast(1)")
    page.get_by_label("Brightness").fill("150")
    page.get_by_label("Contrast").fill("80")
    expect(image).to_have_css("filter", "brightness(1.5) contrast(0.8)")
    page.locator(".row").nth(1).click()
    expect(image).to_have_css("filter", "brightness(1) contrast(1)")
    assert barriers(page) == []


@pytest.mark.parametrize("page_service", [{"audit_share": 1.0}], indirect=True)
def test_the_default_list_is_not_reviewed_audits_first_and_mine_has_what_this_reader_has_read(
    opened, page_service
):
    stored_blind(page_service, 1, position=0.1)
    stored_blind(page_service, 2, position=0.9)
    stored(page_service, 3, error=0.45)
    stored(page_service, 4, error=0.4, reviewed_by="Ben")
    row = stored(page_service, 5, error=0.35, reviewed_by="Ann")
    page_service.store.review(row.id, said_by("Ben"))
    page = opened("", prepare=no_pictures)
    expect(page.locator("#reviewed")).to_have_value("no")
    assert names(page) == ["2.png", "1.png", "3.png"]
    answer = httpx.get(f"{page_service.address}cases?limit=2").json()
    assert [row["name"] for row in answer["cases"]] == ["2.png", "1.png"]
    as_reader(page, "Ann")
    page.locator(".row", has_text="3.png").click()
    press(page, "1")
    expect(page.locator("#status")).to_contain_text("Saved: dark for 3.png.")
    assert names(page) == ["2.png", "1.png"]
    page.locator("#reviewed").select_option("mine")
    expect(page.locator(".row .file")).to_have_text(["3.png", "5.png"])
    reload(page)
    expect(page.locator(".row .file")).to_have_text(["3.png", "5.png"])
    expect(page.locator("#csv")).to_have_attribute("href", re.compile("mine=true.*reader=Ann"))
    assert [row.name for row in page_service.store.all(CaseQuery(mine=True))] == []


@pytest.mark.parametrize("page_service", [{"shadow": True}], indirect=True)
def test_the_page_says_that_it_is_in_shadow(opened):
    page = opened()
    expect(page.get_by_text("every image is deferred, and read blind")).to_be_visible()
    choose(page, {"a.png": picture(0.02)})
    expect(page.locator(".row .badge")).to_have_text("blind")


def test_a_case_has_what_its_sender_gave_and_the_other_images_of_its_group(opened, page_service):
    query = {"group": "patient 1", "metadata": '{"age": 61}'}
    for name, level in {"first.png": 0.45, "second.png": 0.4}.items():
        files = {"files": (name, picture(level))}
        httpx.post(f"{page_service.address}decisions", params=query, files=files)
    page = opened()
    page.locator(".row", has_text="first.png").click()
    expect(page.locator("#metadata")).to_have_text("age61")
    other = page.locator("#group-images button")
    expect(other.locator("img")).to_have_attribute("alt", "second.png")
    assert barriers(page) == []
    other.click()
    expect(page.locator("#case-name")).to_have_text("second.png")


def test_the_sentence_of_a_case_agrees_with_its_numbers(opened, page_service):
    service = page_service.service
    own = {"policy_fingerprint": service.policy_fingerprint}
    stored(page_service, 1, error=0.434, decision="accept", name="earlier")
    stored(page_service, 2, error=0.434, name="earlier deferred")
    stored(page_service, 3, error=0.05, decision="accept", name="low", **own)
    stored(page_service, 4, error=0.15, decision="accept", name="above", **own)
    stored(page_service, 5, error=0.01, name="sure", reason="an alarm, so it is deferred", **own)
    stored(page_service, 6, error=0.4, name="unsure", **own)
    sentences = {
        "earlier": "An earlier policy accepted the answer.",
        "earlier deferred": "An earlier policy deferred it: you decide.",
        "low": "The risk is low enough to accept the answer.",
        "above": "Riskier than the target, which holds for all accepted answers together.",
        "sure": "An alarm, so it is deferred.",
        "unsure": "Not certain enough to accept the answer: you decide.",
    }
    page = opened(prepare=no_pictures)

    def shown(name):
        page.locator(".row").filter(has=page.get_by_text(name, exact=True)).click()
        expect(page.locator("#case-name")).to_have_text(name)
        return page.locator("#case-reason").inner_text()

    assert {name: shown(name) for name in sentences} == sentences
    service.model.policy = made_policy(Targets(max_deferred=0.3)).policy_
    reload(page)
    assert shown("above") == "The policy accepts the answer; it has no target error rate."


def test_only_an_accepted_answer_is_agreed_with_else_its_class_is_one_of_the_choices(
    opened, page_service
):
    stored(page_service, 1, error=0.05, decision="accept")
    stored(page_service, 2, error=0.4)
    stored(page_service, 3, error=0.3, decision="ood")
    page = opened(prepare=no_pictures)
    agree, status = page.locator("#agree"), page.locator("#status")
    for name in ("2.png", "3.png"):
        page.locator(".row", has_text=name).click()
        expect(page.locator("#case-name")).to_have_text(name)
        expect(agree).to_be_hidden()
        press(page, "a")
        expect(status).to_have_text("Only an accepted answer is agreed with: choose a class.")
        press(page, "1")
        expect(status).to_have_text(f"Saved: dark for {name}.")
    verdicts = {
        row.name: row.review.verdict for row in page_service.store.all(CaseQuery(reviewed=True))
    }
    assert verdicts == {"2.png": "agree", "3.png": "agree"}
    press(page, "v")
    each = page.get_by_role("button", name="Agree with each")
    expect(each).to_be_disabled()
    page.locator(".row", has_text="1.png").click()
    expect(each).to_be_enabled()
    page.locator(".row", has_text="2.png").click()
    expect(each).to_be_disabled()
    press(page, "a")
    expect(status).to_have_text("Only an accepted answer is agreed with: choose a class.")
    page.locator(".row", has_text="1.png").dblclick()
    agree.click()
    expect(status).to_have_text("Saved: dark for 1.png.")


NAMES = {"dark": "a dark image", "light": "<b>a light image</b>"}


@pytest.mark.parametrize("page_service", [{"class_names": NAMES}], indirect=True)
def test_long_names_of_classes_stand_beside_the_short_ones_on_the_page_alone(opened, page_service):
    page = opened()
    choose(page, {"a.png": picture(0.4)})
    expect(page.locator(".row .long")).to_have_text("a dark image")
    expect(page.locator("#predicted option")).to_contain_text(["every class", "dark: a dark image"])
    page.locator(".row").click()
    expect(page.locator("#case-class")).to_have_text("dark")
    expect(page.locator("#case-long")).to_have_text("a dark image")
    button = page.locator("#classes button").nth(1)
    expect(button).to_have_attribute("title", "light: <b>a light image</b>")
    assert barriers(page) == []
    button.click()
    expect(page.locator(".row b").first).to_have_text("light")
    assert page_service.store.count(CaseQuery(predicted_class="dark")) == 1
    table = httpx.get(f"{page_service.address}cases.csv").text
    assert "a dark image" not in table
    assert ',"light",' in table


@pytest.mark.parametrize("page_service", [{"reviews": 2}], indirect=True)
def test_the_worklist_has_a_line_where_the_reviews_of_a_day_end(opened):
    page = opened()
    choose(page, shades())
    line = page.locator(".row.day-ends")
    expect(line).to_have_attribute("aria-posinset", "2")
    page.locator("#reviewed").select_option("no")
    page.locator("#list").focus()
    press(page, "j", "1")
    expect(line).to_have_attribute("aria-posinset", "1")
    assert barriers(page) == []
