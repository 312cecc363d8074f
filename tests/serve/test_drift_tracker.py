from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from calibrated import made_policy
from databases import emptied
from sqlalchemy import delete, insert
from waiting import until

from misgiving.calibration.apply import Calibrator, Isotonic, Scaling
from misgiving.decisions.expected_performance import expected_errors, trust
from misgiving.deferral.drift import DriftMonitor
from misgiving.serve.database import ARRIVALS, CASES
from misgiving.serve.drift_tracker import DriftTracker
from misgiving.serve.schemas import Case, zulu
from misgiving.serve.store import CaseQuery, Store

START = datetime(2030, 1, 1, tzinfo=UTC)


def a_case(number, *, score=0.8, likeness=-100.0, content=None, policy="p" * 64):
    received = START + timedelta(seconds=number)
    return Case(
        id=f"{int(received.timestamp() * 1e6):014x}{number:018x}",
        received=received,
        name="x.png",
        predicted_class="dark",
        probability=0.5,
        probabilities={"dark": 0.5, "light": 0.5},
        error_probability=0.5,
        expected_loss=None,
        predicted_loss=None,
        ood_p_value=None,
        decision="accept" if score is not None and score > 0.85 else "defer",
        reason="",
        acceptance_score=score,
        ood_score=likeness,
        sha256=content or f"{number:064x}",
        model_fingerprint="f" * 64,
        policy_fingerprint=policy,
        image_kept=False,
    )


def row_of(case):
    values = case.model_dump(exclude={"review", "reviews"})
    return values | {"received": zulu(case.received), "expected_error": case.expected_error}


@pytest.fixture
def store(sqlite_place):
    opened = Store.open(sqlite_place)
    yield opened
    opened.close()


@pytest.fixture
def watch(store):
    return DriftTracker(made_policy(), store, "p" * 64)


def drawn(count, seed=0):
    random = np.random.default_rng(seed)
    scores, likenesses = random.uniform(0.5, 1, count), -random.uniform(0, 255, count)
    return [
        a_case(number, score=float(score), likeness=float(likeness))
        for number, (score, likeness) in enumerate(zip(scores, likenesses, strict=True))
    ]


def monitored(cases):
    """The tests of a monitor that gets these cases in order."""
    monitor = DriftMonitor(made_policy())
    for case in cases:
        monitor.update(
            score=case.acceptance_score,
            ood_score=case.ood_score,
            accepted=case.decision == "accept",
            content=case.sha256,
        )
    return {test.name: test for test in monitor.tests}


def alarms(seen):
    return {test.name: test.since for test in seen.tests if test.since is not None}


def e_values(seen):
    return {test.name: test.e_value for test in seen.tests}


def test_the_tracker_agrees_with_a_monitor_of_the_cases_in_order_of_arrival(store, watch):
    cases = drawn(30)[::-1]
    store.add(cases)
    expected = monitored(cases)
    for seen in watch.update().tests:
        assert seen.model_dump() == expected[seen.name]._asdict()


def test_updates_continue_and_a_restart_gives_the_same_state(store, watch):
    cases = drawn(40)
    store.add(cases[:25])
    watch.update()
    store.add(cases[25:])
    seen = watch.update()
    assert seen.cases == 40
    assert e_values(seen) == e_values(DriftTracker(made_policy(), store, "p" * 64).update())


def test_a_restart_continues_from_the_stored_state(place, monkeypatch):
    monkeypatch.setattr("misgiving.serve.drift_tracker.MIN_SAVED_CASES", 24)
    cases = [*drawn(40), *(a_case(number, likeness=-400.0) for number in range(50, 90))]
    store = Store.open(place)
    store.add(cases[:60])
    before = DriftTracker(made_policy(), store, "p" * 64).update()
    assert alarms(before)
    with store._writing.begin() as connection:  # they are not read again
        connection.execute(delete(ARRIVALS).where(ARRIVALS.c.number <= 50))
    store.add([cases[3].model_copy(update={"id": "e" * 32, "model_fingerprint": "n" * 64})])
    watch = DriftTracker(made_policy(), store, "p" * 64)
    assert watch.update() == before
    store.add(cases[60:])
    seen = watch.update()
    assert seen.cases == 80
    for test in seen.tests:
        expected = monitored(cases)[test.name]._asdict()
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
    watch = DriftTracker(made_policy(), store, "p" * 64)
    watch.start(failures.append)
    until(lambda: failures)
    store.add(drawn(7))
    watch.notice()
    until(lambda: watch.latest.cases == 7)
    watch.close(60.0)
    assert store.load(f"drift {'p' * 64}") is not None
    assert [str(one) for one in failures] == ["once"]


