"""The tables of the first stores."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Boolean, Column, Double, Integer, Text

revision, down_revision = "0001", None


def upgrade() -> None:
    """Create all tables."""
    op.create_table(
        "cases",
        Column("id", Text, primary_key=True),
        *_columns(Text, "received name predicted_class decision reason sha256 model_fingerprint"),
        *_columns(Text, "folded_name listed_decision"),
        *_columns(Text, "group policy_fingerprint remark", nullable=True),
        *_columns(Double, "expected_error"),
        *_columns(Double, "probability predicted_loss error_probability", nullable=True),
        *_columns(Double, "expected_loss ood_p_value acceptance_score", nullable=True),
        *_columns(Double, "ood_score position", nullable=True),
        *_columns(Boolean, "image_kept reviewed audited blind"),
        Column("place", Integer),
        Column("probabilities", sa.JSON, nullable=False),
    )
    seen = ("listed_decision", "reviewed", "blind")
    for name, *columns in (
        ("cases_by_expected_error", "expected_error", "id"),
        ("cases_by_decision", *seen, "id"),
        ("cases_by_class", "predicted_class", "expected_error", "id", *seen),
        ("cases_by_audit", "policy_fingerprint", "audited", "listed_decision", "received"),
        ("cases_by_name", "folded_name", "id"),
        ("ix_cases_sha256", "sha256"),
    ):
        op.create_index(name, "cases", columns)
    place: sa.ColumnElement[int] = sa.func.coalesce(
        sa.column("place"), sa.literal_column("2147483647")
    )
    op.create_index("cases_by_place", "cases", [-place, "id"])
    op.create_table(
        "reviews",
        _number(),
        Column("case_id", Text, sa.ForeignKey("cases.id"), nullable=False),
        *_columns(Text, "verdict note reviewer reviewed_at folded_reviewer"),
        *_columns(Text, "final_class override_reason", nullable=True),
        *_columns(Boolean, "blind"),
        sqlite_autoincrement=True,
    )
    op.create_index("reviews_by_case", "reviews", ["case_id", "number"])
    op.create_index("reviews_by_reader", "reviews", ["folded_reviewer", "blind", "case_id"])
    op.create_table(
        "arrivals",
        _number(),
        Column("case_id", Text, sa.ForeignKey("cases.id"), nullable=False, unique=True),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "audits",
        Column("policy_fingerprint", Text, primary_key=True),
        *_columns(Text, "secret since"),
        *_columns(Double, "share"),
    )
    op.create_table("pings", Column("time", Text, primary_key=True))


def _columns(kind: type, names: str, *, nullable: bool = False) -> list[Column[object]]:
    return [Column(name, kind, nullable=nullable) for name in names.split()]


def _number() -> Column[int]:
    integer = sa.BigInteger().with_variant(Integer, "sqlite")
    return Column("number", integer, sa.Identity(always=True), primary_key=True)
