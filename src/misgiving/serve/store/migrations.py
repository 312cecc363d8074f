"""The database schema: its tables, and the migrations that create them."""

from collections.abc import Sequence

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    func,
    select,
    text,
)

from misgiving.errors import DataError

METADATA = MetaData()

CASES = Table(
    "cases",
    METADATA,
    Column("id", String, primary_key=True),
    Column("received", String),
    Column("name", String),
    Column("predicted_class", String),
    Column("probability", Float),
    Column("probabilities", JSON),
    Column("error_probability", Float),
    Column("expected_loss", Float),
    Column("predicted_loss", Float),
    Column("ood_p_value", Float),
    Column("decision", String),
    Column("reason", String),
    Column("acceptance_score", Float),
    Column("ood_score", Float),
    Column("sha256", String),
    Column("model_fingerprint", String),
    Column("policy_fingerprint", String),
    Column("image_kept", Boolean),
    Column("reviewed", Boolean),
    Column("doubt", Float),
)

REVIEWS = Table(
    "reviews",
    METADATA,
    Column("number", Integer, primary_key=True),
    Column("case_id", String),
    Column("verdict", String),
    Column("final_class", String),
    Column("note", String),
    Column("reviewer", String),
    Column("reviewed_at", String),
)

ARRIVALS = Table(
    "arrivals",
    METADATA,
    Column("number", Integer, primary_key=True),
    Column("case_id", String),
)
"""Cases in the order of their arrival in the database: clocks of several machines differ."""

SCHEMA = Table("misgiving_schema", METADATA, Column("version", Integer, primary_key=True))

Statements = Sequence[str]

NUMBERED = {
    "sqlite": "INTEGER PRIMARY KEY AUTOINCREMENT",
    "postgresql": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
}

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
)


def migrate(
    connection: Connection, place: str, migrations: Sequence[Statements] = MIGRATIONS
) -> None:
    """Bring a database to the newest schema within the caller's transaction.

    Raises:
        DataError: A newer version of misgiving has written it, or its encoding is not UTF-8.
    """
    if connection.dialect.name == "postgresql":
        encoding = connection.scalar(text("SHOW server_encoding"))
        if encoding != "UTF8":
            raise DataError(
                f"{place}: the database has the encoding {encoding}, which cannot hold every file "
                "name; create one with: createdb --encoding UTF8 --template template0 NAME"
            )
        # One process migrates at a time; in SQLite, the transaction ensures that.
        connection.execute(text("SELECT pg_advisory_xact_lock(7264837101)"))
    SCHEMA.create(connection, checkfirst=True)
    found = connection.scalar(select(func.max(SCHEMA.c.version))) or 0
    if found > len(migrations):
        raise DataError(
            f"{place}: the store has schema {found}, and this version knows up to "
            f"{len(migrations)}; upgrade misgiving, or use another store"
        )
    for version in range(found + 1, len(migrations) + 1):
        for statement in migrations[version - 1]:
            connection.execute(text(statement.format(numbered=NUMBERED[connection.dialect.name])))
        connection.execute(SCHEMA.insert().values(version=version))
