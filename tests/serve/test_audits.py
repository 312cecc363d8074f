from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from refusals import naming
from standin import (
    CLASSES,
    Calibrated,
    case,
    made_policy,
    picture,
    review,
    rows_of,
    sent,
)

from misgiving.deferral.audit import alarm_evidence, bound_evidence
from misgiving.deferral.targets import Targets
from misgiving.errors import UsageError
from misgiving.serve.audits import count_audits
from misgiving.serve.case import CaseQuery, uniform
from misgiving.serve.settings import ServiceSettings
from misgiving.serve.store import Store

POLICY = Calibrated().policy.fingerprint
TERMS = {"target": 0.1, "among": "accepted"}
ACCEPTED = {"decision": "accept", "error_probability": 0.02, "policy_fingerprint": POLICY}


@pytest.fixture(autouse=True)
def _same_draws(monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda count: 2 * count * "5")


def auditing(serving, **settings):
    return serving(Calibrated(), **({"audit_share": 1.0} | settings))


def answers(client, id, **body):
    response = client.post(f"/cases/{id}/review", json={"verdict": "override"} | body)
    assert response.status_code == 200, response.text
    return response.json()


def test_a_blind_case_shows_its_reader_nothing_but_the_image_until_the_answer(serving):
    client = auditing(serving)
    accepted, deferred = (sent(client, picture(level), f"{level}.png") for level in (0.02, 0.45))
    assert (accepted["decision"], deferred["decision"]) == ("accept", "defer")  # for the sender
    assert not {"audited", "blind", "position"} & accepted.keys()
    listed = client.get("/cases?reader=Ann").json()
    assert listed["counts"] == {"accept": 0, "defer": 2, "ood": 0}
    assert len({frozenset(blind) for blind in listed["cases"]}) == 1
    assert {*listed["cases"][0]} == {
        *("id", "received", "name", "image_kept", "blind", "position", "classes", "answer"),
        "metadata",
    }
    for id in (accepted["id"], deferred["id"]):
        assert client.get(f"/cases/{id}").json()["blind"]
        (row,) = rows_of(client.get("/cases.csv?name=0.02"))
        assert {name for name, value in row.items() if value} == {"id", "received", "name"}
    for query in ("decision=accept", "class=dark", "reviewed=true", "reviewed_after=0"):
        assert client.get(f"/cases?{query}").json()["cases"] == []
    for body in ({"verdict": "agree", "reviewer": "Ann"}, {"verdict": "override", "class": "dark"}):
        refused = client.post(f"/cases/{accepted['id']}/review", json=body)
        assert (refused.status_code, "blind" in refused.json()["detail"]) == (422, True)
    told = answers(client, accepted["id"], **{"class": "dark"}, reviewer="Ann")
    assert (told["decision"], told["review"]["verdict"]) == ("accept", "agree")
    assert told["review"]["blind"]
    assert client.get("/cases?decision=accept").json()["total"] == 1


def test_a_disagreement_is_open_to_other_readers_until_two_agree_with_each_other(serving):
    client = auditing(serving)
    id = sent(client, picture(0.02))["id"]

    def audit(reader):
        state = client.get("/audit").json()
        listed = client.get(f"/found-wrong?reader={reader}").json()["answers"]
        wrong = [name for row in listed for name in row["read_as"]]
        return state["wrong"], state["unconfirmed"], wrong

    answers(client, id, **{"class": "light"}, reviewer="Ann", override_reason="atypical")
    assert audit("ann") == (0, 1, ["light"])  # at once, for who has answered
    assert audit("Ben") == (0, 1, [])
    assert client.get("/cases?reader=Ben&reviewed=false").json()["total"] == 1
    assert client.get("/cases?reader=Ann&reviewed=true").json()["total"] == 1
    assert client.get(f"/cases/{id}?reader=Ben").json()["blind"]
    assert client.get("/cases?reader=Ben&reviewed_after=0").json()["cases"] == []
    answers(client, id, verdict="agree", reviewer="Ann", note="seen")  # after the reveal
    given = client.get(f"/cases/{id}?reader=Ann").json()["reviews"]
    assert [(review["blind"], review["final_class"]) for review in given] == [
        (True, "light"),
        (False, "dark"),
    ]
    assert audit("Ann")[:2] == (0, 1)  # her first answer counts
    answers(client, id, verdict="none", reviewer="Ben", **{"seen": None})
    assert audit("anyone") == (1, 0, [None])
    assert client.get(f"/cases/{id}").json()["decision"] == "accept"
    (row,) = rows_of(client.get("/cases.csv"))
    assert (row["standing"], row["audited"], row["label"]) == ("wrong", "yes", "")
    assert (row["reader_Ann"], row["reader_Ben"]) == ("light", "")


