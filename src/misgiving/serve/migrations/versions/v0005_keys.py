"""Keys with their roles, sessions of the page, and whose key sent a case."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column, Text

revision, down_revision = "0005", "0004"


def upgrade() -> None:
    """Create the tables, and add the column, which is empty for earlier cases."""
    integer = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "keys",
        Column("number", integer, sa.Identity(always=True), primary_key=True),
        *(Column(name, Text, nullable=False) for name in ("name", "role", "made_at")),
        Column("hash", Text, nullable=False, unique=True),
        Column("revoked_at", Text),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "sessions",
        Column("hash", Text, primary_key=True),
        Column("key_number", integer, sa.ForeignKey("keys.number"), nullable=False),
        Column("used_at", Text, nullable=False),
    )
    op.add_column("cases", Column("sent_by", Text))
