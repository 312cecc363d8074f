"""Time limits on PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from databases import emptied, frozen
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from misgiving.serve import postgresql
from misgiving.serve.database import engine_for
from misgiving.serve.store import Store

NAP = text("SELECT pg_sleep(0.4)")


def test_a_server_that_freezes_is_a_failure_until_it_continues(database, monkeypatch):
    monkeypatch.setattr(postgresql._Impatient, "patience", 0.2)
    store = Store.open(emptied(database))
    with ThreadPoolExecutor(1) as thread:
        with frozen(database):
            failure = thread.submit(store.ping).exception(timeout=60)
        assert isinstance(failure, OperationalError)
        assert thread.submit(store.ping).result(timeout=60) is None
    store.close()


def test_an_answer_that_does_not_arrive_closes_its_connection(database, monkeypatch):
    engine = engine_for(database)
    with engine.begin() as connection:
        monkeypatch.setattr(postgresql._Impatient, "patience", 0.1)
        with pytest.raises(OperationalError, match=r"no answer for 0\.1 seconds"):
            connection.execute(NAP)
        assert connection.invalidated
        connection.rollback()
    engine.dispose()


def test_a_long_statement_is_cancelled_unless_it_is_a_migration(database, monkeypatch):
    monkeypatch.setitem(postgresql.LIMITS, "options", "-c statement_timeout=100ms")
    engine = engine_for(database)
    with pytest.raises(OperationalError, match="statement timeout"), engine.begin() as connection:
        connection.execute(NAP)
    monkeypatch.setattr(postgresql._Impatient, "patience", 0.1)
    with engine.begin() as connection, postgresql.unlimited(connection):
        connection.execute(NAP)
    engine.dispose()


def test_the_address_of_the_store_may_give_other_limits(database):
    engine = engine_for(f"{database}&options=-c%20statement_timeout%3D7s")
    with engine.begin() as connection:
        assert connection.scalar(text("SHOW statement_timeout")) == "7s"
    engine.dispose()
