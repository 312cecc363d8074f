"""The drift of stored cases is that of a monitor that gets them in the order of their arrival."""

import math

import numpy as np
from standin import case, made_policy, review
from waiting import until

from misgiving.deferral.drift import DriftMonitor
from misgiving.deferral.expected_performance import expected_errors
from misgiving.report.rendering import lines
from misgiving.serve.monitor import DEFERRED_BY_ALARM, Monitor
from misgiving.serve.settings import ServiceSettings

POLICY = made_policy().policy_


def a_case(number, *, score=0.8, likeness=-100.0, **values):
    accepted = score is not None and score > 0.85
    fixed = {
        "policy_fingerprint": POLICY.fingerprint,
        "decision": "accept" if accepted else "defer",
    }
    numbers = {
        "acceptance_score": score,
        "error_probability": None if score is None else 1 - score,
        "ood_score": likeness,
    }
    return case(number, **fixed | numbers | values)


def drawn(count):
    random = np.random.default_rng(0)
    pairs = random.uniform((0.5, -255), (1, 0), (count, 2)).tolist()
    return [a_case(n, score=score, likeness=likeness) for n, (score, likeness) in enumerate(pairs)]


def described(cases):
    """The tests of a monitor that gets these cases in order, as the service answers."""
    monitor = DriftMonitor(POLICY.certificate)
    for row in cases:
        monitor.update(
            score=math.nan if row.acceptance_score is None else row.acceptance_score,
            ood_score=math.nan if row.ood_score is None else row.ood_score,
            accepted=row.decision == "accept",
            content=row.sha256,
        )
    return [
        {
            **{name: getattr(test, name) for name in ("name", "e_value", "highest", "alarm_at")},
            "since": None if test.since is None else cases[test.since - 1].received,
            "sentence": lines("drift.txt", "drift", test, test.latest, True)[0],
            "alarmed_with": test.alarmed_with
            and lines("drift.txt", "drift", test, test.alarmed_with, True)[0],
        }
        for test in monitor.tests
    ]


def test_what_the_audits_deferred_is_not_tested(store):
    deferred = [
        a_case(n, score=0.9, decision="defer", reason=DEFERRED_BY_ALARM) for n in range(40, 80)
    ]
    store.add([*drawn(40), *deferred])
    drift = Monitor(store, POLICY, ServiceSettings()).update_drift()
    assert (drift.cases, drift.alarm) == (40, False)


def test_drift_agrees_with_tests_of_the_cases_in_order_of_arrival(store, monkeypatch):
    """Also where the clock of a machine is late, after a restart, and in portions."""
    monkeypatch.setattr("misgiving.serve.monitor.MAX_CASES", 50)
    unusual = (a_case(number, likeness=-1000.0) for number in range(50, 120))
    mute = (a_case(number, score=None, likeness=None) for number in range(120, 150))
    cases = [*drawn(40)[::-1], *unusual, *mute]
    watch = Monitor(store, POLICY, ServiceSettings())
    store.add(cases[:25])
    assert watch.update_drift().complete
    store.add(cases[25:])
    for monitor, portions in (
        (watch, [75, 125, 140]),
        (Monitor(store, POLICY, ServiceSettings()), [50, 100, 140]),
    ):
        looks = [monitor.update_drift() for _ in portions]
        assert [look.cases for look in looks] == portions
        assert [look.complete for look in looks] == [False, False, True]
        assert looks[-1].alarm
        assert [dict(test) for test in looks[-1].tests] == described(cases)


def test_the_thread_outlives_a_failure(store, monkeypatch):
    monkeypatch.setattr("misgiving.serve.monitor.PAUSE_SECONDS", 0.01)
    failures, opened = [], store.decided

    def fail_once(*_, **__):
        monkeypatch.setattr(store, "decided", opened)
        raise OSError("once")

    monkeypatch.setattr(store, "decided", fail_once)
    watch = Monitor(store, POLICY, ServiceSettings())
    watch.start(failures.append)
    until(lambda: failures)
    store.add(drawn(7))
    watch.notice()
    until(lambda: watch.drift.cases == 7)
    watch.close(60.0)
    assert [str(failure) for failure in failures] == ["once"]


def test_an_alarm_of_the_audits_is_noticed_without_a_request(store, monkeypatch):
    """Readers may have answered at another service."""
    for name in ("PAUSE_SECONDS", "IDLE_SECONDS"):
        monkeypatch.setattr(f"misgiving.serve.monitor.{name}", 0.01)
    settings, failures = ServiceSettings(after_alarm="defer", audit_days=3650.0), []
    monitor = Monitor(store, POLICY, settings, store.audit(POLICY.fingerprint, 1.0))
    monitor.start(failures.append)
    assert monitor.changed_by_alarm() == {}
    for number in range(20):
        wrong = a_case(number, score=0.9, audited=True, blind=True, position=0.3)
        store.add([wrong])
        for name in ("Ann", "Ben"):
            store.review(wrong.id, review("", verdict="none", reviewer=name))
    until(lambda: monitor.audit_alarm)
    monitor.close(60.0)
    assert (failures, monitor.changed_by_alarm()["decision"]) == ([], "defer")


def test_each_image_of_this_policy_counts_once_and_those_of_a_list_do_not(store):
    cases, listed = drawn(30), {"place": 1, "remark": "suspect"}
    selection = [a_case(n, score=0.5, likeness=-400.0) for n in range(100, 160)]
    chosen = [case.model_copy(update=listed) for case in selection]
    store.add([*chosen[:25], *cases[:15], *chosen[25:], *cases[15:]])
    store.add([a_case(99, policy_fingerprint="q" * 64)])
    again = [cases[0].model_copy(update={"id": f"{n:032x}"}) for n in range(90, 95)]
    store.add([row.model_copy(update={"model_fingerprint": row.id}) for row in again])
    image_policy = made_policy(unit="image").policy_
    watch = Monitor(store, image_policy, ServiceSettings())
    seen = watch.update_drift()
    assert (seen.cases, seen.alarm) == (30, False)
    assert [dict(test) for test in seen.tests] == described(cases)
    errors = np.array([1 - case.acceptance_score for case in cases])
    accepted = np.array([case.decision == "accept" for case in cases])
    expected = expected_errors(image_policy, errors, accepted)
    assert seen.expected == " ".join(lines("drift.txt", "expected", expected, "image", False))
    store.add([selection[0].model_copy(update={"id": "f" * 32})])  # sent by a client as well
    store.add([a_case(50, score=None)])  # of which no error is expected
    assert watch.update_drift().cases == 32
