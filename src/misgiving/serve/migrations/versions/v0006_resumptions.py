"""Alarms of audits that were lifted."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column, Text

revision, down_revision = "0006", "0005"


def upgrade() -> None:
    """Create the table."""
    integer = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    policy = sa.ForeignKey("audits.policy_fingerprint")
    op.create_table(
        "resumptions",
        Column("number", integer, sa.Identity(always=True), primary_key=True),
        Column("policy_fingerprint", Text, policy, nullable=False),
        *(Column(name, Text, nullable=False) for name in ("reason", "resumed_at")),
        sqlite_autoincrement=True,
    )
