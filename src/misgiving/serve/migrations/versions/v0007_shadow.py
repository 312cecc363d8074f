"""Cases that were decided in shadow."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0007", "0006"


def upgrade() -> None:
    """Add the columns; no earlier case was decided in shadow."""
    for table in ("cases", "deleted_cases"):
        column = sa.Column("shadow", sa.Boolean, nullable=False, server_default=sa.false())
        op.add_column(table, column)
