"""Blind cases come before all others."""

from alembic import op

revision, down_revision = "0010", "0009"


def upgrade() -> None:
    """Move the open ones there, as `Case.expected_error` says."""
    moved = "UPDATE cases SET expected_error = 3 + position"
    op.execute(f"{moved} WHERE blind AND position IS NOT NULL")
