"""Reviews within a transaction: blind answers that can be corrected, and what settles a case."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, func, insert, select

from misgiving.errors import UsageError
from misgiving.serve import case as cases
from misgiving.serve.case import (
    ANY_READER,
    AUDITS,
    CASES,
    PENDING,
    REVIEWS,
    TOLD,
    Case,
    Review,
    blind_answers,
    folded,
    standing,
    uniform,
    without_withdrawn,
    zulu,
)

MAX_FIRST_ANSWERS = 1000  # the latest, by which the rates of disputes are estimated
PRIOR_ANSWERS = 10  # at the overall rate, for a class with few
OTHERS_PER_DISPUTE = 1.0  # agreed cases that are read a second time


def reviews_by_case(
    connection: Connection, condition: ColumnElement[bool], table: sa.Table = REVIEWS
) -> dict[str, list[Review]]:
    """The reviews of a table that meet a condition, oldest first."""
    reviews = dict[str, list[Review]]()
    for row in connection.execute(select(table).where(condition).order_by(table.c.number)):
        reviews.setdefault(row.case_id, []).append(Review.model_validate(row._asdict()))
    return reviews


def add_reviews(connection: Connection, id: str, reviews: Sequence[Review]) -> None:
    """Add reviews of a case, at later times than its last one, and than the last note of it.

    That may have come from a server whose clock is ahead: the page knows the newer one of two by
    its time. A note knows nothing of a blind answer that counts only now.
    """
    last = last_reviews(connection, [id]).get(id)
    told_at = connection.scalar(select(func.max(TOLD.c.told_at)).where(TOLD.c.case_id == id))
    before = [last.reviewed_at] if last else []
    before += [datetime.fromisoformat(told_at)] if told_at else []
    for review in reviews:
        if before and max(before) >= review.reviewed_at:
            later = max(before) + timedelta(microseconds=1)
            review = review.model_copy(update={"reviewed_at": later})
        connection.execute(insert(REVIEWS).values(_row(id, review)))
        before = [review.reviewed_at]
    _settle(connection, id, reviews)


def check_count(connection: Connection, id: str, reader: str) -> None:
    """Raise UsageError if a reader can add no more reviews to a case."""
    own = [
        select(func.count()).where(x.c.case_id == id, x.c.folded_reviewer == folded(reader.strip()))
        for x in (REVIEWS, PENDING)
    ]
    if sum(connection.scalar(count) or 0 for count in own) >= cases.MAX_NOTES:
        raise UsageError(f"you have reviewed this case {cases.MAX_NOTES} times, which is the most")


def withdraw(connection: Connection, id: str, withdrawal: Review) -> bool:
    """Take back the last review of a case, if it is the reviewer's own and not blind.

    The class is again the one before. Both stay in the history, and an objection in the record of
    answers found wrong.
    """
    given = reviews_by_case(connection, REVIEWS.c.case_id == id)
    lasting = without_withdrawn(given.get(id, []))
    own = folded(withdrawal.reviewer.strip())
    if not lasting or lasting[-1].blind or folded(lasting[-1].reviewer.strip()) != own:
        return False
    before = lasting[-2].final_class if len(lasting) > 1 else None
    add_reviews(connection, id, [withdrawal.model_copy(update={"final_class": before})])
    settled = sa.update(CASES).where(CASES.c.id == id, ~CASES.c.blind)
    connection.execute(settled.values(reviewed=len(lasting) > 1))
    return True


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
        add_reviews(connection, id, reviews_by_case(connection, own, PENDING)[id])
        connection.execute(sa.delete(PENDING).where(own))


def last_reviews(connection: Connection, ids: Sequence[str]) -> dict[str, Review]:
    """The last review of each case that has any."""
    numbers = select(func.max(REVIEWS.c.number)).where(REVIEWS.c.case_id.in_(ids))
    is_last = REVIEWS.c.number.in_(numbers.group_by(REVIEWS.c.case_id))
    last = reviews_by_case(connection, is_last) if ids else {}
    return {id: review for id, (review,) in last.items()}


def is_answered(reader: str) -> ColumnElement[bool]:
    """True for open blind cases that this reader has answered."""
    answered = select(REVIEWS.c.case_id).where(REVIEWS.c.blind)
    if reader != ANY_READER:
        answered = answered.where(REVIEWS.c.folded_reviewer == folded(reader.strip()))
    return sa.and_(CASES.c.blind, CASES.c.id.in_(answered))


def is_read_by(reader: str) -> ColumnElement[bool]:
    """True for cases of which this reader has given an answer, also one that can be corrected."""
    name = "" if reader == ANY_READER else folded(reader.strip())
    own = (select(x.c.case_id).where(x.c.folded_reviewer == name) for x in (REVIEWS, PENDING))
    return CASES.c.id.in_(sa.union(*own))


def is_read_twice(connection: Connection, row: Any) -> bool:
    """Draw whether a case on which the first reader agrees is read again, as disputed ones are.

    There are as many of them as disputed ones, and every decision and class has the same share of
    second readings: to be asked for one tells nothing of the model's answer, and of a dispute no
    more than a coin.
    """
    own = AUDITS.c.policy_fingerprint == row.policy_fingerprint
    secret = connection.scalar(select(AUDITS.c.secret).where(own))
    if secret is None:
        return False
    columns = REVIEWS.c.case_id, CASES.c.decision, CASES.c.predicted_class, REVIEWS.c.verdict
    latest = select(*columns).join(CASES, CASES.c.id == REVIEWS.c.case_id).where(REVIEWS.c.blind)
    latest = latest.order_by(REVIEWS.c.number.desc()).limit(MAX_FIRST_ANSWERS)
    first = {case: (kind, verdict) for case, *kind, verdict in connection.execute(latest)}
    disputed = dict[tuple[bool, str], list[bool]]()
    for (decision, name), verdict in first.values():
        disputed.setdefault((decision == "accept", name), []).append(verdict != "agree")
    every = [each for group in disputed.values() for each in group]
    overall = (sum(every) + 1) / (len(every) + 1)  # at first, all are read twice
    rates = {
        kind: (sum(group) + PRIOR_ANSWERS * overall) / (len(group) + PRIOR_ANSWERS)
        for kind, group in disputed.items()
    }
    asked = min(1.0, max((1 + OTHERS_PER_DISPUTE) * overall, *rates.values()))
    rate = rates[row.decision == "accept", row.predicted_class]
    return uniform(secret, f"second {row.id}") < (asked - rate) / (1 - rate)


def _row(id: str, review: Review) -> dict[str, Any]:
    values = {"case_id": id, **review.model_dump(mode="json")}
    return values | {"folded_reviewer": folded(review.reviewer.strip())}


def _settle(connection: Connection, id: str, reviews: Sequence[Review]) -> None:
    """Mark a case as reviewed; a blind one only when the answers of its readers settle it."""
    values = dict[str, Any](reviewed=True)
    row = connection.execute(select(CASES).where(CASES.c.id == id)).one()
    if row.blind:
        answers = blind_answers(reviews_by_case(connection, REVIEWS.c.case_id == id)[id])
        is_settled = any(each.blind for each in reviews) and standing(answers) != "unconfirmed"
        if not is_settled or (len(answers) == 1 and is_read_twice(connection, row)):
            return
        case = Case.model_validate(row._asdict() | {"blind": False})
        visible = ("blind", "listed_decision", "expected_error")
        values |= {name: getattr(case, name) for name in visible}
    connection.execute(sa.update(CASES).where(CASES.c.id == id).values(values))
