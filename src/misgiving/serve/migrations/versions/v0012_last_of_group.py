"""An index for the last case of a group, by its number and not by its id."""

from alembic import op

revision, down_revision = "0012", "0011"


def upgrade() -> None:
    """Make the index of groups anew."""
    op.drop_index("cases_by_group", "cases")
    columns = ["group", "policy_fingerprint", "shadow", "repeat"]
    op.create_index("cases_by_group", "cases", columns)