class Grey(Calibrated):
    """Answers the superclass of both classes."""

    def __init__(self):
        super().__init__()
        certificate, members = self.policy.certificate, {"grey": CLASSES, "coloured": ("red",)}
        targets = replace(certificate.targets, superclasses=members, answer="superclass")
        self.policy = replace(self.policy, certificate=replace(certificate, targets=targets))

    def decision_of(self, model_input):
        return super().decision_of(model_input).model_copy(update={"answer": "grey"})


def test_a_reader_who_gives_another_class_of_the_superclass_agrees_with_its_answer(serving):
    client = serving(Grey(), audit_share=1.0)
    id = sent(client, picture(0.02))["id"]
    told = answers(client, id, **{"class": "light"}, reviewer="Ann")
    assert (told["answer"], told["predicted_class"]) == ("grey", "dark")
    assert (told["review"]["verdict"], told["review"]["final_class"]) == ("agree", "light")
    (row,) = rows_of(client.get("/cases.csv"))
    assert (row["standing"], row["label"], row["answer"]) == ("right", "light", "grey")
    assert client.get("/found-wrong").json()["answers"] == []
    policy = client.get("/calibration").json()["policy"]
    assert policy["superclasses"] == {"grey": ["dark", "light"], "coloured": ["red"]}


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["agree"], "right"),
        (["override", "agree"], "unconfirmed"),
        (["override", "agree", "agree"], "right"),
        (["unsure"], "unconfirmed"),
        (["unsure", "agree"], "right"),
        (["override", "unsure", "none"], "wrong"),
        (["ungradable", "override", "ungradable"], "ungradable"),
    ],
)
def test_the_first_who_agrees_settles_a_case_and_then_two_of_a_kind(store, verdicts, expected):
    row = case(1, audited=True, blind=True, position=0.3, **ACCEPTED)
    store.add([row])
    for reader, verdict in enumerate(verdicts):
        assert store.cases([row.id])[row.id].blind
        for name in (f" READER {reader}", f"reader {reader} "):  # the second is no blind answer
            store.review(row.id, review("", verdict=verdict, reviewer=name))
    blind = [review.blind for review in store.reviews(row.id)]
    assert sum(blind) == len(verdicts)
    (audited,) = store.audited([row.policy_fingerprint])
    assert (audited.blind, audited.reviewed) == (expected == "unconfirmed", not audited.blind)


def test_the_draw_is_by_group_and_the_share_is_for_the_life_of_a_policy(serving, sqlite_place):
    client = auditing(serving, audit_share=0.4)
    for number in range(60):
        level = 0.02 if number % 3 else 0.45
        data = {"files": (f"{number}.png", picture(level, size=(9, 9 + number)))}
        client.post(f"/decisions?group=patient {number // 6}", files=data)
    store = Store.open(sqlite_place)
    cases = list(store.all(CaseQuery()))
    flags = {(row.group, row.audited) for row in cases}
    assert len(cases) == 60
    assert len(flags) == len({group for group, _ in flags}) == 10
    assert {audited for _, audited in flags} == {True, False}
    accepted = [row for row in cases if row.decision == "accept"]
    assert [row.blind for row in accepted] == [row.audited for row in accepted]
    with pytest.raises(UsageError, check=naming("audit_share")):
        store.audit(POLICY, 0.3, **TERMS)
    assert store.audit(POLICY, 0.4, **TERMS).secret == store.audit(POLICY, None, **TERMS).secret
    assert store.audit("another", 0.0, **TERMS) is None
    store.close()


