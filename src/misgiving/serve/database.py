"""Connections to SQLite and PostgreSQL, and their transactions."""

import importlib
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, OperationalError

from misgiving.errors import UsageError

MAX_CONNECTIONS = 48  # more than FastAPI has threads, so that none waits for a connection
LOCK_SECONDS = 30.0  # for which SQLite waits for another writer
POSTGRESQL_LIMITS = {
    "connect_timeout": 5,
    "options": "-c statement_timeout=15s",
    "keepalives_idle": 10,  # the host is gone after 10 + 2 * 5 seconds
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,  # milliseconds
}
"""Options of libpq (PostgreSQL's manual, 34.1.2); the URL of the store may give others."""

WRITING = "misgiving_writing"
"""Execution option of transactions that take the write lock, so that the numbers of their rows are
committed in order; readers then miss none."""
WRITE_LOCK = 7264837101  # PostgreSQL's key of the advisory lock
NOT_A_STORE = (
    "the store must be the path of an SQLite file, sqlite:///FILE or "
    "postgresql://USER@HOST/DATABASE, with special characters of a password as in %40 for @"
)


def engine_for(location: str, *, lock_seconds: float = LOCK_SECONDS) -> sa.Engine:
    """Create an engine for a database URL or the path of an SQLite file.

    Raises:
        UsageError: The URL is malformed or not supported. The message has no part of it: a port
            may be half a password with a special letter.
        ModuleNotFoundError: The driver of PostgreSQL is not installed.
    """
    if location.startswith("postgresql:"):
        importlib.import_module("psycopg")  # else it would seem to be another driver
    with suppress(ArgumentError, ValueError, TypeError, ImportError):  # the last: another driver
        is_file = "://" not in location
        url = sa.URL.create("sqlite", database=location) if is_file else sa.make_url(location)
        if url.get_backend_name() == "postgresql":
            limits = {
                name: POSTGRESQL_LIMITS[name] for name in POSTGRESQL_LIMITS.keys() - url.query
            }
            url = url.set(drivername="postgresql+psycopg")
            values = {"client_encoding": "utf8", **limits}
            return _engine(url, values, pool_pre_ping=True)  # reconnects after its restart
        if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
            if url.database and not url.query:
                with suppress(OSError):  # SQLite says why
                    Path(url.database).touch(0o600)  # as it then makes its other files
            engine = _engine(url, {"timeout": lock_seconds})
            sa.event.listen(engine, "connect", _configure_sqlite)
            return engine
    raise UsageError(NOT_A_STORE)


def _engine(url: sa.URL, connect_args: dict[str, Any], **options: bool) -> sa.Engine:
    engine = sa.create_engine(
        url,
        connect_args=connect_args,
        hide_parameters=True,  # names and notes must not get into logs
        pool_size=MAX_CONNECTIONS,
        **options,
    )
    sa.event.listen(engine, "begin", _begin)
    return engine


def shown(location: str) -> str:
    """A location without a database's address, which may hold a password."""
    return "the database" if "://" in location else location


def _configure_sqlite(connection: sqlite3.Connection, record: Any) -> None:
    """Allow readers beside a writer, and make commits survive a loss of power."""
    file = Path(connection.execute("PRAGMA database_list").fetchone()[2])
    record.info.update(file=file, inode=file.stat().st_ino)
    connection.isolation_level = None  # SQLAlchemy begins the transactions
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")  # overwrites what is deleted


def _begin(connection: sa.Connection) -> None:
    """Take the write lock at once: a reader of SQLite that becomes a writer could be refused it.

    A deleted SQLite file could still be written to.
    """
    writes = connection.get_execution_options().get(WRITING)
    if connection.dialect.name == "sqlite":
        file = connection.info["file"]
        if not file.exists() or file.stat().st_ino != connection.info["inode"]:
            reason = OSError("the file was deleted or replaced; restart the service")
            raise OperationalError("BEGIN", None, reason)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
    elif writes:  # the lock is released with the transaction
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITE_LOCK})")
