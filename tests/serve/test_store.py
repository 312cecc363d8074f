import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from services import emptied
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError
from standin import START, case, review

from misgiving.errors import DataError, UsageError
from misgiving.serve import database as database_module
from misgiving.serve.case import CaseQuery
from misgiving.serve.store import Store
from misgiving.serve.store_check import check_store


@pytest.fixture
def many(store):
    cases = [case(number) for number in range(60)]
    store.add(cases)
    return cases


def test_a_case_is_read_as_it_was_written_in_any_environment(place, monkeypatch):
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    name = "病变\n'; DROP TABLE cases; -- \u202e.jpg"
    given = case(1, name=name, acceptance_score=0.1 + 0.2)
    with closing(Store.open(place)) as store:
        store.add([given])
    with closing(Store.open(place)) as store:
        assert store.cases([given.id, "0" * 31 + "x"]) == {given.id: given}


def test_pages_hold_every_case_once_in_order(store, many):
    unknown = {"probabilities": {"MEL": None, "NV": None}, "error_probability": None}
    mute = case(1000, probability=None, **unknown)  # comes first
    store.add([mute])

    def pages(order, limit):
        cases, cursor = [], None
        while cursor or not cases:
            more, cursor = store.page(CaseQuery(order=order), limit=limit, cursor=cursor)
            cases += more
        return cases

    def key(row):
        hidden = row.error_probability is None
        shown = 1 - row.probabilities[row.predicted_class] if hidden else row.error_probability
        return shown, row.id

    for limit in (1, 7, 61, 500):
        assert pages("expected_error", limit) == [mute, *sorted(many, key=key, reverse=True)]
        assert pages("newest", limit) == [mute, *many[::-1]]
        assert pages("listed", limit) == [mute, *many[::-1]]


@pytest.mark.usefixtures("many")
def test_a_review_that_moves_the_last_case_of_a_page_hides_none_of_the_next(store):
    moved = case(1000, blind=True, audited=True, position=0.5, error_probability=0.1)
    store.add([moved])
    query = CaseQuery(reader="Ann")
    before = [row.id for row in store.all(query)]
    place = before.index(moved.id) + 1
    first, cursor = store.page(query, limit=place)
    assert first[-1].blind
    for name in ("Ann", "Ben"):
        store.review(moved.id, review("", reviewer=name))
    assert store.cases([moved.id])[moved.id].expected_error != first[-1].expected_error
    after = store.page(query, limit=500, cursor=cursor)[0]
    assert [row.id for row in after if row.id != moved.id] == before[place:]


def test_filters_select_and_count_cases(store, many):
    for row in many[:5]:
        store.review(row.id, review(""))
    for query, matches in (
        (CaseQuery(decisions=("defer", "ood")), lambda row: row.decision != "accept"),
        (CaseQuery(predicted_class="' OR 1=1 --"), lambda _: False),
        (CaseQuery(reviewed=True), lambda row: row in many[:5]),
        (CaseQuery(name="9.JPG"), lambda row: row.name.endswith("9.jpg")),
        (CaseQuery(name="%"), lambda _: False),
        (CaseQuery(name="_"), lambda _: False),
        (
            CaseQuery(reviewed=False, predicted_class="NV", decisions=("accept",)),
            lambda row: row in many[5:] and (row.predicted_class, row.decision) == ("NV", "accept"),
        ),
    ):
        expected = {row.id for row in many if matches(row)}
        assert {row.id for row in store.all(query)} == expected
        assert store.count(query) == len(expected)


def test_a_later_review_has_a_later_time_whatever_the_clock_of_its_server(store, many):
    for behind in (timedelta(), timedelta(), timedelta(seconds=5)):
        store.review(many[3].id, review("", reviewed_at=START - behind))
    reviews = [row.model_dump(mode="json") for row in store.reviews(many[3].id)]
    times = [row["reviewed_at"] for row in reviews]
    assert times == sorted(set(times))  # text, as the page compares it
    assert store.cases([many[3].id])[many[3].id].model_dump(mode="json")["review"] == reviews[-1]


def at_once(count, task):
    """Run a task in threads that begin together."""
    together = threading.Barrier(count)
    with ThreadPoolExecutor(count) as threads:
        list(threads.map(lambda number: (together.wait(), task(number)), range(count)))


def test_only_one_of_several_simultaneous_reviews_is_stored(store, many):
    stored = []
    at_once(
        8, lambda number: stored.append(store.review(many[3].id, review(str(number)), check=True))
    )
    assert sorted(stored) == [False] * 7 + [True]
    assert not store.review(many[4].id, review("early"), last_seen=START, check=True)
    assert not store.cases([many[4].id])[many[4].id].reviewed
    assert store.review(many[3].id, review("then"), last_seen=START, check=True)
    assert len(store.reviews(many[3].id)) == 2


