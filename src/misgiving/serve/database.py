"""The database: engines for SQLite and PostgreSQL, and its tables."""

import importlib
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    JSON,
    URL,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Engine,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    create_engine,
    event,
    inspect,
    make_url,
)
from sqlalchemy.exc import ArgumentError

from misgiving.errors import DataError, UsageError

MAX_CONNECTIONS = 48  # more than FastAPI has threads, so that none waits for a connection
LOCK_SECONDS = 30.0  # for which SQLite waits for another writer
BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
SECRETS = ("password", "sslpassword")  # that libpq also takes after the question mark of a URL
POSTGRESQL_LIMITS = {
    "connect_timeout": 5,
    "options": "-c statement_timeout=15s",
    "keepalives_idle": 10,  # the host is gone after 10 + 2 * 5 seconds
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,  # milliseconds
}
"""Options of libpq (PostgreSQL's manual, 34.1.2); the URL of the store may give others."""

WRITES = "misgiving_writes"
NUMBERED, UNNUMBERED = "numbered", "unnumbered"
"""Values of the execution option `WRITES`: a transaction that adds numbered rows takes the write
lock, so that numbers are committed in order; readers then miss none."""
WRITE_LOCK = 7264837101  # PostgreSQL's key of the advisory lock

METADATA = MetaData()


def _number() -> Column[int]:
    integer = BigInteger().with_variant(Integer, "sqlite")
    return Column("number", integer, Identity(always=True), primary_key=True)


CASES = Table(
    "cases",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("received", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("predicted_class", Text, nullable=False),
    Column("probability", Double),
    Column("probabilities", JSON, nullable=False),
    Column("error_probability", Double),
    Column("expected_loss", Double),
    Column("predicted_loss", Double),
    Column("ood_p_value", Double),
    Column("decision", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("acceptance_score", Double),
    Column("ood_score", Double),
    Column("sha256", Text, nullable=False, index=True),
    Column("model_fingerprint", Text, nullable=False),
    Column("policy_fingerprint", Text),
    Column("image_kept", Boolean, nullable=False),
    Column("place", Integer),
    Column("remark", Text),
    Column("reviewed", Boolean, nullable=False),
    Column("expected_error", Double, nullable=False),
    Index("cases_by_expected_error", "expected_error", "id"),
    Index("cases_by_decision", "decision", "reviewed"),
    Index("cases_by_class", "predicted_class", "expected_error", "id", "decision", "reviewed"),
)
REVIEWS = Table(
    "reviews",
    METADATA,
    _number(),
    Column("case_id", ForeignKey(CASES.c.id), nullable=False),
    Column("verdict", Text, nullable=False),
    Column("final_class", Text),
    Column("note", Text, nullable=False),
    Column("reviewer", Text, nullable=False),
    Column("reviewed_at", Text, nullable=False, index=True),
    Index("reviews_by_case", "case_id", "number"),
    sqlite_autoincrement=True,
)
ARRIVALS = Table(
    "arrivals",
    METADATA,
    _number(),
    Column("case_id", ForeignKey(CASES.c.id, ondelete="CASCADE"), nullable=False, unique=True),
    sqlite_autoincrement=True,
)
"""Cases in the order of their arrival in the database: clocks of several machines differ."""

STATES = Table(
    "states",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
"""Values that the service keeps with the cases, such as the state of the drift tests."""


def create_tables(connection: Connection, location: str) -> None:
    """Create the tables that do not exist, within the caller's transaction.

    Raises:
        DataError: The tables that exist have other columns, or the encoding is not UTF-8.
    """
    if connection.dialect.name == "postgresql":
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
        if encoding != "UTF8":
            raise DataError(
                f"{location}: the database has the encoding {encoding}, which cannot store every "
                "file name; create one with: createdb --encoding UTF8 --template template0 NAME"
            )
        _take_write_lock(connection)
    inspector = inspect(connection)
    for name in METADATA.tables.keys() & inspector.get_table_names():
        columns = {column["name"] for column in inspector.get_columns(name)}
        if columns != set(METADATA.tables[name].columns.keys()):
            raise DataError(f"{location}: its table {name} has another schema; use another store")
    METADATA.create_all(connection)


def engine_for(location: str) -> Engine:
    """Create an engine for a database URL or the path of an SQLite file.

    Raises:
        UsageError: The URL is not supported.
        ModuleNotFoundError: Its driver is not installed.
    """
    url = _url(location)
    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        return _sqlite(url)
    if url.get_backend_name() == "postgresql":
        return _postgresql(url)
    raise UsageError(
        f"{without_password(location)}: not supported as a store; give the path of an SQLite file, "
        "sqlite:///FILE or postgresql://USER@HOST/DATABASE"
    )


def without_password(location: str) -> str:
    """The location without its password."""
    url = _url(location).difference_update_query(SECRETS)
    return url.render_as_string(hide_password=True)


def _url(location: str) -> URL:
    if "://" not in location:
        return URL.create("sqlite", database=location)
    with _malformed_url_explained():
        return make_url(location)


@contextmanager
def _malformed_url_explained() -> Iterator[None]:
    """Show no part of a malformed URL: a port may be half a password with a special letter."""
    try:
        yield
    except (ArgumentError, ValueError, TypeError, ImportError):  # the last: of another driver
        raise UsageError(
            "the store's URL is malformed; give sqlite:///FILE or postgresql://USER@HOST/DATABASE, "
            "with special characters of a password as in %40 for @"
        ) from None


def _postgresql(url: URL) -> Engine:
    importlib.import_module("psycopg")  # else SQLAlchemy would hide which module is missing
    limits = {name: POSTGRESQL_LIMITS[name] for name in POSTGRESQL_LIMITS.keys() - url.query.keys()}
    with _malformed_url_explained():
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            connect_args={"client_encoding": "utf8", **limits},
            hide_parameters=True,  # names and notes must not get into logs
            pool_size=MAX_CONNECTIONS,
            pool_pre_ping=True,  # reconnects after a restart of the database
        )
    event.listen(engine, "begin", _begin_postgresql)
    return engine


def _begin_postgresql(connection: Connection) -> None:
    if connection.get_execution_options().get(WRITES) == NUMBERED:
        _take_write_lock(connection)


def _take_write_lock(connection: Connection) -> None:
    """Wait until no other process writes; the lock is released with the transaction."""
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITE_LOCK})")


def _sqlite(url: URL) -> Engine:
    with _malformed_url_explained():
        engine = create_engine(
            url,
            connect_args={"timeout": LOCK_SECONDS},
            hide_parameters=True,
            pool_size=MAX_CONNECTIONS,
        )
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    """Allow readers beside a writer, and make commits survive a loss of power."""
    connection.isolation_level = None  # SQLAlchemy begins the transactions
    connection.create_function(  # its own knows only a to z
        "lower", 1, lambda text: text and text.lower(), deterministic=True
    )
    deadline = time.monotonic() + LOCK_SECONDS
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


def _begin_sqlite(connection: Connection) -> None:
    """Take the write lock at once: a reader that becomes a writer could be refused it."""
    writes = connection.get_execution_options().get(WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