def accepted_cases(service, groups, *, start=0):
    """Accepted cases of these groups, as the service draws and stores them."""
    rows = [case(start + n, **ACCEPTED, group=group) for n, group in enumerate(groups)]
    return service.store.add(rows, service.audit_draw.draw)


def test_after_twenty_cases_a_group_is_drawn_anew_for_each_twenty(serving):
    """Against the draws, computed from the secret; also in one transaction, and after a restart."""
    client, groups = auditing(serving, audit_share=0.4), [f"g{n}" for n in range(8)]
    rows = accepted_cases(client.app.state.service, groups * 30)
    restarted = auditing(serving, audit_share=0.4).app.state.service
    for number in range(240, 480):
        rows += accepted_cases(restarted, [groups[number % 8]], start=number)
    secret, kinds = "5" * 64, set()
    for number, row in enumerate(rows):
        draw = number // 8 // 20
        text = f"group {row.group}" if draw == 0 else f"draw {draw} of group {row.group}"
        drawn = uniform(secret, text) < 0.4
        assert (row.blind, row.audited) == (drawn, drawn and draw == 0), number
        kinds.add((draw, drawn))
    assert len(kinds) == 6
    listed = case(900, **ACCEPTED, group="g0", place=1)  # of a list: not drawn, and not counted
    restarted.store.add([listed], restarted.audit_draw.draw)
    restarted.store.add([case(899, **ACCEPTED, group="g0", shadow=True)])
    assert accepted_cases(restarted, ["g0"], start=901)[0].repeat == 60
    late = [case(number, **ACCEPTED, group="late") for number in (953, 951, 952)]  # as committed
    stored = [restarted.store.add([row], restarted.audit_draw.draw)[0] for row in late]
    assert [row.repeat for row in stored] == [0, 1, 2]
    copies = [case(910 + number, **ACCEPTED, pixels="c" * 64) for number in range(30)]
    drawn = restarted.store.add(copies, restarted.audit_draw.draw)
    assert {row.blind for row in drawn} == {uniform(secret, f"image {'c' * 64}") < 0.4}


def test_further_cases_of_a_device_are_read_and_listed_and_count_by_themselves(serving):
    client = auditing(serving, audit_days=3650.0)
    rows = accepted_cases(client.app.state.service, ["scanner"] * 41 + [None, "patient"])
    copy = case(50, **ACCEPTED, pixels=rows[41].pixels)
    rows += client.app.state.service.store.add([copy], client.app.state.service.audit_draw.draw)
    for number in (0, 20, 40, 41, 42, 43):
        for reader in ("Ann", "Ben"):
            verdict = "none" if number in (20, 40) else "agree"
            said = review("", verdict=verdict, reviewer=reader)
            client.app.state.service.store.review(rows[number].id, said)
    audit = client.get("/audit").json()
    assert (audit["audited"], audit["wrong"], audit["alarm"]) == (3, 0, False)
    assert (audit["repeated"], audit["repeated_wrong"]) == (3, 2)
    assert audit["large_groups"] == {"scanner": 41}
    said = " ".join(audit["summary"])
    assert "of one group, as of a device rather than a patient: scanner (41)." in said
    assert "3 answers to further cases of a group, or to copies, were read" in said
    wrong = client.get("/found-wrong?reader=Ann").json()["answers"]
    assert {row["id"] for row in wrong} == {rows[20].id, rows[40].id}
    assert [row["id"] for row in rows_of(client.get("/audit.csv"))] == [rows[0].id]
    metrics = client.get("/metrics").text
    assert 'misgiving_group_cases{group="scanner"} 41.0' in metrics
    assert 'misgiving_audit_answers{kind="repeated_wrong"} 2.0' in metrics