def test_a_reader_finds_what_several_processes_add_and_a_file_is_one_case(store, place):
    read_ids, returned, ended = set(), [], threading.Event()

    def read():
        latest, _ = store.latest()
        for is_last in iter(ended.is_set, None):
            after, (latest, _) = latest, store.latest()
            arrived = store.all(CaseQuery(arrived_after=after, order="newest"))
            read_ids.update(row.id for row in arrived)
            if is_last:
                break

    def write(process):
        with closing(Store.open(place)) as other:
            for number in range(40):
                sha256 = f"{number} {process // 2}"  # two have each file
                (row,) = other.add([case(4 * number + process, sha256=sha256)])
                returned.append(row.id)

    reader = threading.Thread(target=read)
    reader.start()
    at_once(4, write)
    ended.set()
    reader.join()
    assert len(returned) == 160
    assert read_ids == set(returned)
    assert store.count(CaseQuery()) == len(read_ids) == 80


def test_the_same_file_is_one_case_for_one_model_and_policy(store):
    first, second = case(1, sha256="a"), case(2, sha256="a")
    assert store.add([first, second]) == [first, first]
    store.review(first.id, review("seen"))
    (again,) = store.add([case(3, sha256="a")])
    assert (again.id, again.review.note) == (first.id, "seen")
    others = [
        case(4, sha256="a", policy_fingerprint="p"),
        case(5, sha256="a", model_fingerprint="m"),
        case(6, sha256="a", image_kept=True),
        case(7, sha256="a", place=1, remark="listed"),
    ]
    assert store.add(others) == others
    with pytest.raises(IntegrityError):
        store.add([case(8), case(9), case(8, sha256="c" * 64)])  # all or none
    assert store.count(CaseQuery()) == 5


@pytest.mark.parametrize("change", ["reviews DROP COLUMN note", "cases ADD COLUMN colour TEXT"])
def test_tables_of_another_schema_are_refused(place, store, change):
    with store._writing.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {change}")
    with pytest.raises(DataError, match=f"its table {change.split()[0]} has another schema"):
        Store.open(place)


def test_a_location_that_cannot_be_opened_is_refused_without_its_password(tmp_path):
    (tmp_path / "cases.sqlite").write_bytes(b"not a database" * 100)
    for location, kind in {
        str(tmp_path / "cases.sqlite"): DataError,
        f"postgresql://me:secret@/cases?host={tmp_path}": DataError,
        f"postgresql://me@/cases?password=secret&host={tmp_path}": DataError,
        "postgresql://me:sec@ret:word@host/cases": UsageError,
        "postgresql://me:secret@host:5432x/cases": UsageError,
        "sqlite://me:secret@host/cases.sqlite": UsageError,
        "sqlite:///cases.sqlite?timeout=word": UsageError,
        "mysql://host/cases": UsageError,
        "sqlite:///:memory:": UsageError,
    }.items():
        with pytest.raises(kind) as failure:
            Store.open(location)
        shown = str(failure.value)
        assert not any(part in shown for part in ("secret", "ret:", "word@", "5432x"))
        assert (location in shown) == location.startswith("/")
        if kind is UsageError:  # a traceback would show the cause
            assert failure.value.__suppress_context__ or failure.value.__context__ is None


@pytest.mark.parametrize("prefix", ["", "sqlite:///"])
def test_the_files_of_a_store_are_for_their_owner_alone(sqlite_place, tmp_path, prefix):
    store = Store.open(prefix + sqlite_place)
    store.add([case(1)])
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {f"cases.sqlite{end}": 0o600 for end in ("", "-wal", "-shm")}
    store.close()


def test_sqlite_waits_for_the_disk_at_every_commit_and_readers_for_no_writer(sqlite_place):
    store = Store.open(sqlite_place)
    store.add([case(1)])
    with store._writing.begin() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    writer = sqlite3.connect(sqlite_place, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    assert store.count(CaseQuery()) == 1
    writer.close()
    store.close()


def test_on_postgresql_a_check_waits_for_no_writer_and_a_long_statement_is_cancelled(
    database, monkeypatch
):
    options = "-c statement_timeout=3s"  # a busy machine makes the tables in less
    monkeypatch.setitem(database_module.POSTGRESQL_LIMITS, "options", options)
    store = Store.open(emptied(database))
    with store._writing.begin() as connection:
        check_store(store, case(1))
        with pytest.raises(OperationalError):
            connection.execute(text("SELECT pg_sleep(60)"))
    store.close()


def test_a_damaged_file_is_named_with_the_remedy(sqlite_place):
    Store.open(sqlite_place).close()
    data = Path(sqlite_place).read_bytes()
    Path(sqlite_place).write_bytes(data[:-8192] + b"x" * 8192)
    with pytest.raises(DataError, match=r"cases\.sqlite: .*damaged\); .*restore a copy"):
        Store.open(sqlite_place)
