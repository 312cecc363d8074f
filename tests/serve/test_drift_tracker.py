import numpy as np
import pytest
from calibrated import made_policy
from sqlalchemy import delete
from store_cases import case
from waiting import until

from misgiving.deferral.drift import DriftMonitor
from misgiving.deferral.expected_performance import expected_errors
from misgiving.report.drift import drift_sentence, expected_sentences
from misgiving.serve.database import ARRIVALS
from misgiving.serve.drift_tracker import DriftTracker
from misgiving.serve.store import CaseQuery, Store

FINGERPRINT = made_policy().fingerprint


def a_case(number, *, score=0.8, likeness=-100.0, **values):
    accepted = score is not None and score > 0.85
    values = {"policy_fingerprint": FINGERPRINT, "model_fingerprint": "f" * 64} | values
    return case(
        number,
        decision="accept" if accepted else "defer",
        acceptance_score=score,
        ood_score=likeness,
        **values,
    )


@pytest.fixture
def store(sqlite_place):
    opened = Store.open(sqlite_place)
    yield opened
    opened.close()


@pytest.fixture
def watch(store):
    return DriftTracker(made_policy(), store)


def drawn(count, seed=0):
    random = np.random.default_rng(seed)
    scores, likenesses = random.uniform(0.5, 1, count), -random.uniform(0, 255, count)
    return [
        a_case(number, score=float(score), likeness=float(likeness))
        for number, (score, likeness) in enumerate(zip(scores, likenesses, strict=True))
    ]


def monitored(cases):
    """The tests of a monitor that gets these cases in order."""
    monitor = DriftMonitor(made_policy().certificate_)
    for row in cases:
        monitor.update(
            score=row.acceptance_score,
            ood_score=row.ood_score,
            accepted=row.decision == "accept",
            content=row.sha256,
        )
    return {test.name: test for test in monitor.tests}


def described(test):
    """A test with its sentences, as the service answers."""
    latest, at_alarm = (
        drift_sentence(test, recent, knows_training=True)
        for recent in (test.recent, test.alarmed_with)
    )
    numbers = {name: getattr(test, name) for name in ("name", "e_value", "highest", "alarm_at")}
    alarmed_with = None if test.alarmed_with is None else at_alarm
    return numbers | {"since": test.since, "sentence": latest, "alarmed_with": alarmed_with}


def alarms(seen):
    return {test.name: test.since for test in seen.tests if test.since is not None}


def e_values(seen):
    return {test.name: test.e_value for test in seen.tests}


def test_the_tracker_agrees_with_a_monitor_of_the_cases_in_order_of_arrival(store, watch):
    cases = drawn(40)[::-1]
    store.add(cases[:25])
    watch.update()
    store.add(cases[25:])
    expected, restarted = monitored(cases), DriftTracker(made_policy(), store)
    for drift in (watch.update(), restarted.update()):
        assert drift.cases == 40
        for test in drift.tests:
            described_test = described(expected[test.name])
            assert test.model_dump() == described_test


def test_a_restart_continues_from_the_stored_state(place, monkeypatch):
    monkeypatch.setattr("misgiving.serve.drift_tracker.MIN_SAVED_CASES", 24)
    cases = [*drawn(40), *(a_case(number, likeness=-400.0) for number in range(50, 90))]
    store = Store.open(place)
    store.add(cases[:60])
    before = DriftTracker(made_policy(), store).update()
    assert alarms(before)
    with store._writing.begin() as connection:  # they are not read again
        connection.execute(delete(ARRIVALS).where(ARRIVALS.c.number <= 50))
    store.add([cases[3].model_copy(update={"id": "e" * 32, "model_fingerprint": "n" * 64})])
    watch = DriftTracker(made_policy(), store)
    assert watch.update() == before
    store.add(cases[60:])
    seen = watch.update()
    assert seen.cases == 80
    for test in seen.tests:
        expected = described(monitored(cases)[test.name])
        assert test.model_dump(exclude={"since"}) == {
            k: expected[k] for k in expected if k != "since"
        }
    store.close()


