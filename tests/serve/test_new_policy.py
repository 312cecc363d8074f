"""A new policy keeps what was promised under the old one: its audits, their share, and its list."""

from pathlib import Path

from standin import START, Calibrated, Standin, case, made_policy, picture, review, rows_of, sent
from test_audits import answers

from misgiving.cli.serve import _say_policy
from misgiving.deferral.targets import Targets
from misgiving.serve.audits import resume, uniform
from misgiving.serve.store import Store

OLD = Calibrated()
NEW = Calibrated(made_policy(Targets(max_error=0.2)))
FIRST, SECOND = OLD.policy.fingerprint, NEW.policy.fingerprint
assert FIRST != SECOND


def share_of(client):
    audit = client.get("/audit").json()
    return audit and (audit["policy_fingerprint"], audit["share"])


def test_the_share_of_audits_stays_under_a_new_policy_until_zero_is_given(serving):
    assert share_of(serving(OLD)) is None
    assert share_of(serving(OLD, audit_share=0.9)) == (FIRST, 0.9)
    assert share_of(serving(NEW)) == (SECOND, 0.9)
    third = Calibrated(made_policy(Targets(max_error=0.3)))
    assert share_of(serving(third, audit_share=0.0)) is None
    off = serving(NEW, audit_share=0.0)
    for level in (0.02, 0.03, 0.04, 0.45):
        sent(off, picture(level))
    assert not any(one.get("blind") for one in off.get("/cases").json()["cases"])
    assert share_of(off) == (SECOND, 0.9)  # what was audited before is still counted
    assert off.get("/model").json()["audits"]


def test_blind_cases_of_the_old_policy_are_read_to_the_end_for_its_audit(serving):
    old = serving(OLD, audit_share=1.0)
    ids = [sent(old, picture(level))["id"] for level in (0.02, 0.03)]
    new = serving(NEW)
    for id in ids:
        assert new.get(f"/cases/{id}?reader=Ann").json()["blind"]
        answers(new, id, **{"class": "dark"}, reviewer="Ann")
    audit = new.get(f"/audit?policy={FIRST}").json()
    assert (audit["audited"], audit["target"], audit["among"]) == (2, 0.1, "accepted")
    assert new.get("/audit").json()["audited"] == 0
    assert [row["id"] for row in rows_of(new.get(f"/audit.csv?policy={FIRST}"))] == ids
    without = serving(Standin())
    assert without.get(f"/audit?policy={FIRST}").json()["audited"] == 2
    missing = without.get(f"/audit?policy={'0' * 64}")
    assert (missing.status_code, FIRST in missing.json()["detail"]) == (404, True)


def test_the_sample_of_several_policies_gives_each_group_one_chance(serving, sqlite_place):
    """Against the draws, computed from the secrets."""
    shares, store = {FIRST: 0.8, SECOND: 0.3}, Store.open(sqlite_place)
    for model, share in ((OLD, 0.8), (NEW, 0.3)):
        client = serving(model, audit_share=share, keep_images=Path(sqlite_place).parent / "kept")
    rows, number, expected = store.audits(), 0, []
    for policy, groups in ((FIRST, range(40)), (SECOND, range(20, 60))):
        for group in groups:
            number += 1
            drawn = uniform(rows[policy].secret, f"group {group}") < shares[policy]
            values = {"group": str(group), "audited": drawn, "policy_fingerprint": policy}
            store.add([case(number, **values, blind=False)])
            seen_first = policy == FIRST or group >= 40
            if seen_first and uniform(rows[policy].secret, f"group {group}") < 0.3:
                expected.append(case(number).id)
    exported = rows_of(client.get(f"/audit.csv?policy={FIRST}&policy={SECOND}"))
    assert [row["id"] for row in exported] == expected
    assert {row["sample_of"] for row in exported} == {f"{FIRST}@0.8 {SECOND}@0.3"}
    assert 5 < len(expected) < 30
    store.close()


def test_an_image_that_two_readers_cannot_grade_is_no_open_case_and_no_confirmed_error(serving):
    client = serving(OLD, audit_share=1.0)
    ids = [sent(client, picture(level))["id"] for level in (0.02, 0.03)]
    for reader in ("Ann", "Ben"):
        assert rows_of(client.get("/audit.csv")) == []
        answers(client, ids[0], verdict="ungradable", reviewer=reader)
    answers(client, ids[1], **{"class": "dark"}, reviewer="Ann")
    exported = rows_of(client.get("/audit.csv"))
    assert [(row["standing"], row["label"]) for row in exported] == [
        ("ungradable", ""),
        ("right", "dark"),
    ]
    audit = client.get("/audit").json()
    assert (audit["audited"], audit["wrong"], audit["unconfirmed"]) == (2, 0, 1)


def test_the_sample_says_what_came_after_an_alarm(serving, sqlite_place):
    client = serving(OLD, audit_share=1.0, audit_days=3650.0)
    store = Store.open(sqlite_place)
    for number in range(40):
        values = {"decision": "accept", "policy_fingerprint": FIRST, "position": 0.3}
        store.add([row := case(number, audited=True, blind=True, **values)])
        for name in ("Ann", "Ben"):
            answer = review("", verdict="none", reviewer=name, reviewed_at=START)
            store.review(row.id, answer)
    alarm = client.get("/audit").json()["alarm_since"]
    exported = rows_of(client.get("/audit.csv"))
    assert {row["after_alarm"] for row in exported} == {"yes", "no"}
    assert all((row["after_alarm"] == "yes") == (row["received"] > alarm) for row in exported)
    resume(store, "a filter was missing")
    assert rows_of(client.get("/audit.csv")) == exported
    store.close()


def test_the_start_says_what_decides_what_is_audited_and_what_remains_to_be_read(serving, capsys):
    old = serving(OLD, audit_share=0.9)
    for level in (0.02, 0.03, 0.04, 0.45):
        sent(old, picture(level))
    open_cases = sum(one.get("blind", False) for one in old.get("/cases").json()["cases"])
    _say_policy(serving(NEW).app.state.service)
    said = " ".join(capsys.readouterr().err.split())
    assert f"model {NEW.fingerprint[:12]}, policy {SECOND[:12]}" in said
    assert "audit share 0.9 (0.9 under the policy before); --audit-share 0 turns" in said
    assert f"policy {FIRST[:12]}: {open_cases} blind cases remain to be read" in said
    _say_policy(serving(Standin()).app.state.service)
    assert "policy none" in capsys.readouterr().err
