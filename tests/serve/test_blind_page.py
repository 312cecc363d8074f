"""Blind cases on the page: nothing tells them apart, two readers, an alarm, and all by keyboard."""

import json
import re

import pytest
from browsing import needs_chromium
from standin import review
from triage import (
    barriers,
    choose,
    expect,
    names,
    no_pictures,
    press,
    reload,
    shades,
    stored,
    stored_blind,
    stored_wrong,
)
from waiting import until

from misgiving.serve.case import CaseQuery

pytestmark = needs_chromium

SEEN = """() => {
    window.seen = new Set();
    const look = () => {
        const badges = document.querySelectorAll(".row .badge");
        badges.forEach((badge) => window.seen.add(badge.textContent));
    };
    const all = { childList: true, subtree: true };
    new MutationObserver(look).observe(document.getElementById("rows"), all);
}"""
READY = "() => import('./page/state.js').then((module) => module.state.ready)"
audited = pytest.mark.parametrize(
    "page_service", [{"audit_share": 1.0, "look_again": True, "audit_days": 3650.0}], indirect=True
)


def as_reader(page, name):
    """Enter the name by keyboard, and return to the list."""
    page.locator("#list").focus()
    press(page, "j", "n", "Tab", "Control+a")
    page.keyboard.type(name)
    leave_name(page, name)
    expect(page.locator("#list")).to_be_focused()


def leave_name(page, name):
    """Leave the field, and wait for the cases as this reader may see them."""
    page.keyboard.press("Escape")
    until(lambda: page.evaluate(READY))  # `wait_for_function` takes a promise for true
    expect(page.locator("#csv")).to_have_attribute("href", re.compile(f"reader={name}"))


def without_identity(text, row):
    """A text without what says which case it is, and where it lies."""
    place = r'aria-posinset="\d+"|style="top[^"]*"|"position":[\d.]+|"received":"[^"]+"'
    return re.sub(f"{place}|{row.id}|{row.name}", "", text)


def all_of(page, row):
    """The elements of a case on the page, and every response about it."""
    answers = []
    page.on("response", lambda answer: row.id in answer.url and answers.append(answer))
    with page.expect_response(f"**/cases/{row.id}*"):
        page.locator(".row", has_text=row.name).click()
    expect(page.locator("#case-name")).to_have_text(row.name)
    elements = [f"#case-{row.id}", "#detail"]
    texts = [page.locator(name).evaluate("(it) => it.outerHTML") for name in elements]
    texts += [answer.text() for answer in answers if "json" in answer.headers["content-type"]]
    texts += [json.dumps(sorted(answer.headers)) for answer in answers]
    return [without_identity(text, row) for text in texts]


@audited
def test_nothing_tells_an_accepted_case_from_a_deferred_one_before_the_answer(page_service, opened):
    rows = [
        stored_blind(page_service, 1),
        stored_blind(page_service, 2, decision="defer", error=0.4, audited=False),
        stored_blind(page_service, 3, decision="ood", error=0.1, predicted_class="light"),
    ]
    stored(page_service, 4, error=0.31)
    page = opened(prepare=no_pictures)
    as_reader(page, "Ann")
    first, *others = [all_of(page, row) for row in rows]
    assert others == [first, first]
    expect(page.locator(".row .badge")).to_have_text(["blind", "blind", "blind", "defer"])
    expect(page.locator("#counts")).to_contain_text("accept 0")
    expect(page.locator("#case-risk")).to_have_text("")
    assert barriers(page) == []
    page.locator("#list").focus()
    press(page, "a", "s")
    expect(page.locator("#status")).to_contain_text("choose a class")
    assert page_service.store.count(CaseQuery(reader="Ann", reviewed=True)) == 0


@audited
def test_a_wrong_accepted_answer_is_listed_at_once_and_a_second_reader_confirms_it(
    page_service, opened
):
    row = stored_blind(page_service, 1)
    ann, ben = opened(prepare=no_pictures), opened(prepare=no_pictures)
    as_reader(ann, "Ann")
    expect(ann.locator("#why")).to_be_hidden()
    press(ann, "2")
    expect(ann.locator("#blind-answer")).to_contain_text("Your blind answer is light; the model's")
    expect(ann.locator("#blind-answer")).to_contain_text("Please look again")
    expect(ann.locator("#case-decision")).to_have_text("accept")
    expect(ann.locator("#wrong-list")).to_contain_text("accepted as dark, read as light. Open")
    assert barriers(ann) == []
    press(ann, "r")
    ann.keyboard.type("atyp")
    press(ann, "Escape", "2")
    expect(ann.locator("#blind-answer")).not_to_contain_text("Please look again")
    as_reader(ben, "Ben")
    expect(ben.locator(".row .badge")).to_have_text(["blind"])
    expect(ben.locator("#wrong")).to_be_hidden()
    assert "light" not in ben.locator(".row, #history, #blind-answer").all_inner_texts()[0]
    press(ben, "x")
    expect(ben.locator("#wrong-list")).to_contain_text("confirmed")
    expect(ben.locator("#audit-now")).to_contain_text("Audited 1 accepted answer since")
    ben.locator("#wrong summary").click()
    ben.locator("#wrong-list").get_by_role("button", name="1.png").focus()
    press(ben, "Enter")
    expect(ben.locator("#history li")).to_have_count(3)
    expect(ben.locator("#history")).to_contain_text("overrode, light (atypical)")
    given = [(x.reviewer, x.blind) for x in page_service.store.reviews(row.id)]
    assert given == [("Ann", True), ("Ann", False), ("Ben", True)]


