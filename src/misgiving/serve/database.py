"""The database: engines for SQLite and PostgreSQL, its tables, and their migrations."""

import importlib.util
import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    URL,
    Boolean,
    Column,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    create_engine,
    event,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import ArgumentError

from misgiving.errors import DataError, UsageError
from misgiving.serve.schemas import Case, Review

CONNECTIONS = 48  # more than FastAPI has threads, so that none waits for a connection
WRITES = "misgiving_writes"
ROWS, OTHERS = "rows", "others"  # what a transaction writes: only numbered rows need a turn
PATIENCE = 30.0  # seconds
SECRETS = ("password", "sslpassword")  # that libpq also takes after the question mark of a URL
BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

TYPES = {"probabilities": JSON, "image_kept": Boolean, "reviewed": Boolean}  # others as given
NOT_STORED = {"review"}  # with the case: reviews have a table of their own
METADATA = MetaData()

CASES = Table(
    "cases",
    METADATA,
    *(Column(name, TYPES.get(name)) for name in Case.model_fields if name not in NOT_STORED),
    Column("doubt"),
)
REVIEWS = Table(
    "reviews", METADATA, Column("number"), Column("case_id"), *map(Column, Review.model_fields)
)
ARRIVALS = Table("arrivals", METADATA, Column("number"), Column("case_id"))
"""Cases in the order of their arrival in the database: clocks of several machines differ."""

STATES = Table("states", METADATA, Column("name"), Column("value", LargeBinary))
"""Values that the service keeps beside the cases, such as the state of the drift tests."""

SCHEMA = Table("misgiving_schema", METADATA, Column("version", Integer, primary_key=True))

Statements = Sequence[str]

TYPE_NAMES = {
    "sqlite": {"numbered": "INTEGER PRIMARY KEY AUTOINCREMENT", "bytes": "BLOB"},
    "postgresql": {
        "numbered": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "bytes": "BYTEA",
    },
}

TURN = 7264837101  # PostgreSQL's number of the lock of the process that writes

# A released migration is never edited.
MIGRATIONS: tuple[Statements, ...] = (
    (
        """CREATE TABLE cases (
            id TEXT PRIMARY KEY,
            received TEXT NOT NULL,
            name TEXT NOT NULL,
            predicted_class TEXT NOT NULL,
            probability DOUBLE PRECISION,
            probabilities JSON NOT NULL,
            error_probability DOUBLE PRECISION,
            expected_loss DOUBLE PRECISION,
            predicted_loss DOUBLE PRECISION,
            foreign_p_value DOUBLE PRECISION,
            decision TEXT NOT NULL,
            reason TEXT NOT NULL,
            score DOUBLE PRECISION,
            foreign_score DOUBLE PRECISION,
            sha256 TEXT NOT NULL,
            model_fingerprint TEXT NOT NULL,
            policy_fingerprint TEXT,
            image_kept BOOLEAN NOT NULL,
            reviewed BOOLEAN NOT NULL,
            doubt DOUBLE PRECISION NOT NULL
        )""",
        "CREATE INDEX cases_by_doubt ON cases (doubt, id)",
    ),
    (
        """CREATE TABLE reviews (
            number {numbered},
            case_id TEXT NOT NULL REFERENCES cases (id),
            verdict TEXT NOT NULL,
            final_class TEXT NOT NULL,
            note TEXT NOT NULL,
            reviewer TEXT NOT NULL,
            reviewed_at TEXT NOT NULL
        )""",
        "CREATE INDEX reviews_by_case ON reviews (case_id, number)",
    ),
    (
        """CREATE TABLE arrivals (
            number {numbered},
            case_id TEXT NOT NULL UNIQUE REFERENCES cases (id) ON DELETE CASCADE
        )""",
        "INSERT INTO arrivals (case_id) SELECT id FROM cases ORDER BY id",
    ),
    (
        "CREATE INDEX cases_by_decision ON cases (decision, reviewed)",
        "CREATE INDEX reviews_by_time ON reviews (reviewed_at)",
    ),
    (
        "ALTER TABLE cases RENAME COLUMN foreign_p_value TO ood_p_value",
        "ALTER TABLE cases RENAME COLUMN foreign_score TO ood_score",
        "ALTER TABLE cases RENAME COLUMN score TO acceptance_score",
        "UPDATE cases SET decision = 'ood' WHERE decision = 'foreign'",
    ),
    (
        "ALTER TABLE cases ADD COLUMN place INTEGER",
        "ALTER TABLE cases ADD COLUMN remark TEXT",
    ),
    (  # reviews that name no class
        "ALTER TABLE reviews RENAME COLUMN final_class TO required_class",
        "ALTER TABLE reviews ADD COLUMN final_class TEXT",
        "UPDATE reviews SET final_class = required_class",
        "ALTER TABLE reviews DROP COLUMN required_class",
        "CREATE INDEX cases_by_file ON cases (sha256)",
    ),
    ("CREATE TABLE states (name TEXT PRIMARY KEY, value {bytes} NOT NULL)",),
    ("CREATE INDEX cases_by_class ON cases (predicted_class, doubt, id, decision, reviewed)",),
)


