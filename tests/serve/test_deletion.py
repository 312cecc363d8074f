"""What is deleted is gone, and audits and drift tests say what they said before."""

import random
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
import sqlalchemy as sa
from standin import START, Calibrated, case, picture, review, sent
from waiting import until

from misgiving.errors import DataError
from misgiving.serve.audits import audit_terms
from misgiving.serve.case import CASES, STORE_TABLES, CaseQuery
from misgiving.serve.deletion import delete_cases
from misgiving.serve.kept_images import KeptImages
from misgiving.serve.monitor import Monitor
from misgiving.serve.settings import ServiceSettings
from misgiving.serve.store import Store

POLICY = Calibrated().policy
NEVER_LATE = ServiceSettings(audit_days=36500.0)
CHOICES = {
    "a group": CASES.c.group == "patient 3",
    "many days": CASES.c.received < "2026-01-01T00:01:00",
    "the first case of a group that has others": CASES.c.id == f"{3:032x}",
    "an open case": CASES.c.blind,
}


def audited_store(store, count=100, errors=0.1):
    """Cases of 20 patients, most of them audited, some with a disagreement and one still open."""
    chance = random.Random(1)
    rows = [
        case(
            number,
            decision=chance.choice(["accept", "accept", "defer"]),
            group=chance.choice([f"patient {number % 20}", None]),
            policy_fingerprint=POLICY.fingerprint,
            acceptance_score=chance.random(),
            ood_score=-chance.random(),
            audited=number % 8 != 0,  # the others are read, but are no unit
            pixels=f"{number - number % 4 // 3:064x}",  # each fourth image is a copy
            blind=True,
            position=0.5,
        )
        for number in range(count)
    ]
    store.add(rows)
    for row in rows[: count - 20] + rows[count - 19 :]:
        wrong = chance.random() < errors
        for name in ("Ann", "Ben") if wrong else ("Ann",):
            store.review(row.id, review("", verdict="none" if wrong else "agree", reviewer=name))
    store.audit(POLICY.fingerprint, 1.0, **audit_terms(POLICY))


def evidence(store):
    """What a service that starts now says of audits and drift."""
    row = store.audit(POLICY.fingerprint, None, **audit_terms(POLICY))
    monitor = Monitor(store, POLICY, NEVER_LATE, row)
    drift = monitor.update_drift()
    audit = monitor.audit().model_dump(exclude={"found_wrong", "alarm_since", "accepted"})
    return audit, [test.model_dump(exclude={"since"}) for test in drift.tests], drift.cases


@pytest.mark.parametrize(("name", "errors"), [*((name, 0.1) for name in CHOICES), ("a group", 0.5)])
def test_a_deletion_changes_neither_bound_nor_alarm_nor_drift(store, name, errors):
    audited_store(store, errors=errors)
    before, cases = evidence(store), {row.id for row in store.all(CaseQuery())}
    assert before[0]["alarm"] == (errors == 0.5)
    done = delete_cases(store, None, CHOICES[name])
    left = {row.id for row in store.all(CaseQuery())}
    assert 0 < done.deleted == len(cases) - len(left) < len(cases)
    assert evidence(store) == before


def test_deleted_answers_count_as_accepted_if_no_reading_is_open(sqlite_place):
    verdicts = ("agree", "none", "ungradable", None)
    with closing(Store.open(sqlite_place)) as store:
        row = store.audit(POLICY.fingerprint, 1.0, **audit_terms(POLICY))
        blind = {"audited": True, "blind": True, "position": 0.5, "decision": "accept"}
        values = blind | {"policy_fingerprint": POLICY.fingerprint, "received": datetime.now(UTC)}
        store.add([case(number, **values) for number in range(len(verdicts))])
        for (number, verdict), name in product(enumerate(verdicts[:3]), ("Ann", "Ben")):
            store.review(case(number).id, review("", verdict=verdict, reviewer=name))
        before = Monitor(store, POLICY, NEVER_LATE, row).audit().accepted
        delete_cases(store, None, sa.true())
        assert Monitor(store, POLICY, NEVER_LATE, row).audit().accepted == before == 3


def test_the_alarm_keeps_the_day_of_its_answer(store):
    audited_store(store, errors=0.5)
    row = store.audit(POLICY.fingerprint, None, **audit_terms(POLICY))
    before = Monitor(store, POLICY, NEVER_LATE, row).audit().alarm_since
    delete_cases(store, None, sa.true())
    after = Monitor(store, POLICY, NEVER_LATE, row).audit().alarm_since
    assert after.date() == before.date()


def test_nothing_in_the_store_names_what_was_deleted(store):
    audited_store(store, count=60)
    gone = [row for row in store.all(CaseQuery()) if row.group == "patient 3"]
    delete_cases(store, None, CASES.c.group == "patient 3")
    with store.begin() as connection:
        rows = [
            row
            for table in STORE_TABLES.tables.values()
            for row in connection.execute(sa.select(table))
        ]
    text = repr(rows)
    assert gone
    for row in gone:
        words = ("patient 3", row.id, row.sha256, row.name)
        assert not any(f"'{word}'" in text for word in words)


def test_no_page_of_an_sqlite_file_has_what_was_deleted(sqlite_place, tmp_path):
    with closing(Store.open(sqlite_place)) as of_service:
        of_service.add([case(1, name="Jane Doe.png", group="Ward 7"), case(2)])
        of_service.review(case(1).id, review("Ward 7"))
        with closing(Store.open(sqlite_place)) as store:
            delete_cases(store, None, CASES.c.id == case(1).id)
        content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert [row.name for row in of_service.all(CaseQuery())] == [case(2).name]
    assert b"2.jpg" in content
    assert not any(word in content for word in (b"Jane Doe", b"jane doe", b"Ward 7"))


