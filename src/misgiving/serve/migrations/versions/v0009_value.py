"""The value of a case, where each value of a column has a threshold."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0009", "0008"


def upgrade() -> None:
    """Add the column, which is empty for earlier cases."""
    op.add_column("cases", sa.Column("value", sa.Text))
