"""SQLAlchemy engines for SQLite and PostgreSQL that keep what they have committed."""

import importlib.util
import random
import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from misgiving.errors import UsageError

CONNECTIONS = 48  # more than FastAPI has threads, so that none waits for a connection
WRITES = "misgiving_writes"
PATIENCE = 30.0  # seconds
BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def engine_for(place: str) -> Engine:
    """Create an engine for a database URL or the path of an SQLite file.

    Raises:
        UsageError: The URL is not supported, or its driver is not installed.
    """
    url = _url(place)
    if url.get_backend_name() == "sqlite":
        return _sqlite(url)
    if url.get_backend_name() != "postgresql":
        raise UsageError(
            f"{shown(place)}: unknown kind of store; give the path of an SQLite file, "
            "sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        )
    if importlib.util.find_spec("psycopg") is None:
        raise UsageError("psycopg is not installed; run: pip install 'misgiving[postgresql]'")
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args={"client_encoding": "utf8"},
        hide_parameters=True,  # names and notes must not get into logs
        pool_size=CONNECTIONS,
        pool_pre_ping=True,  # reconnects after a restart of the database
    )


def shown(place: str) -> str:
    """The place without its password."""
    return _url(place).render_as_string(hide_password=True)


def _url(place: str) -> URL:
    if "://" not in place:
        return URL.create("sqlite", database=place)
    try:
        return make_url(place)
    except ArgumentError as error:
        raise UsageError(
            "the store's URL is malformed; give sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        ) from error


def _sqlite(url: URL) -> Engine:
    if url.database in (None, "", ":memory:"):
        raise UsageError("a store in memory loses its cases; name a file")
    folder = Path(str(url.database)).absolute().parent
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder for the store; create it first")
    engine = create_engine(
        url, hide_parameters=True, pool_size=CONNECTIONS, connect_args={"timeout": PATIENCE}
    )
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def _configure(connection: sqlite3.Connection, _: Any) -> None:
    """Allow readers beside a writer, and make commits survive a loss of power."""
    connection.isolation_level = None  # SQLAlchemy begins the transactions
    deadline = time.monotonic() + PATIENCE
    while True:  # SQLite itself does not wait while others open the same new file
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in BUSY or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.005, 0.05))
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin(connection: Connection) -> None:
    """Take the lock of a writer at once: a reader that becomes a writer could be refused it."""
    immediate = connection.get_execution_options().get(WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