def test_a_case_committed_after_a_newer_one_is_not_missed(store, watch):
    cases = drawn(10)
    store.add([*cases[:4], cases[9]])
    watch.update()
    store.add(cases[4:9])
    assert watch.update().cases == 10


def test_cases_of_a_machine_with_a_late_clock_are_tested_on_arrival(place):
    store = Store.open(place)
    watch = DriftTracker(made_policy(), store, "p" * 64)
    store.add([a_case(1000)])
    assert watch.update().cases == 1
    store.add([a_case(number, likeness=-1000.0) for number in range(100, 200)])  # 13 minutes
    seen = watch.update()
    assert (seen.cases, "familiarity" in alarms(seen)) == (101, True)
    again = DriftTracker(made_policy(), store, "p" * 64).update()
    assert (e_values(again), alarms(again)) == (e_values(seen), alarms(seen))
    store.close()


def test_cases_committed_after_one_with_a_higher_number_are_not_missed(database):
    store = Store.open(emptied(database))
    watch = DriftTracker(made_policy(), store, "p" * 64)
    with store._engine.begin() as connection:  # as an older version, which waits for no turn
        connection.execute(insert(CASES), [row_of(a_case(1))])
        connection.execute(insert(ARRIVALS), [{"case_id": a_case(1).id}])
        store.add([a_case(number) for number in range(2, 9)])
        assert watch.update().cases == 7
    assert watch.update().cases == 8
    store.close()


def test_an_image_counts_once_and_cases_of_other_policies_do_not(store, watch):
    again = [a_case(n, content="c" * 64) for n in range(5)]
    store.add([one.model_copy(update={"model_fingerprint": one.id}) for one in again])
    assert store.count(CaseQuery()) == 5
    store.add([a_case(9, policy="q" * 64)])
    assert watch.update().cases == 1
    store.add([a_case(10, content="c" * 63 + "d")])
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


def test_the_time_of_the_alarm_is_reported(store, watch):
    cases = [a_case(number, likeness=-400.0) for number in range(60)]
    store.add(cases)
    seen = watch.update()
    number = monitored(cases)["familiarity"].since
    assert alarms(seen)["familiarity"] == cases[number - 1].received


def test_many_cases_are_processed_in_portions(store, watch, monkeypatch):
    monkeypatch.setattr("misgiving.serve.drift_tracker.MAX_CASES", 20)
    store.add(drawn(50))
    looks = [watch.update() for _ in range(3)]
    assert [(seen.cases, seen.complete) for seen in looks] == [(20, False), (40, False), (50, True)]


def test_right_answers_are_expected_of_the_latest_cases(store):
    policy = made_policy()
    calibrator = Calibrator(
        scaling=Scaling(temperature=1.0, biases=(0.0, 0.0)),
        weights=None,
        score="msp",
        combination=None,
        error_estimator=None,
        error=Isotonic(knots=(0.5, 1.0), values=(0.5, 0.0)),
        loss=None,
        tried={},
        samples=400,
    )
    watch = DriftTracker(policy, store, "p" * 64, calibrator)
    assert watch.update().expected == ""
    cases = drawn(40)
    listed = a_case(51, score=0.5).model_copy(update={"place": 1})
    store.add([*cases, a_case(50, score=None), listed])
    errors = np.array([1 - case.acceptance_score for case in cases])
    accepted = np.array([case.decision == "accept" for case in cases])
    found = expected_errors(policy, calibrator, errors, accepted)
    assert found.everything.images == 40
    assert watch.update().expected == " ".join([*found.sentences, trust("group")])
    patients = DriftTracker(replace(policy, unit="patient"), store, "p" * 64, calibrator)
    assert "calibration cases, one of each patient, from" in patients.update().expected
    assert DriftTracker(policy, store, "p" * 64).update().expected == ""
