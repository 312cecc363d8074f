"""The pixels of an image, by which a new file is a copy, and its number in its group."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0011", "0010"

EARLIER = (
    "SELECT 1 FROM cases AS earlier WHERE earlier.sha256 = cases.sha256 AND earlier.place IS NULL "
    "AND earlier.policy_fingerprint = cases.policy_fingerprint AND earlier.id < cases.id"
)


def upgrade() -> None:
    """Add the columns; an earlier case has the hash of its file, and begins no count of a group."""
    op.add_column("cases", sa.Column("pixels", sa.Text, nullable=False, server_default=""))
    is_copy = sa.Column("is_copy", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("cases", is_copy)
    op.add_column("cases", sa.Column("repeat", sa.Integer))
    op.execute("UPDATE cases SET pixels = sha256")
    op.execute(f"UPDATE cases SET is_copy = true WHERE place IS NULL AND EXISTS ({EARLIER})")
    op.create_index("cases_by_pixels", "cases", ["pixels", "is_copy"])
    op.create_index("cases_by_repeat", "cases", ["policy_fingerprint", "repeat", "group"])
