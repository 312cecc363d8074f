"""Answers that can still be corrected, notes on those found wrong, and what audits count."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Boolean, Column, Double, Text

revision, down_revision = "0004", "0003"


def upgrade() -> None:
    """Create the tables, and add the columns, which are empty for earlier rows."""
    texts = ("verdict", "note", "reviewer", "reviewed_at", "folded_reviewer", "settles_at")
    op.create_table(
        "pending_answers",
        *_keys(),
        *(Column(name, Text, nullable=False) for name in texts),
        *(Column(name, Text) for name in ("final_class", "override_reason")),
        Column("blind", Boolean, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "told",
        *_keys(),
        *(Column(name, Text, nullable=False) for name in ("told_by", "told_at", "note")),
        sqlite_autoincrement=True,
    )
    op.create_index("told_by_case", "told", ["case_id", "number"])
    op.add_column("cases", Column("expected_cost", Double))
    op.add_column("audits", Column("target", Double))
    op.add_column("audits", Column("among", Text))


def _keys() -> tuple[Column[int], Column[str]]:
    integer = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    return (
        Column("number", integer, sa.Identity(always=True), primary_key=True),
        Column("case_id", Text, sa.ForeignKey("cases.id"), nullable=False),
    )
