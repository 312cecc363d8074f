"""After an alarm of the audits: what the sender, the log and the metrics say, and how it ends."""

import pytest
from browsing import needs_chromium
from standin import START, Calibrated, Standin, case, picture, review, sent
from triage import barriers, expect, no_pictures, stored_wrong
from waiting import until

from misgiving.errors import UsageError
from misgiving.serve.audits import resume

POLICY = Calibrated().policy.fingerprint


def read_wrong(store, numbers, **values):
    """Accepted cases that two readers find wrong."""
    for number in numbers:
        fixed = {"decision": "accept", "policy_fingerprint": POLICY, "position": 0.3}
        store.add([row := case(number, audited=True, blind=True, **fixed | values)])
        for name in ("Ann", "Ben"):
            answer = review("", verdict="none", reviewer=name, reviewed_at=START)
            store.review(row.id, answer)


@pytest.fixture
def place(sqlite_place):
    """Of the store of `serving`."""
    return sqlite_place


def posted(client, level):
    return client.post("/decisions", files={"files": ("a.png", picture(level))}).json()


def test_the_sender_is_told_of_an_alarm_until_it_is_lifted(serving, store):
    client = serving(Calibrated(), audit_share=1.0, audit_days=3650.0)
    first = posted(client, 0.02)
    assert first["alarm"] is False
    # audits count in the order of arrival
    store.review(first["results"][0]["case"]["id"], review("", verdict="agree", reviewer="Ann"))
    read_wrong(store, range(40))
    assert client.get("/audit").json()["alarm"]
    answer = posted(client, 0.03)
    assert (answer["alarm"], answer["results"][0]["case"]["decision"]) == (True, "defer")
    with pytest.raises(UsageError):
        resume(store, " ")
    (lifted,) = resume(store, "a filter was missing")
    assert (lifted.policy_fingerprint, lifted.wrong) == (POLICY, 40)
    audit = client.get("/audit").json()
    assert (audit["alarm"], audit["reason"]) == (False, "a filter was missing")
    assert (audit["audited"], audit["wrong"]) == (41, 40)  # the bound forgets nothing
    answer = posted(client, 0.04)
    assert (answer["alarm"], answer["results"][0]["case"]["decision"]) == (False, "accept")
    with pytest.raises(UsageError, match="nothing to lift"):
        resume(store, "again")


def test_cases_since_an_alarm_was_lifted_can_raise_another_one(serving, store):
    client = serving(Calibrated(), audit_share=1.0, audit_days=3650.0)
    read_wrong(store, range(40))
    resume(store, "a filter was missing")
    read_wrong(store, range(40, 50))  # received before
    assert not client.get("/audit").json()["alarm"]
    later = store.audits()[POLICY].since[:4]
    received = START.replace(year=int(later) + 9)
    read_wrong(store, range(50, 90), received=received)
    assert client.get("/audit").json()["alarm"]


def test_the_service_lifts_an_alarm_without_a_restart_and_logs_both(
    serving, store, logged, monkeypatch
):
    monkeypatch.setattr("misgiving.serve.monitor.AUDIT_SECONDS", 1e12)
    client = serving(Calibrated(), audit_share=1.0, audit_days=3650.0)
    read_wrong(store, range(40))
    monitor = client.app.state.service.monitor
    until(lambda: monitor.has_new.set() or posted(client, 0.02)["alarm"])
    resume(store, "a filter was missing")
    until(lambda: monitor.has_new.set() or not posted(client, 0.02)["alarm"])
    raised, lifted = (
        next(line for line in logged() if line["event"] == event)
        for event in ("audit alarm", "audit alarm lifted")
    )
    assert (raised["wrong"], raised["upper"], raised["level"]) == (40, 1.0, "warning")
    steps = " ".join(raised["next_steps"])
    for command in ("found-wrong", "calibrate RUN --from-cases", "misgiving audits resume STORE"):
        assert command in steps
    assert lifted["reason"] == "a filter was missing"


def test_the_metrics_have_the_bound_and_what_is_unconfirmed_and_overdue(serving, store):
    client = serving(Calibrated(), audit_share=1.0, audit_days=1.0)
    read_wrong(store, range(3))
    open_case = {"audited": True, "blind": True, "position": 0.3, "decision": "accept"}
    store.add([case(7, policy_fingerprint=POLICY, **open_case)])
    metrics = client.get("/metrics").text
    upper = client.get("/audit").json()["upper"]
    assert f"misgiving_audit_upper {upper}" in metrics
    for kind, count in {"audited": 3, "wrong": 3, "unconfirmed": 0, "overdue": 1}.items():
        assert f'misgiving_audit_answers{{kind="{kind}"}} {count}.0' in metrics


def test_without_audits_the_default_after_an_alarm_means_nothing(serving):
    for model in (Calibrated(), Standin()):
        assert sent(serving(model), picture(0.02))["decision"] == "accept"


def test_the_command_lifts_an_alarm_and_needs_a_reason(succeed, fail, store, sqlite_place):
    resuming = ("audits", "resume", sqlite_place)
    store.audit(POLICY, 1.0, target=0.1, among="accepted")
    assert "nothing to lift" in fail(2, *resuming, "--reason", "filter")
    read_wrong(store, range(40))
    assert "--reason" in fail(2, *resuming)
    assert "--reason is empty" in fail(2, *resuming, "--reason", " ")
    assert "40 of 40 audited answers" in succeed(*resuming, "--reason", "filter").err
    assert "no such store" in fail(1, "audits", "resume", "absent.sqlite", "--reason", "x")


@needs_chromium
@pytest.mark.parametrize(
    "page_service", [{"audit_share": 1.0, "audit_days": 3650.0}], indirect=True
)
def test_the_page_names_the_next_steps(page_service, opened):
    stored_wrong(page_service, 40)
    page = opened(prepare=no_pictures)
    expect(page.locator("#audit-alarm-says")).to_contain_text("Every image is deferred now")
    expect(page.locator("#audit-alarm-steps li")).to_have_count(3)
    expect(page.locator("#audit-alarm-steps")).to_contain_text("misgiving audits resume STORE")
    assert barriers(page) == []
