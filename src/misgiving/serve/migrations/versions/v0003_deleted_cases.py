"""Facts of deleted cases that audits and drift tests keep."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Boolean, Column, Double, Text

revision, down_revision = "0003", "0002"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "deleted_cases",
        Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        *(Column(name, Text, nullable=False) for name in ("policy_fingerprint", "received")),
        *(Column(name, Text) for name in ("group", "standing", "answered")),
        Column("decision", Text, nullable=False),
        *(Column(name, Boolean, nullable=False) for name in ("audited", "tested")),
        *(Column(name, Double) for name in ("acceptance_score", "ood_score")),
    )
