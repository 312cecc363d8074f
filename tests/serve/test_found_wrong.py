"""Accepted answers that a reader found wrong, and blind answers that are corrected in time."""

from datetime import UTC, datetime, timedelta

import pytest
from standin import START, Calibrated, Standin, case, picture, review, rows_of, sent
from waiting import until

from misgiving.serve.found_wrong import FoundWrongRecord, judge
from misgiving.serve.store import Store

POLICY = Calibrated().policy.fingerprint
ACCEPTED = {"decision": "accept", "error_probability": 0.02, "policy_fingerprint": POLICY}
AN_HOUR = 3600.0
OF_CLASS = {"MEL": "light", "NV": "dark", None: None}  # the stand-in answers dark


@pytest.fixture(autouse=True)
def _same_draws(monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda count: 2 * count * "5")


def answer(client, id, reader, name):
    body = {"reviewer": reader, "verdict": "none" if name is None else "override"}
    if name is not None:
        body["class"] = OF_CLASS[name]
    response = client.post(f"/cases/{id}/review", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def tell(client, id, state="open", **values):
    body = {"told_by": "Olga", "note": "by telephone", "state": state} | values
    return client.post(f"/cases/{id}/told?reader=Ann", json=body)


NEXT = "opens the next case"
TOLD = "is told"
# The model accepted NV. By: (state, read as, contradicted by), (standing, label) of the CSV, and
# (audited, wrong, unconfirmed) of the audit.
STORIES = {
    "a slip NV that is corrected in time is an objection": (
        [("Ann", "NV"), ("Ann", "MEL"), ("Ann", NEXT)],
        (("open", ["light"], []), ("unconfirmed", ""), (1, 0, 1)),
    ),
    "a slip MEL that is corrected in time is withdrawn": (
        [("Ann", "MEL"), ("Ann", "NV"), ("Ann", NEXT)],
        (("withdrawn", ["light"], []), ("right", "dark"), (1, 0, 0)),
    ),
    "what is entered after the model's answer is listed, and no audit": (
        [("Ann", "NV"), ("Ann", NEXT), ("Ann", "MEL")],
        (("open", ["light"], []), ("right", "dark"), (1, 0, 0)),
    ),
    "a second reader contradicts": (
        [("Ann", "MEL"), ("Ann", NEXT), ("Ben", "NV"), ("Ben", NEXT)],
        (("contradicted", ["light"], ["Ben"]), ("unconfirmed", ""), (1, 0, 1)),
    ),
    "a second reader confirms": (
        [("Ann", "MEL"), ("Ann", NEXT), ("Ben", None), ("Ben", NEXT)],
        (("open", ["light", None], []), ("wrong", ""), (1, 1, 0)),
    ),
    "an operator tells whoever acted": (
        [("Ann", "MEL"), ("Ann", NEXT), ("Olga", TOLD), ("Ben", "MEL"), ("Ben", NEXT)],
        (("told", ["light", "light"], []), ("wrong", "light"), (1, 1, 0)),
    ),
    "an override outside the audit": (
        [("outside", None), ("Ann", "MEL")],
        (("open", ["light"], []), ("", "light"), (0, 0, 0)),
    ),
}


@pytest.mark.parametrize("story", STORIES)
def test_the_list_the_csv_and_the_audit_say_what_the_readers_did(
    serving, sqlite_place, answers_count_in, story
):
    answers_count_in(AN_HOUR)
    events, (listed, in_csv, counts) = STORIES[story]
    client = serving(Calibrated(), audit_share=1.0)
    id, other = (sent(client, picture(level), f"{level}.png")["id"] for level in (0.02, 0.03))
    for reader, what in events:
        if reader == "outside":
            id = case(1).id
            numbers = {"predicted_class": "dark", "probabilities": {"dark": 0.98, "light": 0.02}}
            store = Store.open(sqlite_place)
            store.add([case(1, name="0.02.png", **ACCEPTED | numbers)])
            store.close()
        elif what == NEXT:
            assert client.get(f"/cases/{other}?reader={reader}").status_code == 200
        elif what == TOLD:
            assert tell(client, id).status_code == 200
        else:
            answer(client, id, reader, what)
    (found,) = client.get("/found-wrong?reader=Ann").json()["answers"]
    assert found["id"] == id
    assert (found["state"], found["read_as"], found["contradicted_by"]) == listed
    row = next(each for each in rows_of(client.get("/cases.csv?reader=Ann")) if each["id"] == id)
    assert (row["standing"], row["label"]) == in_csv
    audit = client.get("/audit").json()
    assert tuple(audit[name] for name in ("audited", "wrong", "unconfirmed")) == counts
    (row,) = rows_of(client.get("/found-wrong.csv?reader=Ann"))
    assert (row["state"], row["contradicted_by"]) == (listed[0], "; ".join(listed[2]))


def words(*given):
    """Reviews as (reader, verdict, seconds from the start, blind)."""
    return [
        review("", reviewer=name, verdict=verdict, blind=blind, final_class=None)
        .model_copy(update={"reviewed_at": START + timedelta(seconds=seconds)})
        for name, verdict, seconds, blind in given
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([("Ann", "agree", 0, True)], None),
        ([("Ann", "override", 0, False), ("ann ", "agree", 30, False)], "withdrawn"),
        ([("Ann", "override", 0, False), ("Ann", "agree", 31, False)], "contradicted"),
        ([("Ann", "override", 0, True), ("Ann", "agree", 5, False)], "contradicted"),
        ([("Ann", "agree", 0, True), ("Ben", "none", 90, False)], "open"),
        ([("Ann", "none", 0, True), ("Ben", "none", 9, True), ("Cem", "agree", 99, True)], "open"),
        ([("Ann", "none", 0, True), ("Ann", "unsure", 99, False)], "open"),
        ([("Ann", "none", 0, False), ("Ann", "withdraw", 30, False)], "withdrawn"),
        ([("Ann", "none", 0, False), ("Ann", "withdraw", 31, False)], "open"),
    ],
)
def test_only_a_word_that_its_reader_corrects_at_once_is_a_slip(given, expected):
    judgement = judge(words(*given))
    assert (judgement and judgement.state) == expected


