"""Second readings: what being asked for one tells, and what becomes of its answers."""

import math
import random

import pytest
from standin import Calibrated, case, picture, review, rows_of, sent
from test_audits import TERMS, answers

from misgiving.serve.reviews import add_reviews
from misgiving.serve.store import Store

POLICY = Calibrated().policy.fingerprint
ERRORS = {
    ("accept", "NV"): 0.05,
    ("accept", "MEL"): 0.1,
    ("defer", "NV"): 0.3,
    ("defer", "MEL"): 0.4,
}
COUNT, BURN_IN = 2000, 400


def first_answers(store, count):
    """Blind cases that a first reader has answered: the case, and whether she disputes it."""
    drawn, rows, disputed = random.Random(0), [], {}
    store.audit(POLICY, 1.0, **TERMS)
    for number in range(count):
        decision, name = drawn.choices([*ERRORS], [4, 1, 3, 3])[0]
        values = {"decision": decision, "predicted_class": name, "policy_fingerprint": POLICY}
        rows.append(row := case(number, audited=True, blind=True, position=0.3, **values))
        disputed[row.id] = drawn.random() < ERRORS[decision, name]
    store.add(rows)
    with store.begin(writing=True) as connection:  # one, which is quicker
        for id, is_disputed in disputed.items():
            verdict = "none" if is_disputed else "agree"
            answer = review("", verdict=verdict, reviewer="Ann", blind=True)
            add_reviews(connection, id, [answer])
    cases = store.cases([*disputed], "Ben")
    return [(cases[id], is_disputed) for id, is_disputed in disputed.items()][BURN_IN:]


def is_within(successes, trials, share, *, errors=3.0):
    return abs(successes / trials - share) < errors * math.sqrt(share * (1 - share) / trials)


@pytest.mark.soak  # `test_blindness` guesses by more, and as long
def test_to_be_asked_for_a_second_reading_tells_nothing_of_a_dispute_decision_or_class(
    agreed_cases_are_read_twice, sqlite_place
):
    agreed_cases_are_read_twice()
    store = Store.open(sqlite_place)
    readings = first_answers(store, COUNT)
    store.close()
    asked = [(row, disputed) for row, disputed in readings if row.blind]
    assert all(row.blind for row, disputed in readings if disputed)
    disputes = sum(disputed for _, disputed in asked)
    assert disputes / len(asked) < 0.5 + 2 * math.sqrt(0.25 / len(asked))
    assert disputes / len(asked) > 0.3  # no more reading than that takes
    for told in (lambda row: row.decision == "accept", lambda row: row.predicted_class == "MEL"):
        base = sum(told(row) for row, _ in readings) / len(readings)
        assert is_within(sum(told(row) for row, _ in asked), len(asked), base)


def test_a_second_answer_that_contradicts_makes_an_agreed_case_disputed(
    serving, agreed_cases_are_read_twice
):
    agreed_cases_are_read_twice()
    client = serving(Calibrated(), audit_share=1.0)
    id = sent(client, picture(0.02))["id"]  # the first of all is always read twice
    told = answers(client, id, **{"class": "dark"}, reviewer="Ann")
    assert told["decision"] == "accept"
    assert client.get(f"/cases/{id}?reader=Ben").json()["blind"]
    audit = client.get("/audit").json()
    assert (audit["audited"], audit["wrong"], audit["third_readers"]) == (1, 0, 0)
    assert [row["standing"] for row in rows_of(client.get("/audit.csv"))] == ["right"]
    answers(client, id, **{"class": "light"}, reviewer="Ben")
    audit = client.get("/audit").json()
    assert (audit["unconfirmed"], audit["wrong"], audit["third_readers"]) == (1, 0, 1)
    assert client.get("/found-wrong?reader=Ben").json()["counts"]["open"] == 1
    assert rows_of(client.get("/audit.csv")) == []
    assert client.get(f"/cases/{id}?reader=Cem").json()["blind"]
    answers(client, id, **{"class": "light"}, reviewer="Cem")
    audit = client.get("/audit").json()
    assert (audit["unconfirmed"], audit["wrong"], audit["third_readers"]) == (0, 1, 0)


def test_what_a_reader_says_after_the_decision_appears_closes_no_second_reading(
    store, agreed_cases_are_read_twice, monkeypatch
):
    monkeypatch.setattr("secrets.token_hex", lambda count: 2 * count * "5")
    agreed_cases_are_read_twice()
    store.audit(POLICY, 1.0, **TERMS)
    values = {"audited": True, "blind": True, "position": 0.3, "policy_fingerprint": POLICY}
    rows = [case(number, **values) for number in range(300)]
    store.add(rows)
    store.review(rows[0].id, review("", reviewer="Ann"))
    with store.begin(writing=True) as connection:  # after which few are read twice
        for row in rows[1:]:
            add_reviews(connection, row.id, [review("", reviewer="Ann", blind=True)])
    store.review(rows[0].id, review("", reviewer="Ann"))
    assert store.cases([rows[0].id], "Ben")[rows[0].id].blind
    store.review(rows[0].id, review("", reviewer="Ben"))
    assert not store.cases([rows[0].id], "Cem")[rows[0].id].blind


def test_the_bound_says_how_much_of_it_is_unconfirmed(serving, sqlite_place):
    client, store = serving(Calibrated(), audit_share=1.0), Store.open(sqlite_place)
    values = {"decision": "accept", "policy_fingerprint": POLICY, "audited": True, "blind": True}
    store.add([case(number, position=0.3, **values) for number in range(60)])
    for number in range(60):
        verdict = "none" if number < 5 else "agree"
        store.review(case(number).id, review("", verdict=verdict, reviewer="Ann"))
    store.close()
    audit = client.get("/audit").json()
    assert (audit["audited"], audit["unconfirmed"], audit["wrong"]) == (60, 5, 0)
    assert audit["third_readers"] == 0  # they need a second one
    assert audit["upper_if_right"] == pytest.approx(0.069, abs=0.001)  # of 0 in 60
    assert audit["upper"] > 0.15
