"""The tables of the store, conditions of queries on them, and connections to the database."""

import importlib
import sqlite3
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, get_origin

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy import Column, ColumnElement, Text, func, select
from sqlalchemy.exc import ArgumentError, OperationalError

from misgiving.errors import DataError, UsageError, without_none
from misgiving.serve.records import ANY_READER, Case, CaseQuery, Review

LAST_PLACE = 2**31 - 1  # of a case that is in no list
METADATA = sa.MetaData()


def _number() -> Column[int]:
    integer = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    return Column("number", integer, sa.Identity(always=True), primary_key=True)


def _columns(model: type[BaseModel]) -> Iterator[Column[Any]]:
    """A column for each field that is no record of another table."""
    types = {bool: sa.Boolean, int: sa.Integer, float: sa.Double, dict: sa.JSON}
    for name, field in model.model_fields.items():
        kind = without_none(field.annotation)
        if kind is not Review:
            column = types.get(get_origin(kind) or kind, Text)
            optional = kind is not field.annotation
            yield Column(name, column, nullable=optional, primary_key=name == "id")


CASES = sa.Table(
    "cases",
    METADATA,
    *_columns(Case),
    Column("expected_error", sa.Double, nullable=False),
    Column("folded_name", Text, nullable=False),
    Column("listed_decision", Text, nullable=False),
    sa.Index("cases_by_expected_error", "expected_error", "id"),
    sa.Index("cases_by_decision", "listed_decision", "reviewed", "blind", "id"),
    sa.Index(
        "cases_by_class",
        *("predicted_class", "expected_error", "id", "listed_decision", "reviewed", "blind"),
    ),
    sa.Index("cases_by_audit", "policy_fingerprint", "audited", "listed_decision", "received"),
    sa.Index("cases_by_name", "folded_name", "id"),  # has all that a search reads
    sa.Index("ix_cases_sha256", "sha256"),
)
# A number in the query itself, as SQLite does not find the index by a parameter.
LISTED = -func.coalesce(CASES.c.place, sa.literal_column(str(LAST_PLACE)))
sa.Index("cases_by_place", LISTED, CASES.c.id)
REVIEWS = sa.Table(
    "reviews",
    METADATA,
    _number(),
    Column("case_id", sa.ForeignKey(CASES.c.id), nullable=False),
    *_columns(Review),
    Column("folded_reviewer", Text, nullable=False),
    sa.Index("reviews_by_case", "case_id", "number"),
    sa.Index("reviews_by_reader", "folded_reviewer", "blind", "case_id"),
    sqlite_autoincrement=True,
)
ARRIVALS = sa.Table(
    "arrivals",
    METADATA,
    _number(),
    Column("case_id", sa.ForeignKey(CASES.c.id), nullable=False, unique=True),
    sqlite_autoincrement=True,
)
"""Cases in the order of their arrival in the database: clocks of several machines differ."""

AUDITS = sa.Table(
    "audits",
    METADATA,
    Column("policy_fingerprint", Text, primary_key=True),
    Column("share", sa.Double, nullable=False),
    *(Column(name, Text, nullable=False) for name in ("secret", "since")),
)
"""The share of a policy's cases that is audited, for its life, and the key that draws them."""

PINGS = sa.Table("pings", METADATA, Column("time", Text, primary_key=True))
"""Written to check that the database stores anything."""

SORT_KEYS = {
    "expected_error": (CASES.c.expected_error, CASES.c.id),
    "newest": (CASES.c.id,),
    "listed": (LISTED, CASES.c.id),
}


def conditions(query: CaseQuery) -> ColumnElement[bool]:
    """The conditions as an SQL clause with bound values."""
    clauses: list[tuple[Any, Callable[[Any], ColumnElement[bool]]]] = [
        (query.decisions or None, CASES.c.listed_decision.in_),
        (query.reviewed, partial(is_reviewed, query.reader)),
        (query.predicted_class, lambda name: (CASES.c.predicted_class == name) & ~CASES.c.blind),
        (query.name, _is_named),
        (query.arrived_after, partial(_is_numbered_after, ARRIVALS)),
        (query.reviewed_after, partial(_is_reviewed_after, query.reader)),
    ]
    return sa.and_(True, *(clause(value) for value, clause in clauses if value is not None))


def folded(name: str) -> str:
    """A name for searching: in lower case, and letters with accents as one character."""
    return unicodedata.normalize("NFC", name.casefold())


def _is_named(part: str) -> ColumnElement[bool]:
    matches = CASES.c.folded_name.contains(folded(part), autoescape=True)
    return CASES.c.id.in_(select(CASES.c.id).where(matches))


def is_answered(reader: str) -> ColumnElement[bool]:
    """True for open blind cases that this reader has answered."""
    answered = select(REVIEWS.c.case_id).where(REVIEWS.c.blind)
    if reader != ANY_READER:
        answered = answered.where(REVIEWS.c.folded_reviewer == folded(reader.strip()))
    return sa.and_(CASES.c.blind, CASES.c.id.in_(answered))


def is_reviewed(reader: str, reviewed: bool) -> ColumnElement[bool]:
    """True for cases that are reviewed, or are not; a reader knows of one more than others."""
    settled = CASES.c.reviewed.is_(reviewed)
    if not reader:
        return settled
    answered = is_answered(reader)
    return sa.or_(settled, answered) if reviewed else sa.and_(settled, ~answered)


def _is_reviewed_after(reader: str, number: int) -> ColumnElement[bool]:
    """Blind cases tell nobody else that somebody has answered."""
    return _is_numbered_after(REVIEWS, number) & (~CASES.c.blind | is_answered(reader))


def _is_numbered_after(table: sa.Table, number: int) -> ColumnElement[bool]:
    return CASES.c.id.in_(select(table.c.case_id).where(table.c.number > number))


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


def create_tables(connection: sa.Connection, metadata: sa.MetaData) -> None:
    """Create the tables that do not exist, within the caller's transaction.

    Raises:
        DataError: The tables that exist have other columns.
    """
    inspector = sa.inspect(connection)
    for name in metadata.tables.keys() & inspector.get_table_names():
        columns = {column["name"] for column in inspector.get_columns(name)}
        if columns != set(metadata.tables[name].columns.keys()):
            raise DataError(f"its table {name} has another schema")
    metadata.create_all(connection)


def engine_for(location: str) -> sa.Engine:
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
            return _postgresql(url)
        if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
            return _sqlite(url)
    raise UsageError(NOT_A_STORE)


def _postgresql(url: sa.URL) -> sa.Engine:
    limits = {name: POSTGRESQL_LIMITS[name] for name in POSTGRESQL_LIMITS.keys() - url.query.keys()}
    return _engine(
        url.set(drivername="postgresql+psycopg"),
        {"client_encoding": "utf8", **limits},
        pool_pre_ping=True,  # reconnects after a restart of the database
    )


def _sqlite(url: sa.URL) -> sa.Engine:
    engine = _engine(url, {"timeout": LOCK_SECONDS})
    sa.event.listen(engine, "connect", _configure_sqlite)
    return engine


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
