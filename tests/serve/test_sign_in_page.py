"""Signing in to the page with a key, and out again, in a real browser."""

import pytest
from browsing import needs_chromium
from standin import with_key
from triage import barriers, expect, no_pictures, said_by, stored_blind

pytestmark = needs_chromium
audited = pytest.mark.parametrize("page_service", [{"audit_share": 1.0}], indirect=True)


@pytest.fixture
def signed_in(browser, page_service, tmp_path):
    """Open the page with a new key; gives the page and the errors on its console."""
    contexts = []

    def sign_in(role, name):
        context = browser.new_context()
        contexts.append(context)
        page, errors = context.new_page(), []
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        key = with_key(tmp_path / "cases.sqlite", role, name)["Authorization"][7:]
        no_pictures(page)
        page.goto(page_service.address)
        page.get_by_label("Your key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_selector("body[data-ready]")
        return page, errors

    yield sign_in
    for context in contexts:
        for page in context.pages:
            page.unroute_all(behavior="ignoreErrors")
        context.close()


@audited
def test_a_reader_signs_in_reads_under_the_name_of_the_key_and_signs_out(
    page_service, signed_in, monkeypatch
):
    monkeypatch.setattr("misgiving.serve.keys.VALID_SECONDS", 0.0)
    row = stored_blind(page_service, 1)
    page, errors = signed_in("read", "R. Viewer")
    expect(page.locator("#signed-in")).to_have_text("R. Viewer")
    expect(page.locator("#choose-files")).to_be_hidden()
    page.locator(f"#case-{row.id}").click()
    expect(page.locator("#reviewer")).to_have_value("R. Viewer")
    expect(page.locator("#reviewer")).not_to_be_editable()
    page.get_by_role("button", name="light").click()
    expect(page.locator("#blind-answer")).to_contain_text("Your blind answer is light")
    (given,) = page_service.store.reviews(row.id)
    assert (given.reviewer, given.blind) == ("R. Viewer", True)
    assert barriers(page) == []
    page.evaluate("() => sessionStorage.setItem('misgiving-notes', '{}')")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Your key")).to_be_focused()
    assert page.evaluate("() => sessionStorage.length") == 0
    assert barriers(page) == []
    assert errors == []
    page.go_back()
    expect(page.get_by_label("Your key")).to_be_visible()


@audited
def test_an_operator_sees_everything_signs_no_reading_and_tells_under_the_name_of_the_key(
    page_service, signed_in, monkeypatch
):
    monkeypatch.setattr("misgiving.serve.keys.VALID_SECONDS", 0.0)
    row = stored_blind(page_service, 1)
    for reader in ("Ann", "Ben"):
        page_service.store.review(row.id, said_by(reader, "light"))
    page, errors = signed_in("operate", "Olga")
    page.locator("#wrong summary").click()
    page.get_by_label("Who was told of 1.png").fill("Dr. Sender")
    page.get_by_role("button", name="Mark as told").click()
    expect(page.locator("#wrong-list")).to_contain_text("Olga, ")
    page.locator("#reviewed").select_option("all")
    page.locator(f"#case-{row.id}").click()
    expect(page.locator("#history li")).to_have_count(2)
    expect(page.locator("#agree")).to_be_hidden()
    page.locator("#list").focus()
    page.keyboard.press("a")
    expect(page.locator("#status")).to_contain_text("signs no reading")
    assert len(page_service.store.reviews(row.id)) == 2
    assert errors == []


@audited
def test_a_page_whose_session_has_ended_leads_back_to_the_form(page_service, signed_in):
    row = stored_blind(page_service, 1)
    page, _ = signed_in("read", "R. Viewer")
    page.context.request.post(f"{page_service.address}sign-out")
    page.locator(f"#case-{row.id}").click()
    expect(page.get_by_label("Your key")).to_be_focused()