def test_the_bound_holds_with_devices_whose_further_cases_would_break_it(serving, monkeypatch):
    """Three draws of each group, whose answers are right or wrong together, at the target."""
    monkeypatch.setattr("misgiving.serve.case.CASES_PER_DRAW", 1)
    monkeypatch.setattr("misgiving.serve.monitor.CASES_PER_DRAW", 1)
    client, target = auditing(serving), TERMS["target"]
    service, groups = client.app.state.service, [f"device {n // 3}" for n in range(900)]
    rows = accepted_cases(service, groups)
    units = {row.id for row in service.store.audited([POLICY])}
    is_unit = np.array([row.id in units for row in rows])
    assert all(row.blind for row in rows)
    wrong = np.repeat(np.random.default_rng(0).random((1000, 300)) < target, 3, axis=1)
    broken = {}
    for name, part in {"units": wrong[:, is_unit], "all": wrong}.items():
        number = np.arange(1, part.shape[1] + 1)
        bound = bound_evidence(part.cumsum(axis=1), number, np.full(len(number), target))
        alarm = alarm_evidence(part, target) >= np.log(100)
        broken[name] = (bound.max(axis=1) >= np.log(20)).mean(), alarm.any(axis=1).mean()
    assert broken["units"][0] <= 0.05
    assert broken["units"][1] <= 0.01
    assert min(broken["all"]) > 0.15


@pytest.mark.parametrize(
    ("counts", "changed", "says"),
    [
        ((100, 0), {}, "of the accepted answers are wrong: within the target, 10 %."),
        ((40, 1), {}, "of the accepted answers are wrong: not yet shown to be within the target"),
        ((40, 40), {}, "at most 100 % of the accepted answers are wrong: more than the target"),
        ((100, 0), {"among": "all"}, "Audited 100 cases since 1 January: 0 wrong, 0 unconfirmed"),
        ((1, 0), {}, "Audited 1 accepted answer since 1 January"),
    ],
)
def test_the_sentences_of_an_audit_follow_from_its_numbers(sqlite_place, counts, changed, says):
    store, (count, wrong) = Store.open(sqlite_place), counts
    row = store.audit(POLICY, 1.0, **TERMS | changed)
    fixed = {"audited": True, "blind": True, "position": 0.3} | ACCEPTED
    rows = [case(number, **fixed) for number in range(count)]
    store.add(rows)
    for number, each in enumerate(rows):
        for name in ("Ann", "Ben"):
            verdict = "none" if number < wrong else "agree"
            store.review(each.id, review("", verdict=verdict, reviewer=name))
    row = SimpleNamespace(**row._asdict() | {"since": "2026-01-01T00:00:00.000000Z"})
    first, *others = count_audits(store, row, ServiceSettings()).summary
    store.close()
    assert says in first
    assert (
        others[0]
        == "With 95 % confidence at any time. What is unconfirmed or overdue counts as wrong."
    )
    assert others[-1].endswith("policy: at most 1 %, with those of the drift tests 2 %.")


