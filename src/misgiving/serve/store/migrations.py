"""The steps by which a database gets its tables; a step that was released is never edited."""

from collections.abc import Sequence

from sqlalchemy import Connection, func, select, text

from misgiving.errors import DataError
from misgiving.serve.store.tables import SCHEMA

Statements = Sequence[str]

NUMBERED = {
    "sqlite": "INTEGER PRIMARY KEY AUTOINCREMENT",
    "postgresql": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
}

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
            ood_p_value DOUBLE PRECISION,
            decision TEXT NOT NULL,
            reason TEXT NOT NULL,
            score DOUBLE PRECISION,
            ood_score DOUBLE PRECISION,
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
)


def migrate(
    connection: Connection, place: str, migrations: Sequence[Statements] = MIGRATIONS
) -> None:
    """Bring a database to the newest schema, step by step, within the caller's transaction.

    Raises:
        DataError: A newer version of misgiving has written it, or it cannot hold every letter.
    """
    _refuse_few_letters(connection, place)
    _wait_for_others(connection)
    SCHEMA.create(connection, checkfirst=True)
    found = connection.scalar(select(func.max(SCHEMA.c.version))) or 0
    if found > len(migrations):
        raise DataError(
            f"{place}: the store has schema {found}, and this version knows up to "
            f"{len(migrations)}; upgrade misgiving, or name another store"
        )
    for version in range(found + 1, len(migrations) + 1):
        for statement in migrations[version - 1]:
            connection.execute(text(statement.format(numbered=NUMBERED[connection.dialect.name])))
        connection.execute(SCHEMA.insert().values(version=version))


def _refuse_few_letters(connection: Connection, place: str) -> None:
    """Refuse what some names of files could not be written into; SQLite holds all letters."""
    if connection.dialect.name != "postgresql":
        return
    encoding = connection.scalar(text("SHOW server_encoding"))
    if encoding != "UTF8":
        raise DataError(
            f"{place}: the database has the encoding {encoding}, which some names of files cannot "
            "be written in; make one with: createdb --encoding UTF8 --template template0 NAME"
        )


def _wait_for_others(connection: Connection) -> None:
    """One process migrates at a time; in SQLite the transaction itself sees to that."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(7264837101)"))