def test_the_thread_ends_with_the_state_saved_and_outlives_a_failure(store, monkeypatch):
    monkeypatch.setattr("misgiving.serve.drift_tracker.PAUSE_SECONDS", 0.01)
    failures, opened = [], store.decided

    def fail_once(*_, **__):
        monkeypatch.setattr(store, "decided", opened)
        raise OSError("once")

    monkeypatch.setattr(store, "decided", fail_once)
    watch = DriftTracker(made_policy(), store)
    watch.start(failures.append)
    until(lambda: failures)
    store.add(drawn(7))
    watch.notice()
    until(lambda: watch.latest.cases == 7)
    watch.close(60.0)
    assert store.load(f"drift {FINGERPRINT}") is not None
    assert [str(failure) for failure in failures] == ["once"]


def test_a_case_committed_after_a_newer_one_is_not_missed(store, watch):
    cases = drawn(10)
    store.add([*cases[:4], cases[9]])
    watch.update()
    store.add(cases[4:9])
    assert watch.update().cases == 10


def test_cases_of_a_machine_with_a_late_clock_are_tested_on_arrival(place):
    store = Store.open(place)
    watch = DriftTracker(made_policy(), store)
    store.add([a_case(1000)])
    assert watch.update().cases == 1
    late = [a_case(number, likeness=-1000.0) for number in range(100, 200)]  # 13 minutes
    store.add(late)
    seen = watch.update()
    number = monitored([a_case(1000), *late])["familiarity"].since
    assert (seen.cases, alarms(seen)["familiarity"]) == (101, late[number - 2].received)
    again = DriftTracker(made_policy(), store).update()
    assert (e_values(again), alarms(again)) == (e_values(seen), alarms(seen))
    store.close()


def test_an_image_counts_once_and_cases_of_other_policies_do_not(store, watch):
    repeated = [a_case(n, sha256="c" * 64) for n in range(5)]
    store.add([row.model_copy(update={"model_fingerprint": row.id}) for row in repeated])
    assert store.count(CaseQuery()) == 5
    store.add([a_case(9, policy_fingerprint="q" * 64)])
    assert watch.update().cases == 1
    store.add([a_case(10, sha256="c" * 63 + "d")])
    assert watch.update().cases == 2


def test_images_of_a_list_are_a_selection_and_take_no_part(store, watch, monkeypatch):
    monkeypatch.setattr("misgiving.serve.store.PAGE_SIZE", 3)
    cases, listed = drawn(30), {"place": 1, "remark": "suspect"}
    selection = [a_case(n, score=0.5, likeness=-400.0) for n in range(100, 160)]
    chosen = [case.model_copy(update=listed) for case in selection]
    store.add([*chosen[:25], *cases[:15], *chosen[25:], *cases[15:]])
    seen = watch.update()
    assert (seen.cases, seen.alarm) == (30, False)
    assert e_values(seen) == {name: test.e_value for name, test in monitored(cases).items()}
    store.add([selection[0].model_copy(update={"id": "f" * 32})])  # sent by a client as well
    assert watch.update().cases == 31


def test_a_score_that_is_not_finite_counts_as_the_lowest(store, watch):
    store.add([a_case(n, score=None, likeness=None) for n in range(40)])
    seen = watch.update()
    words = " ".join(test.sentence for test in seen.tests)
    assert "less sure" in words
    assert "less like the training images" in words


def test_many_cases_are_processed_in_portions(store, watch, monkeypatch):
    monkeypatch.setattr("misgiving.serve.drift_tracker.MAX_CASES", 20)
    store.add(drawn(50))
    looks = [watch.update() for _ in range(3)]
    assert [(seen.cases, seen.complete) for seen in looks] == [(20, False), (40, False), (50, True)]


def test_right_answers_are_expected_of_the_latest_cases(store):
    policy = made_policy(unit="image")
    watch = DriftTracker(policy, store)
    assert watch.update().expected == ""
    cases = drawn(40)
    listed = a_case(51, score=0.5).model_copy(update={"place": 1})
    store.add([*cases, a_case(50, score=None), listed])
    errors = np.array([1 - case.acceptance_score for case in cases])
    accepted = np.array([case.decision == "accept" for case in cases])
    found = expected_errors(policy, errors, accepted)
    assert found.everything.images == 40
    assert watch.update().expected == " ".join(expected_sentences(found, "image", drifted=False))
    patients = DriftTracker(made_policy(unit="patient"), store)
    assert "calibration cases, one of each patient, from" in patients.update().expected
