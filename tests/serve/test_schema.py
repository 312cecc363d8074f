"""Stores of earlier versions are upgraded, and the migrations lead to the tables in the code."""

import sqlite3
from contextlib import contextmanager
from pathlib import Path
from string import Template
from unittest.mock import Mock

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from standin import Calibrated

from misgiving.errors import DataError
from misgiving.serve.case import STORE_TABLES
from misgiving.serve.database import engine_for
from misgiving.serve.schema import CURRENT, VERSION, migrate
from misgiving.serve.store import Store

SCRIPT = Template((Path(__file__).parent / "first_store.sql").read_text(encoding="utf-8"))
FIRST, SECOND = (f"{number:032x}" for number in (1, 2))


COLUMNS = {"before answers": "", "with answers": "answer TEXT,"}


@pytest.fixture(params=COLUMNS)
def first_store(request, place):
    """The place of a store from before stores had a version."""
    in_postgresql = "://" in place
    script = SCRIPT.substitute(
        POLICY=Calibrated().policy.fingerprint,
        ANSWER=COLUMNS[request.param],
        REAL="DOUBLE PRECISION" if in_postgresql else "DOUBLE",
        NUMBER="BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
        if in_postgresql
        else "INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT",
    )
    if in_postgresql:
        with psycopg.connect(place, autocommit=True) as connection:
            connection.execute(script.encode())
    else:
        with sqlite3.connect(place) as connection:
            connection.executescript(script)
        connection.close()
    return place


def test_an_upgraded_store_is_served_with_all_that_it_held(first_store, serving):
    store = Store.open(first_store, upgrade=True)
    assert {row.pixels == row.sha256 for row in store.cases([FIRST, SECOND]).values()} == {True}
    store.close()
    client = serving(Calibrated(), Store.open(first_store))
    read = client.get(f"/cases/{FIRST}").json()
    assert (read["name"], read["group"], read["answer"]) == ("Läsion's.jpg", "patient 1", None)
    given = [(x["reviewer"], x["final_class"], x["note"]) for x in read["reviews"]]
    assert given == [("Ann", "dark", "odd"), ("Ben", "dark", "")]
    page = client.get("/cases", params={"order": "newest"}).json()
    blind = [(row["id"], row.get("blind")) for row in page["cases"]]
    assert blind == [(SECOND, True), (FIRST, None)]
    assert client.get("/cases?limit=1").json()["cursor"] == f"3.5_{SECOND}"
    audit = client.get("/audit").json()
    assert (audit["share"], audit["audited"], audit["wrong"]) == (0.2, 1, 1)
    answered = {"verdict": "override", "class": "dark", "reviewer": "Cem"}
    assert client.post(f"/cases/{SECOND}/review", json=answered).status_code == 200


def test_a_store_that_is_behind_is_refused_with_the_command_that_upgrades_it(
    first_store, exported, fail, succeed
):
    said = fail(1, "serve", str(exported[1]), "--port", "0", "--store", first_store)
    *_, command = said.partition("run: misgiving ")
    assert command == f"cases upgrade {'STORE' if '://' in first_store else first_store}"
    succeed(*command.replace("STORE", first_store).split())
    Store.open(first_store).close()


def test_an_upgrade_that_fails_leaves_the_store_as_it_was(first_store, monkeypatch):
    failing = Mock(side_effect=DataError("after the migrations"))
    monkeypatch.setattr("misgiving.serve.schema._check_columns", failing)
    with pytest.raises(DataError, match="after the migrations"):
        Store.open(first_store, upgrade=True)
    monkeypatch.undo()
    with pytest.raises(DataError, match="has the tables of an earlier version"):
        Store.open(first_store)


def test_a_store_of_a_newer_version_is_refused(place, store):
    with store._writing.begin() as connection:
        connection.execute(sa.update(VERSION).values(version_num="9999"))
    with pytest.raises(DataError, match="its version 9999 is that of a newer misgiving"):
        Store.open(place, upgrade=True)


def test_no_store_is_made_by_an_upgrade(tmp_path, fail):
    assert "is no file" in fail(1, "cases", "upgrade", str(tmp_path / "typo.sqlite"))
    assert list(tmp_path.iterdir()) == []


@contextmanager
def migrated(place):
    """A connection to a database in which all migrations were run."""
    engine = engine_for(place)
    with engine.begin() as connection:
        migrate(connection)
        yield connection
    engine.dispose()


@pytest.mark.filterwarnings("ignore:.*expression-based index")
def test_the_migrations_lead_to_the_tables_of_the_code(place):
    with migrated(place) as connection:
        assert connection.scalar(sa.select(VERSION)) == CURRENT
        options = {"version_table": VERSION.name, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, STORE_TABLES) == []


def test_the_migrations_lead_to_the_indexes_of_the_code(sqlite_place):
    query = sa.text("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
    created = sa.create_engine("sqlite://")
    with created.begin() as connection:
        STORE_TABLES.create_all(connection)
        indexes = {*connection.execute(query).scalars()}
    created.dispose()
    with migrated(sqlite_place) as connection:
        assert {*connection.execute(query).scalars()} == indexes
    assert len(indexes) > 8