def test_deferred_cases_are_blind_at_least_as_often_as_accepted_ones(serving):
    audits = auditing(serving, audit_share=0.05).app.state.service.audit_draw
    for accepted_of_ten in (5, 8):
        drawn = []
        for number in range(6000):
            is_accepted = number % 10 < accepted_of_ten
            error = number * 37 % 1000 / (9999 if is_accepted else 999)
            decision = "accept" if is_accepted else "defer"
            drawn.append(audits.draw(case(number, decision=decision, error_probability=error)))
        accepted, deferred = (
            [row for row in drawn if row.decision == choice] for choice in ("accept", "defer")
        )
        assert 0.04 < sum(row.blind for row in accepted) / len(accepted) < 0.06
        assert all(row.blind == row.audited for row in accepted)
        assert sum(row.blind for row in deferred) > sum(row.blind for row in accepted)
        assert 0.04 < sum(row.audited for row in deferred) / len(deferred) < 0.06
        middle = sorted(row.position for row in deferred)[len(deferred) // 2]
        above = [row.position > middle for row in accepted if row.blind]
        assert 0.3 < sum(above) / len(above) < 0.7  # among the deferred, not at an end


def test_after_an_alarm_every_image_is_deferred_also_after_a_restart(serving, sqlite_place):
    client = auditing(serving, audit_days=3650.0)
    first = sent(client, picture(0.02), "a.png")
    assert first["decision"] == "accept"
    store = Store.open(sqlite_place)
    store.review(
        first["id"], review("", verdict="agree", reviewer="Ann")
    )  # audits are in its order
    for number in range(39):
        row = case(number, audited=True, blind=True, position=0.3, **ACCEPTED)
        store.add([row])
        verdict = "agree" if number % 2 else "none"
        for name in ("Ann", "Ben"):
            store.review(row.id, review("", verdict=verdict, reviewer=name))
    store.close()
    audit = client.get("/audit").json()
    assert (audit["audited"], audit["wrong"], audit["alarm"]) == (40, 20, True)
    assert audit["with_drift"] == pytest.approx(0.02)
    assert "misgiving_audit_alarm 1.0" in client.get("/metrics").text
    for service in (client, auditing(serving, audit_share=None)):
        for level in (0.02, 0.03):  # the first was accepted before
            told = sent(service, picture(level))
            assert (told["decision"], "audits" in told["reason"]) == ("defer", True)
    warning = auditing(serving, after_alarm="warn")
    assert sent(warning, picture(0.01))["decision"] == "accept"


def test_a_target_for_all_images_counts_every_member_of_the_sample(serving):
    policy = made_policy(Targets(max_silent_error=0.1))
    client = serving(Calibrated(policy), audit_share=1.0)
    accepted, deferred = (sent(client, picture(level)) for level in (0.02, 0.45))
    assert (accepted["decision"], deferred["decision"]) == ("accept", "defer")
    for reader in ("Ann", "Ben"):
        answers(client, accepted["id"], verdict="none", reviewer=reader)
    audit = client.get("/audit").json()
    assert (audit["among"], audit["target"]) == ("all", 0.1)
    assert (audit["audited"], audit["wrong"], audit["estimate"]) == (2, 1, 0.5)


def test_the_audit_sample_has_images_and_ends_before_the_first_open_case(
    serving, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    client = auditing(serving, keep_images=Path("kept"))
    levels = (0.02, 0.45, 0.03, 0.04)
    ids = [sent(client, picture(level), f"{level}.png")["id"] for level in levels]
    for id in (ids[0], ids[1], ids[3]):
        answers(client, id, **{"class": "dark"}, reviewer="Ann")
    rows = rows_of(client.get("/audit.csv"))
    assert [(row["name"], row["decision"], row["label"]) for row in rows] == [
        ("0.02.png", "accept", "dark"),
        ("0.45.png", "defer", "dark"),
    ]
    monkeypatch.chdir("/")  # of another user
    assert Path(rows[1]["path"]).read_bytes() == picture(0.45)
    assert serving().get("/audit.csv").status_code == 404


def test_unanswered_cases_count_against_the_bound_once_they_are_overdue(serving, sqlite_place):
    client = auditing(serving, audit_days=3650.0)
    store = Store.open(sqlite_place)
    same = {"audited": True, "blind": True, "position": 0.3} | ACCEPTED
    store.add(
        [case(0, **same), *(case(n, **same, group="patient") for n in (1, 2)), case(3, **same)]
    )
    for number in (1, 2, 3):
        store.review(case(number).id, review("", verdict="agree", reviewer="Ann"))
    audit = client.get("/audit").json()
    assert (audit["audited"], audit["later"], audit["overdue"]) == (0, 2, 0)  # one of each group
    late = auditing(serving, audit_days=1.0)
    audit = late.get("/audit").json()
    assert (audit["audited"], audit["later"], audit["overdue"], audit["wrong"]) == (2, 0, 1, 0)
    assert audit["upper"] > 0.7  # as if one of three were wrong
    store.close()
