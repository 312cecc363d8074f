"""Tables of cases, reviews and audits, and conditions of queries on them."""

import unicodedata
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, get_origin

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy import Column, ColumnElement, Text, func, select

from misgiving.errors import without_none
from misgiving.serve.records import ANY_READER, Case, CaseQuery, Review

LAST_PLACE = 2**31 - 1  # of a case that is in no list
METADATA = sa.MetaData()


def _number() -> Column[int]:
    integer = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    return Column("number", integer, sa.Identity(always=True), primary_key=True)


def _columns(model: type[BaseModel]) -> Iterator[Column[Any]]:
    """A column for each field that is no record of another table."""
    types = {bool: sa.Boolean, int: sa.Integer, float: sa.Double, dict: sa.JSON}
    for name, field in model.model_fields.items():
        kind = without_none(field.annotation)
        if kind is not Review:
            column = types.get(get_origin(kind) or kind, Text)
            optional = kind is not field.annotation
            yield Column(name, column, nullable=optional, primary_key=name == "id")


CASES = sa.Table(
    "cases",
    METADATA,
    *_columns(Case),
    Column("expected_error", sa.Double, nullable=False),
    Column("folded_name", Text, nullable=False),
    Column("listed_decision", Text, nullable=False),
    sa.Index("cases_by_expected_error", "expected_error", "id"),
    sa.Index("cases_by_decision", "listed_decision", "reviewed", "blind", "id"),
    sa.Index(
        "cases_by_class",
        *("predicted_class", "expected_error", "id", "listed_decision", "reviewed", "blind"),
    ),
    sa.Index("cases_by_audit", "policy_fingerprint", "audited", "listed_decision", "received"),
    sa.Index("cases_by_name", "folded_name", "id"),  # has all that a search reads
    sa.Index("ix_cases_sha256", "sha256"),
)
REVIEWS = sa.Table(
    "reviews",
    METADATA,
    _number(),
    Column("case_id", sa.ForeignKey(CASES.c.id), nullable=False),
    *_columns(Review),
    Column("folded_reviewer", Text, nullable=False),
    sa.Index("reviews_by_case", "case_id", "number"),
    sa.Index("reviews_by_reader", "folded_reviewer", "blind", "case_id"),
    sqlite_autoincrement=True,
)
ARRIVALS = sa.Table(
    "arrivals",
    METADATA,
    _number(),
    Column("case_id", sa.ForeignKey(CASES.c.id), nullable=False, unique=True),
    sqlite_autoincrement=True,
)
"""Cases in the order of their arrival in the database: clocks of several machines differ."""

AUDITS = sa.Table(
    "audits",
    METADATA,
    Column("policy_fingerprint", Text, primary_key=True),
    Column("share", sa.Double, nullable=False),
    *(Column(name, Text, nullable=False) for name in ("secret", "since")),
)
"""The share of a policy's cases that is audited, for its life, and the key that draws them."""

PINGS = sa.Table("pings", METADATA, Column("time", Text, primary_key=True))
"""Written to check that the database stores anything."""

SORT_KEYS = {
    "expected_error": (CASES.c.expected_error, CASES.c.id),
    "newest": (CASES.c.id,),
    "listed": (-func.coalesce(CASES.c.place, LAST_PLACE), CASES.c.id),
}


def conditions(query: CaseQuery) -> ColumnElement[bool]:
    """The conditions as an SQL clause with bound values."""
    clauses: list[tuple[Any, Callable[[Any], ColumnElement[bool]]]] = [
        (query.decisions or None, CASES.c.listed_decision.in_),
        (query.reviewed, partial(is_reviewed, query.reader)),
        (query.predicted_class, lambda name: (CASES.c.predicted_class == name) & ~CASES.c.blind),
        (query.name, _is_named),
        (query.arrived_after, partial(_is_numbered_after, ARRIVALS)),
        (query.reviewed_after, partial(_is_reviewed_after, query.reader)),
    ]
    return sa.and_(True, *(clause(value) for value, clause in clauses if value is not None))


def folded(name: str) -> str:
    """A name for searching: in lower case, and letters with accents as one character."""
    return unicodedata.normalize("NFC", name.casefold())


def _is_named(part: str) -> ColumnElement[bool]:
    matches = CASES.c.folded_name.contains(folded(part), autoescape=True)
    return CASES.c.id.in_(select(CASES.c.id).where(matches))


def is_answered(reader: str) -> ColumnElement[bool]:
    """True for open blind cases that this reader has answered."""
    answered = select(REVIEWS.c.case_id).where(REVIEWS.c.blind)
    if reader != ANY_READER:
        answered = answered.where(REVIEWS.c.folded_reviewer == folded(reader.strip()))
    return sa.and_(CASES.c.blind, CASES.c.id.in_(answered))


def is_reviewed(reader: str, reviewed: bool) -> ColumnElement[bool]:
    """True for cases that are reviewed, or are not; a reader knows of one more than others."""
    settled = CASES.c.reviewed.is_(reviewed)
    if not reader:
        return settled
    answered = is_answered(reader)
    return sa.or_(settled, answered) if reviewed else sa.and_(settled, ~answered)


def _is_reviewed_after(reader: str, number: int) -> ColumnElement[bool]:
    """Blind cases tell nobody else that somebody has answered."""
    return _is_numbered_after(REVIEWS, number) & (~CASES.c.blind | is_answered(reader))


def _is_numbered_after(table: sa.Table, number: int) -> ColumnElement[bool]:
    return CASES.c.id.in_(select(table.c.case_id).where(table.c.number > number))
