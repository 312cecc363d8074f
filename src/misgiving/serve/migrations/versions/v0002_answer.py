"""The answer of a case, where a policy answers superclasses."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    """Add the column, which is empty for earlier cases."""
    op.add_column("cases", sa.Column("answer", sa.Text))