def test_an_answer_counts_and_opens_the_decision_only_when_it_can_no_longer_be_corrected(
    serving, answers_count_in
):
    answers_count_in(AN_HOUR)
    client = serving(Calibrated(), audit_share=1.0)
    id, other = (sent(client, picture(level))["id"] for level in (0.02, 0.03))
    told = answer(client, id, "Ann", "MEL")
    assert (told["blind"], told["answer"]["final_class"]) == (True, "light")
    assert "decision" not in told
    again = client.get(f"/cases/{id}?reader=ann").json()  # to look again opens no other case
    assert (again["blind"], again["answer"]["final_class"]) == (True, "light")
    assert client.get(f"/cases/{id}?reader=Ben").json()["answer"] is None
    client.get(f"/cases/{other}?reader=Ben")
    assert client.get("/audit").json()["unconfirmed"] == 0
    agreeing = answer(client, other, "Ann", "NV")["answer"]  # which the reader is not told
    assert (agreeing["final_class"], agreeing["verdict"]) == ("dark", told["answer"]["verdict"])
    opened = client.get(f"/cases/{id}?reader=Ann").json()
    assert (opened["decision"], opened["review"]["final_class"]) == ("accept", "light")
    assert client.get("/audit").json()["unconfirmed"] == 1


def test_an_answer_counts_after_its_time_without_any_request(serving, answers_count_in):
    answers_count_in(0.2)
    client = serving(Calibrated(), audit_share=1.0)
    id = sent(client, picture(0.02))["id"]
    answer(client, id, "Ann", "MEL")
    monitor = client.app.state.service.monitor
    until(lambda: monitor.has_new.set() or monitor.audit().unconfirmed == 1)


def test_the_time_of_a_second_reader_ends_when_the_first_settles_the_case(store, answers_count_in):
    answers_count_in(AN_HOUR)
    rows = [case(n, audited=True, blind=True, position=0.3, **ACCEPTED) for n in (1, 2)]
    store.add(rows)
    for name, verdict in (("Ann", "agree"), ("Ben", "none")):
        store.review(rows[0].id, review("", reviewer=name, verdict=verdict))
    store.settle_answers("Ann", opened=rows[1].id)
    given = [(each.reviewer, each.blind) for each in store.reviews(rows[0].id)]
    assert given == [("Ann", True), ("Ben", True)]
    assert store.cases([rows[0].id])[rows[0].id].blind  # they disagree: a third reader decides


