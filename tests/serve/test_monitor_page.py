"""The operator's page: its numbers, its alarms, and that everybody can read it."""

import html
import math
import re
from datetime import timedelta

import pytest
from browsing import needs_chromium
from standin import START, Calibrated, case, picture, review, sent, with_key
from triage import barriers

from misgiving.serve.audits import audit_terms
from misgiving.serve.case import CASES
from misgiving.serve.deletion import delete_cases
from misgiving.serve.store import Store

POLICY, TERMS = Calibrated().policy.fingerprint, audit_terms(Calibrated().policy)
AUDITED = {"policy_fingerprint": POLICY, "audited": True, "blind": True, "position": 0.5}


def last_values(client):
    """The last value of each line, by its name, as a screen reader says it."""
    page = client.get("/monitor")
    assert page.status_code == 200
    labels = re.findall(r'aria-label="[^"]*Last: ([^"]*)"', page.text)
    values = re.findall(r"([a-z][^,]*?) ([\d.]+) %", ", ".join(labels))
    return {name: float(value) for name, value in values}


def audited_store(place, wrong=(3, 7), unconfirmed=(), count=12):
    store = Store.open(str(place))
    store.add(
        [
            case(n, received=START + timedelta(days=n), decision="accept", **AUDITED)
            for n in range(count)
        ]
    )
    for number in range(count):
        for name in ("Ann", "Ben") if number in wrong else ("Ann",):
            is_against = number in (*wrong, *unconfirmed)
            said = {"verdict": "none", "final_class": None} if is_against else {}
            store.review(case(number).id, review("", reviewer=name, **said))
    store.audit(POLICY, 0.5, **TERMS)
    return store


def test_decisions_are_shares_of_a_day_and_deleted_cases_count(place, serving):
    store = Store.open(place)
    decisions = ["accept"] * 6 + ["defer"] * 3 + ["ood"]
    store.add(
        [case(n, decision=each, policy_fingerprint=POLICY) for n, each in enumerate(decisions)]
    )
    client = serving(Calibrated(), store)
    expected = {"accepted": 60.0, "deferred": 30.0, "unfamiliar": 10.0}
    assert last_values(client).items() >= expected.items()
    delete_cases(store, None, CASES.c.decision == "accept")
    assert last_values(client).items() >= expected.items()


def test_the_audited_error_has_its_bound_and_its_target(serving, sqlite_place):
    client = serving(Calibrated(), audited_store(sqlite_place, unconfirmed=[5, 6, 8]))
    audit, shown = client.get("/audit").json(), last_values(client)
    assert shown["found wrong"] == pytest.approx(100 * 2 / 12, abs=0.05)
    assert shown["at most (95 % at any time)"] == math.ceil(1000 * audit["upper"]) / 10
    assert shown["target"] == 10.0


def test_readers_agree_and_accepted_errors_are_the_teams(serving, sqlite_place, answers_count_in):
    store = audited_store(sqlite_place)
    deferred, corrected = (case(n, decision="defer", **AUDITED) for n in (20, 21))
    store.add([deferred, corrected])
    for seconds, row, name, chosen in (
        (60, corrected, "Ann", "MEL"),
        (60, corrected, "Ann", "NV"),  # no second reader
        (0, deferred, "Ann", "MEL"),
        (0, deferred, "Ben", "NV"),
    ):
        answers_count_in(seconds)
        said = {"verdict": "override", "final_class": chosen}
        store.review(row.id, review("", reviewer=name, **said))
    shown = last_values(serving(Calibrated(), store))
    assert shown["two readers agree"] == pytest.approx(100 * 2 / 3, abs=0.05)
    assert shown["errors of the team"] == pytest.approx(100 * 2 / 13, abs=0.05)


def test_alarms_are_said_and_marked_in_each_chart(serving, sqlite_place):
    client = serving(Calibrated(), audited_store(sqlite_place, wrong=range(12)))
    assert client.get("/audit").json()["alarm"]
    page = client.get("/monitor").text
    charts = page.count('role="img"')
    assert charts >= 3
    assert page.count("<title>Alarm of the audits</title>") == charts
    assert "(audits): every image is deferred" in page
    for step in client.get("/audit").json()["next_steps"]:
        assert f"<li>{step}</li>" in html.unescape(re.sub("</?code>", "`", page))
    assert "<code>misgiving audits resume STORE" in page
    assert POLICY[:12] in page


def test_answers_found_wrong_are_counted_by_their_states(serving, sqlite_place):
    client = serving(Calibrated(), audited_store(sqlite_place, wrong=(3, 7), unconfirmed=[5]))
    said = "Accepted answers found wrong: 3 open, 3 of them for more than a day; 0 contradicted, "
    assert f"{said}0 told, 0 withdrawn." in client.get("/monitor").text
    body = {"told_by": "Olga", "note": "", "state": "open"}
    assert client.post(f"/cases/{case(3).id}/told", json=body).status_code == 200
    assert "2 open, 2 of them for more than a day; 0 contradicted, 1 told" in (
        client.get("/monitor").text
    )


def test_a_service_without_cases_or_policy_has_a_monitor(client):
    assert "No cases yet" in client.get("/monitor").text
    sent(client, picture())
    assert "Decisions" in client.get("/monitor").text


def test_only_a_key_to_operate_opens_the_monitor(serving, sqlite_place):
    client = serving(Calibrated())
    expected = {"operate": 200, "read": 403, "send": 403, "metrics": 403}
    keys = {role: with_key(sqlite_place, role, role) for role in expected}
    assert {
        role: client.get("/monitor", headers=key).status_code for role, key in keys.items()
    } == expected
    assert client.get("/monitor").url.path == "/sign-in"


def test_a_candidate_in_shadow_has_its_charts(serving):
    client = serving(Calibrated(), shadow=True)
    for level, name in ((0.02, "dark"), (0.03, "light"), (0.45, "dark")):
        case_id = sent(client, picture(level))["id"]
        for reader in ("Ann", "Ben"):
            body = {"verdict": "override", "class": name, "reviewer": reader}
            client.post(f"/cases/{case_id}/review", json=body)
    shown = last_values(client)
    assert (shown["accepted"], shown["found wrong"]) == (pytest.approx(66.7), 50.0)
    assert shown["errors of the team"] == pytest.approx(33.3)


@needs_chromium
@pytest.mark.parametrize("page_service", [{"audit_share": 0.5}], indirect=True)
def test_the_monitor_is_accessible_and_asks_no_other_host(opened, page_service, tmp_path):
    audited_store(tmp_path / "cases.sqlite", wrong=range(12)).close()
    page_service.service.monitor.update_drift()
    page = opened("monitor")
    assert page.locator("svg[role=img]").count() == 4
    assert barriers(page) == []
    page.set_viewport_size({"width": 390, "height": 780})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