@audited
def test_sent_images_are_blind_and_an_answer_needs_a_name_and_moves_on_if_it_agrees(opened):
    page = opened()
    page.evaluate(SEEN)
    choose(page, shades())
    expect(page.locator(".row .badge")).to_have_text(["blind"] * 4)
    assert page.evaluate("() => [...window.seen]") == ["blind"]
    expect(page.locator("#counts")).to_contain_text("accept 0")
    page.locator("#list").focus()
    press(page, "j", "1")
    expect(page.locator("#ask-name")).to_be_visible()
    expect(page.locator("#reviewer")).to_be_focused()
    following = names(page)[1]
    page.keyboard.type("Ann")
    leave_name(page, "Ann")
    press(page, "1")
    expect(page.locator("#case-name")).to_have_text(following)
    expect(page.locator("#tally-text")).to_have_text("1 of 4 reviewed")


@audited
def test_an_alarm_of_the_audits_stands_on_top_with_both_levels(page_service, opened):
    stored_wrong(page_service, 40)
    page = opened(prepare=no_pictures)
    expect(page.locator("#audit-alarm")).to_contain_text("more errors than the target, 10.0 %")
    expect(page.locator("#audit-now")).to_contain_text("40 wrong, 0 unconfirmed; at most 100 %")
    page.locator("#audit summary").click()
    expect(page.locator("#audit-levels")).to_contain_text("at most 1 %, with those of the drift")
    assert barriers(page) == []
    reload(page)
    expect(page.locator("#audit-alarm")).to_be_visible()


@audited
def test_a_blind_answer_can_be_corrected_until_its_reader_opens_another_case(
    page_service, opened, answers_count_in
):
    answers_count_in(3600.0)
    row = stored_blind(page_service, 1)
    stored_blind(page_service, 2, position=0.9)
    page = opened(f"#reviewed=all&case={row.id}", prepare=no_pictures)
    as_reader(page, "Ann")
    page.locator(f"#case-{row.id}").click()
    press(page, "1")
    expect(page.locator("#blind-answer")).to_contain_text("Your answer is dark. You can correct it")
    expect(page.locator("#case-name")).to_have_text("1.png")
    press(page, "2")
    expect(page.locator("#blind-answer")).to_contain_text("Your answer is light.")
    expect(page.locator("#case-decision")).to_have_text("blind")
    expect(page.locator("#classes button[aria-pressed=true]")).to_contain_text("light")
    assert barriers(page) == []
    page.locator("#list").focus()
    with page.expect_response(lambda response: response.url.endswith("reader=Ann")):
        press(page, "k")
    page.locator(f"#case-{row.id}").click()
    expect(page.locator("#blind-answer")).to_contain_text("Your blind answer is light; the model's")
    given = [(each.final_class, each.blind) for each in page_service.store.reviews(row.id)]
    assert given == [("dark", True), ("light", True)]


@audited
def test_a_blind_answer_that_is_not_corrected_opens_the_decision_by_itself(
    page_service, opened, answers_count_in
):
    answers_count_in(1.0)
    stored_blind(page_service, 1)
    page = opened(prepare=lambda page: (no_pictures(page), page.clock.install()))
    as_reader(page, "Ann")
    press(page, "2")
    expect(page.locator("#blind-answer")).to_contain_text("Your answer is light.")
    decision = page.locator("#case-decision")
    until(lambda: decision.text_content() == "accept" or page.clock.run_for(31_000))
    until(lambda: page_service.service.monitor.audit().unconfirmed)


@audited
def test_an_operator_notes_who_was_told_and_the_answer_stays_in_the_list(page_service, opened):
    row = stored_blind(page_service, 1)
    for reader in ("Ann", "Ben"):
        answer = {"verdict": "override", "final_class": "light", "reviewer": reader}
        page_service.store.review(row.id, review("", **answer))
    page = opened(prepare=no_pictures)
    expect(page.locator("#wrong-count")).to_contain_text("1 open, 1 of them for more than a day")
    page.locator("#wrong summary").click()
    assert barriers(page) == []
    page.get_by_label("Who was told of 1.png").fill("Dr. Sender, by telephone")
    page.get_by_role("button", name="Mark as told").click()
    expect(page.locator("#problem")).to_contain_text("Enter your name")
    as_reader(page, "Olga")
    page.get_by_label("Who was told of 1.png").fill("Dr. Sender, by telephone")
    page.get_by_role("button", name="Mark as told").click()
    expect(page.locator("#wrong-list")).to_contain_text("told: Dr. Sender, by telephone")
    expect(page.locator("#wrong-count")).to_contain_text("0 open; 0 contradicted, 1 told")
    expect(page.get_by_role("button", name="Mark as told")).to_have_count(0)


@audited
def test_no_blind_case_is_reviewed_together_with_others(page_service, opened):
    stored_blind(page_service, 1)
    for number in (2, 3):
        stored(page_service, number)
    page = opened("#layout=grid", prepare=no_pictures)
    page.locator("#mark-all").click()
    expect(page.locator("#batch-count")).to_have_text("2 selected")
    page.locator(".row", has_text="1.png").click()
    expect(page.locator("#status")).to_contain_text("A blind case is read alone")
    expect(page.locator("#batch-count")).to_have_text("2 selected")
    page.keyboard.press("1")
    page.get_by_role("button", name="Review 2 cases").click()
    expect(page.locator("#saved")).to_contain_text("2 reviews")
    expect(page.locator(".row .badge", has_text="blind")).to_have_count(1)
