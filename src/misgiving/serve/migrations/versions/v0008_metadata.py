"""Metadata of an image from its sender, and an index of groups."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0008", "0007"


def upgrade() -> None:
    """Add the column and the index."""
    op.add_column("cases", sa.Column("metadata", sa.JSON))
    op.create_index("cases_by_group", "cases", ["group", "id"])
