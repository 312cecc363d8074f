"""The check that a store keeps what is written to it."""

from contextlib import closing
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy import insert, select
from sqlalchemy.exc import OperationalError

from misgiving.serve.case import ARRIVALS, CASES, PINGS, Case, zulu
from misgiving.serve.reviews import last_reviews
from misgiving.serve.rows import read_cases, row_of
from misgiving.serve.store import Store

STORE_LOCK_SECONDS = 0.5  # for which a new connection to SQLite waits


def check_store(store: Store, case: Case) -> None:
    """Raise SQLAlchemyError where this case could not be stored now, or the last not be read.

    It is not kept. What was written is read by a new connection: an older one may still see what a
    file that was damaged had.
    """
    with store.begin() as connection:  # waits for no lock of another process
        connection.execute(sa.delete(PINGS))
        connection.execute(insert(PINGS).values(time=zulu(datetime.now(UTC))))
        with connection.begin_nested() as attempt:
            connection.execute(insert(CASES).values(row_of(case)))
            connection.execute(insert(ARRIVALS).values(case_id=case.id))
            last_reviews(connection, [case.id])
            attempt.rollback()
    other = Store(store.location, lock_seconds=STORE_LOCK_SECONDS)
    with closing(other), other.begin() as connection:
        list(read_cases(connection, select(CASES).order_by(CASES.c.id.desc()).limit(1)))
        if connection.execute(select(PINGS)).first() is None:
            raise OperationalError("SELECT", None, OSError("what was stored cannot be read"))
