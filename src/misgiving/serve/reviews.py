"""Reviews within a transaction: blind answers that can be corrected, and what settles a case."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, func, insert, select

from misgiving.serve import case as cases
from misgiving.serve.case import (
    ANY_READER,
    CASES,
    PENDING,
    REVIEWS,
    Case,
    Review,
    folded,
    standing,
    zulu,
)


def add_reviews(connection: Connection, id: str, reviews: Sequence[Review]) -> None:
    """Add reviews of a case, at later times than its last one.

    That may have come from a server whose clock is ahead: the page knows the newer one of two by
    its time.
    """
    last = last_reviews(connection, [id]).get(id)
    for review in reviews:
        if last and last.reviewed_at >= review.reviewed_at:
            later = last.reviewed_at + timedelta(microseconds=1)
            review = review.model_copy(update={"reviewed_at": later})
        connection.execute(insert(REVIEWS).values(_row(id, review)))
        last = review
    _settle(connection, id)


def add_answer(connection: Connection, id: str, answer: Review) -> None:
    """Add a blind answer, which its reader can correct for a time."""
    settles_at = zulu(datetime.now(UTC) + cases.CORRECTION_TIME)
    values = _row(id, answer.model_copy(update={"blind": True}))
    connection.execute(insert(PENDING).values(values | {"settles_at": settles_at}))


def due_cases(connection: Connection, reader: str = "", opened: str = "") -> list[str]:
    """Cases with a blind answer whose time is over; so are those of a reader to other cases."""
    name = "" if reader == ANY_READER else folded(reader.strip())
    is_own = (PENDING.c.folded_reviewer == name) & (PENDING.c.case_id != opened)
    is_over = func.max(PENDING.c.settles_at) <= zulu(datetime.now(UTC))
    answers = select(PENDING.c.case_id).group_by(PENDING.c.case_id, PENDING.c.folded_reviewer)
    due = answers.having(sa.or_(is_over, is_own) if name else is_over)
    return [*dict.fromkeys(connection.execute(due).scalars())]


def settle_answers(connection: Connection, reader: str = "", *, opened: str = "") -> None:
    """Make reviews of all answers to the cases with one whose time is over.

    Else the other readers of such a case could correct theirs after its decision appears.
    """
    for id in due_cases(connection, reader, opened):
        own = PENDING.c.case_id == id
        rows = connection.execute(select(PENDING).where(own).order_by(PENDING.c.number))
        add_reviews(connection, id, [Review.model_validate(row._asdict()) for row in rows])
        connection.execute(sa.delete(PENDING).where(own))


def last_reviews(connection: Connection, ids: Sequence[str]) -> dict[str, Review]:
    """The last review of each case that has any."""
    numbers = select(func.max(REVIEWS.c.number)).where(REVIEWS.c.case_id.in_(ids))
    last = select(REVIEWS).where(REVIEWS.c.number.in_(numbers.group_by(REVIEWS.c.case_id)))
    rows = connection.execute(last) if ids else ()
    return {row.case_id: Review.model_validate(row._asdict()) for row in rows}


def is_answered(reader: str) -> ColumnElement[bool]:
    """True for open blind cases that this reader has answered."""
    answered = select(REVIEWS.c.case_id).where(REVIEWS.c.blind)
    if reader != ANY_READER:
        answered = answered.where(REVIEWS.c.folded_reviewer == folded(reader.strip()))
    return sa.and_(CASES.c.blind, CASES.c.id.in_(answered))


def _row(id: str, review: Review) -> dict[str, Any]:
    values = {"case_id": id, **review.model_dump(mode="json")}
    return values | {"folded_reviewer": folded(review.reviewer.strip())}


def _settle(connection: Connection, id: str) -> None:
    """Mark a case as reviewed; a blind one only when the answers of its readers settle it."""
    values = dict[str, Any](reviewed=True)
    row = connection.execute(select(CASES).where(CASES.c.id == id)).one()
    if row.blind:
        answers = connection.execute(select(REVIEWS).where(REVIEWS.c.case_id == id))
        if standing([Review.model_validate(row._asdict()) for row in answers]) == "unconfirmed":
            return
        case = Case.model_validate(row._asdict() | {"blind": False})
        visible = ("blind", "listed_decision", "expected_error")
        values |= {name: getattr(case, name) for name in visible}
    connection.execute(sa.update(CASES).where(CASES.c.id == id).values(values))