def migrate(
    connection: Connection, location: str, migrations: Sequence[Statements] = MIGRATIONS
) -> None:
    """Bring a database to the newest schema within the caller's transaction.

    Raises:
        DataError: A newer version of misgiving has written it, or its encoding is not UTF-8.
    """
    if connection.dialect.name == "postgresql":
        encoding = connection.scalar(text("SHOW server_encoding"))
        if encoding != "UTF8":
            raise DataError(
                f"{location}: the database has the encoding {encoding}, which cannot store every "
                "file name; create one with: createdb --encoding UTF8 --template template0 NAME"
            )
        from misgiving.serve.postgresql import unlimited

        with unlimited(connection):
            # One process migrates or writes at a time; in SQLite, the transaction ensures that.
            _take_turn(connection)
            _migrate(connection, location, migrations)
    else:
        _migrate(connection, location, migrations)


def _migrate(connection: Connection, location: str, migrations: Sequence[Statements]) -> None:
    SCHEMA.create(connection, checkfirst=True)
    found = connection.scalar(select(func.max(SCHEMA.c.version))) or 0
    if found > len(migrations):
        raise DataError(
            f"{location}: the store has schema {found}, and this version knows up to "
            f"{len(migrations)}; upgrade misgiving, or use another store"
        )
    for version in range(found + 1, len(migrations) + 1):
        for statement in migrations[version - 1]:
            connection.execute(text(statement.format(**TYPE_NAMES[connection.dialect.name])))
        connection.execute(SCHEMA.insert().values(version=version))


def engine_for(location: str) -> Engine:
    """Create an engine for a database URL or the path of an SQLite file.

    Raises:
        UsageError: The URL is not supported, or its driver is not installed.
    """
    url = _url(location)
    if url.get_backend_name() == "sqlite":
        return _sqlite(url)
    if url.get_backend_name() != "postgresql":
        raise UsageError(
            f"{shown(location)}: unknown kind of store; give the path of an SQLite file, "
            "sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        )
    if importlib.util.find_spec("psycopg") is None:
        raise UsageError("psycopg is not installed; run: pip install 'misgiving[postgresql]'")
    from misgiving.serve.postgresql import postgresql_engine

    with _malformed_refused():
        engine = postgresql_engine(url, CONNECTIONS)
    event.listen(engine, "begin", _wait_for_turn)
    return engine


def shown(location: str) -> str:
    """The location without its password."""
    url = _url(location).difference_update_query(SECRETS)
    return url.render_as_string(hide_password=True)


def _url(location: str) -> URL:
    if "://" not in location:
        return URL.create("sqlite", database=location)
    with _malformed_refused():
        return make_url(location)


@contextmanager
def _malformed_refused() -> Iterator[None]:
    """Refuse a URL without any part of it: a port may be half a password with a special letter."""
    try:
        yield
    except (ArgumentError, ValueError, TypeError, ImportError):  # the last: of another driver
        raise UsageError(
            "the store's URL is malformed; give sqlite:///FILE or postgresql://USER@HOST/DATABASE, "
            "with special characters of a password as in %40 for @"
        ) from None


def _wait_for_turn(connection: Connection) -> None:
    """Let one process write at a time, as SQLite does: numbers are then committed in order."""
    if connection.get_execution_options().get(WRITES) == ROWS:
        _take_turn(connection)


def _take_turn(connection: Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({TURN})")


def _sqlite(url: URL) -> Engine:
    if url.database in (None, "", ":memory:"):
        raise UsageError("a store in memory loses its cases; give a file")
    folder = Path(str(url.database)).absolute().parent
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder for the store; create it first")
    settings = {"hide_parameters": True, "pool_size": CONNECTIONS}
    with _malformed_refused():
        engine = create_engine(url, connect_args={"timeout": PATIENCE}, **settings)
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def _lower(text: str | None) -> str | None:
    return text and text.lower()


def _configure(connection: sqlite3.Connection, _: Any) -> None:
    """Allow readers beside a writer, and make commits survive a loss of power."""
    connection.isolation_level = None  # SQLAlchemy begins the transactions
    connection.create_function("lower", 1, _lower, deterministic=True)  # its own knows only a to z
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