def test_the_list_outlives_the_policy_and_a_restart_without_one(serving):
    client = serving(Calibrated(), audit_share=1.0)
    id = sent(client, picture(0.02))["id"]
    answer(client, id, "Ann", "MEL")
    answer(client, id, "Ben", "MEL")
    (found,) = serving(Standin()).get("/found-wrong").json()["answers"]
    assert (found["id"], found["policy_fingerprint"]) == (id, POLICY)


def test_what_was_told_is_kept_and_a_change_of_the_state_takes_another_note(serving, monkeypatch):
    client = serving(Calibrated(), audit_share=1.0)
    id = sent(client, picture(0.02))["id"]
    assert tell(client, id).status_code == 409  # still blind
    answer(client, id, "Ann", "MEL")
    (note,) = tell(client, id).json()["told"]
    assert (note["told_by"], note["note"]) == ("Olga", "by telephone")
    refused = tell(client, id)
    assert (refused.status_code, "is told now" in refused.json()["detail"]) == (409, True)
    answer(client, id, "Ben", "NV")
    (found,) = client.get("/found-wrong?reader=Ann").json()["answers"]
    assert (found["state"], len(found["told"])) == ("contradicted", 1)
    told = tell(client, id, "contradicted", told_by="Otto").json()
    assert (told["state"], [each["told_by"] for each in told["told"]]) == ("told", ["Olga", "Otto"])
    assert tell(client, id, told_by="").status_code == 422
    monkeypatch.setattr("misgiving.serve.found_wrong.MAX_NOTES", 2)
    refused = tell(client, id, "told")
    assert (refused.status_code, "has 2 such notes" in refused.json()["detail"]) == (422, True)


def test_what_counts_only_after_a_note_changes_the_state_that_was_told(serving, answers_count_in):
    answers_count_in(AN_HOUR)
    client = serving(Calibrated(), audit_share=1.0)
    id, other = (sent(client, picture(level))["id"] for level in (0.02, 0.03))
    answer(client, id, "Ann", "MEL")
    client.get(f"/cases/{other}?reader=Ann")
    answer(client, id, "Ben", "NV")  # which can still be corrected
    assert tell(client, id).json()["state"] == "told"
    client.get(f"/cases/{other}?reader=Ben")
    (found,) = client.get("/found-wrong?reader=Ann").json()["answers"]
    assert (found["state"], found["contradicted_by"]) == ("contradicted", ["Ben"])


def test_the_metrics_count_the_states_and_what_is_open_for_more_than_a_day(serving, sqlite_place):
    client = serving(Calibrated(), audit_share=1.0)
    store = Store.open(sqlite_place)
    store.add([case(number, **ACCEPTED) for number in range(3)])
    for number, days in ((0, 0), (1, 2), (2, 3)):
        time = datetime.now(UTC) - timedelta(days=days)
        store.review(case(number).id, review("", verdict="none", reviewed_at=time))
    store.close()
    assert tell(client, case(2).id).status_code == 200
    metrics = client.get("/metrics").text
    for line in ('found_wrong{state="open"} 2.0', 'found_wrong{state="told"} 1.0'):
        assert f"misgiving_{line}" in metrics
    assert "misgiving_found_wrong_overdue 1.0" in metrics


def test_what_is_blind_to_a_reader_is_neither_listed_nor_counted(serving):
    client = serving(Calibrated(), audit_share=1.0)
    answer(client, sent(client, picture(0.02))["id"], "Ann", "MEL")
    for path, count in (("Ann", 1), ("Ben", 0), ("", 0)):
        found = client.get(f"/found-wrong?reader={path}").json()
        assert (len(found["answers"]), found["counts"]["open"]) == (count, count)


def test_the_record_reads_either_database_again_after_a_review_and_a_note(store):
    record = FoundWrongRecord(store)
    store.add([case(1, **ACCEPTED), case(2, **ACCEPTED | {"decision": "defer"})])
    assert record.answers().answers == []
    for number in (1, 2):
        store.review(case(number).id, review("", verdict="override", final_class="SCC"))
    assert [(each.id, each.read_as) for each in record.answers().answers] == [(case(1).id, ["SCC"])]
    record.tell(case(1).id, told_by="Olga", note="", state="open")
    assert record.answers().counts["told"] == 1
    assert record.answers(states=["open"]).answers == []