def test_a_file_is_deleted_with_the_last_case_that_has_it(serving, tmp_path):
    client = serving(keep_images=tmp_path / "kept")
    service = client.app.state.service
    for group, data in (("a", picture(0.1)), ("b", picture(0.2))):
        client.post(f"/decisions?group={group}", files={"files": (group, data)})
    (first, second) = service.store.all(CaseQuery(order="newest"))
    service.store.add([case(9, sha256=second.sha256, image_kept=True, group="other")])
    files = {row.sha256: service.files.path(row.sha256) for row in (first, second)}
    for group, left in (("a", 2), ("b", 1), ("other", 0)):
        with pytest.raises(DataError, match="cases have images"):
            delete_cases(service.store, None, CASES.c.group == group)
        delete_cases(service.store, service.files, CASES.c.group == group)
        assert sum(path.exists() for path in files.values()) == left
    assert client.get(f"/cases/{first.id}").status_code == 404


def test_a_deletion_that_is_killed_can_be_repeated(store, tmp_path, monkeypatch):
    images = KeptImages(tmp_path / "kept")
    rows = [case(number, image_kept=True) for number in range(4)]
    for row in rows:
        store.add([row])
        images.write(row.sha256, b"image")
        store.review(row.id, review(""))
    deleted, delete = [], images.delete

    def killed(sha256):
        if len(deleted) == 2:
            raise KeyboardInterrupt
        deleted.append(sha256)
        delete(sha256)

    monkeypatch.setattr(images, "delete", killed)
    with pytest.raises(KeyboardInterrupt):
        delete_cases(store, images, sa.true())
    assert len(list(store.all(CaseQuery()))) == len([*store.reviews(rows[0].id)]) * 4 == 4
    monkeypatch.undo()
    assert delete_cases(store, images, sa.true()).deleted == 4
    assert [path for path in (tmp_path / "kept").rglob("*") if path.is_file()] == []


def test_an_upload_during_a_deletion_of_the_same_file_has_its_image(serving, tmp_path):
    client = serving(keep_images=tmp_path / "kept")
    service = client.app.state.service
    sent(client, picture(0.1))
    add = service.store.add

    def after_deletion(cases):
        delete_cases(service.store, service.files, sa.true())
        return add(cases)

    service._store_batches._work = after_deletion
    again = sent(client, picture(0.1))
    assert client.get(f"/cases/{again['id']}/image").content == picture(0.1)


def test_cases_are_deleted_after_some_days_unless_somebody_must_still_look_at_them(
    serving, sqlite_place, logged
):
    store = Store.open(sqlite_place)
    accepted = {"decision": "accept", "policy_fingerprint": POLICY.fingerprint}
    blind = {"audited": True, "blind": True, "position": 0.5}
    values = ({}, accepted | blind, accepted | blind, accepted)
    rows = [case(number, **each) for number, each in enumerate(values)]
    store.add(rows)
    for name in ("Ann", "Ben"):
        store.review(rows[2].id, review("", verdict="none", reviewer=name))
    client = serving(Calibrated(), store, keep_days=1.0)
    new = sent(client)
    until(lambda: [line for line in logged() if line["event"] == "deletion"])
    (line,) = (line for line in logged() if line["event"] == "deletion")
    assert (line["deleted"], line["blind"], line["untold"]) == (2, 1, 1)
    left = {row["id"] for row in client.get("/cases").json()["cases"]}
    assert left == {new["id"], rows[1].id, rows[2].id}
    metrics = client.get("/metrics").text
    for reason in ("blind", "untold"):
        assert f'misgiving_kept_too_long{{reason="{reason}"}} 1.0' in metrics


def test_days_need_the_folder_of_the_images(serving, sqlite_place):
    store = Store.open(sqlite_place)
    store.add([case(1, image_kept=True)])
    with pytest.raises(DataError, match="cases have images"):
        serving(None, store, keep_days=1.0)


def test_the_command_deletes_a_group_or_what_came_before_a_day(place, succeed, fail):
    with closing(Store.open(place)) as store:
        days = [START + timedelta(days=number) for number in range(4)]
        store.add([case(n, received=day, group=f"g{n}") for n, day in enumerate(days)])
        left = lambda: [row.group for row in store.all(CaseQuery(order="newest"))]  # noqa: E731
        assert "deleted: 1 case\n" in succeed("cases", "delete", place, "--group", "g3").err
        assert left() == ["g2", "g1", "g0"]
        assert fail(1, "cases", "delete", place, "--group", "G2").startswith(
            "error: G2: is no group"
        )
        succeed("cases", "delete", place, "--before", "2026-01-02")
        assert left() == ["g2", "g1"]
        for words in ((), ("--group", "g1", "--before", "2026-01-02")):
            assert fail(2, "cases", "delete", place, *words) == "error: give --group or --before"


def test_a_folder_that_is_not_there_is_refused_before_anything_is_deleted(sqlite_place, fail):
    with closing(Store.open(sqlite_place)) as store:
        store.add([case(1, group="a")])
        words = ("cases", "delete", sqlite_place, "--group", "a", "--keep-images", "typo")
        assert "typo: is no folder" in fail(1, *words)
        assert store.cases([case(1).id])
