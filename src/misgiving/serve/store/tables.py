"""The tables as queries see them; `migrations` makes them."""

from sqlalchemy import JSON, Boolean, Column, Float, Integer, MetaData, String, Table

METADATA = MetaData()

CASES = Table(
    "cases",
    METADATA,
    Column("id", String, primary_key=True),
    Column("received", String),
    Column("name", String),
    Column("predicted_class", String),
    Column("probability", Float),
    Column("probabilities", JSON),
    Column("error_probability", Float),
    Column("expected_loss", Float),
    Column("predicted_loss", Float),
    Column("ood_p_value", Float),
    Column("decision", String),
    Column("reason", String),
    Column("score", Float),
    Column("ood_score", Float),
    Column("sha256", String),
    Column("model_fingerprint", String),
    Column("policy_fingerprint", String),
    Column("image_kept", Boolean),
    Column("reviewed", Boolean),
    Column("doubt", Float),
)

REVIEWS = Table(
    "reviews",
    METADATA,
    Column("number", Integer, primary_key=True),
    Column("case_id", String),
    Column("verdict", String),
    Column("final_class", String),
    Column("note", String),
    Column("reviewer", String),
    Column("reviewed_at", String),
)

ARRIVALS = Table(
    "arrivals",
    METADATA,
    Column("number", Integer, primary_key=True),
    Column("case_id", String),
)
"""Cases in the order in which the database got them: clocks of several machines differ."""

SCHEMA = Table("misgiving_schema", METADATA, Column("version", Integer, primary_key=True))
