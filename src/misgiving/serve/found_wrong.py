"""Accepted answers that a reader found wrong: somebody may have acted on them.

The list follows from the reviews, of which none is deleted without its case: no answer leaves it,
no new policy empties it, and only its state changes.
"""

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field
from sqlalchemy import func, insert, select

from misgiving.errors import UsageError
from misgiving.report.rendering import lines
from misgiving.serve.case import (
    ANY_READER,
    CASES,
    CORRECTION_TIME,
    MAX_NOTES,
    OBJECTIONS,
    REVIEWS,
    TOLD,
    Case,
    Moment,
    Review,
    Told,
    folded,
)
from misgiving.serve.problems import ProblemError
from misgiving.serve.reviews import reviews_by_case
from misgiving.serve.store import Store

TELLING_TIME = timedelta(days=1)  # after which an open answer is overdue

State = Literal["open", "contradicted", "withdrawn", "told"]
STATES: tuple[State, ...] = get_args(State)


class Judgement(BaseModel):
    """An accepted answer by its reviews."""

    state: State = Field(
        description="open: tell whoever may have acted on it; contradicted: another reader agrees "
        "with the model; withdrawn: the objection was a slip; told: somebody was told, and no "
        "review has changed the state since."
    )
    since: Moment = Field(description="Time of the first objection.")
    read_as: list[str | None] = Field(description="Classes of the objections; null: none of them.")
    contradicted_by: list[str] = Field(description="Readers who agreed after an objection.")


def judge(reviews: Sequence[Review]) -> Judgement | None:
    """Judge an accepted answer by all its reviews, oldest first; None if nobody objected.

    Two readers who find it wrong keep it open, whoever agrees. The objections are the last word of
    each reader who finds it wrong; where there is none, those that were taken back.
    """
    objections = [review for review in reviews if review.verdict in OBJECTIONS]
    if not objections:
        return None
    words = _without_slips(reviews)
    lasting = [word for word in words if word.verdict in OBJECTIONS]
    last = {folded(word.reviewer.strip()): word for word in words}.values()
    against = [word for word in last if word.verdict in OBJECTIONS]
    agreeing = [word for word in last if word.verdict == "agree"]
    agreeing = [word for word in agreeing if lasting and word.reviewed_at > lasting[0].reviewed_at]
    state: State = "contradicted" if agreeing and len(against) < 2 else "open"
    return Judgement(
        state=state if lasting else "withdrawn",
        since=objections[0].reviewed_at,
        read_as=[word.final_class for word in against or lasting or objections],
        contradicted_by=[word.reviewer for word in agreeing],
    )


def _without_slips(reviews: Sequence[Review]) -> list[Review]:
    """The reviews without those that their own reader corrected at once.

    A blind answer is corrected by another blind one alone: the others follow the model's answer.
    """
    words, following = list[Review](), dict[str, Review]()
    for review in reversed(reviews):
        next_word = following.get(reader := folded(review.reviewer.strip()))
        following[reader] = review
        if next_word is not None:
            is_soon = next_word.reviewed_at - review.reviewed_at <= CORRECTION_TIME
            if next_word.blind if review.blind else is_soon:
                continue
        words.append(review)
    return words[::-1]


class FoundWrong(Case, Judgement):
    """An accepted answer that a reader found wrong."""

    told: list[Told] = Field(description="Oldest first.")


class FoundWrongList(BaseModel):
    """The accepted answers that were found wrong, under every policy."""

    answers: list[FoundWrong] = Field(description="In the order of their states; oldest first.")
    counts: dict[State, int]
    overdue: int = Field(description="Open for more than a day.")
    summary: str = Field(description="The counts in words.")


class FoundWrongRecord:
    """The record of a store; what it has read holds until there is another review or note."""

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, threading.Lock()
        self._key: tuple[int, int | None] | None = None
        self._content: dict[str, dict[str, Any]] = {}  # of `FoundWrong`, beside those of the case

    def answers(self, reader: str = ANY_READER, states: Iterable[State] = STATES) -> FoundWrongList:
        """The answers of these states that are not blind to a reader; the counts are of all."""
        content = self._read()
        cases = self._store.cases([*content], reader)
        answers = [
            FoundWrong(**cases[id].model_dump(), **values)
            for id, values in content.items()
            if id in cases and not cases[id].blind
        ]
        answers.sort(key=lambda answer: (STATES.index(answer.state), answer.since))
        late = datetime.now(UTC) - TELLING_TIME
        wanted = {*states}
        counts = dict.fromkeys(STATES, 0) | Counter(answer.state for answer in answers)
        overdue = sum(answer.state == "open" and answer.since < late for answer in answers)
        return FoundWrongList(
            answers=[answer for answer in answers if answer.state in wanted],
            counts=counts,
            overdue=overdue,
            summary=lines("audits.txt", "found_wrong", counts, overdue)[0],
        )

    def tell(self, id: str, *, told_by: str, note: str, state: State) -> None:
        """Commit that somebody was told of an answer.

        Raises:
            ProblemError: It is not in the list, or not in this state any more.
        """
        with self._store.begin(writing=True) as connection:  # reviewers wait
            last = select(func.max(REVIEWS.c.reviewed_at)).where(REVIEWS.c.case_id == id)
            now = self._read().get(id)
            if now is None or now["state"] != state:
                is_now = f"is {now['state']} now" if now else "was not found wrong"
                detail = f"the answer to case {id} {is_now}; load the list again"
                raise ProblemError(HTTPStatus.CONFLICT, detail)
            if len(now["told"]) >= MAX_NOTES:
                raise UsageError(f"this case has {MAX_NOTES} such notes, which is the most")
            times = datetime.now(UTC), datetime.fromisoformat(connection.scalar(last) or "")
            told = Told(told_by=told_by, told_at=max(times), note=note)
            connection.execute(insert(TOLD).values(case_id=id, **told.model_dump(mode="json")))

    def _read(self) -> dict[str, dict[str, Any]]:
        with self._lock, self._store.begin() as connection:
            key = self._store.latest()[1], connection.scalar(select(func.max(TOLD.c.number)))
            if key == self._key:
                return self._content
            notes = dict[str, list[Told]]()
            for row in connection.execute(select(TOLD).order_by(TOLD.c.number)):
                notes.setdefault(row.case_id, []).append(Told.model_validate(row._asdict()))
            objected = (
                select(REVIEWS.c.case_id)
                .join(CASES, CASES.c.id == REVIEWS.c.case_id)
                .where(CASES.c.decision == "accept", ~CASES.c.shadow)
                .where(REVIEWS.c.verdict.in_(OBJECTIONS))
            )
            reviews = reviews_by_case(connection, REVIEWS.c.case_id.in_(objected))
            self._content = {id: _entry(given, notes.get(id, [])) for id, given in reviews.items()}
            self._key = key
            return self._content


def _entry(reviews: Sequence[Review], notes: Sequence[Told]) -> dict[str, Any]:
    """The judgement of an answer to which somebody objected, and the notes on it."""
    now = judge(reviews)
    assert now is not None  # there is an objection
    if notes:
        before = judge([each for each in reviews if each.reviewed_at <= notes[-1].told_at])
        if before is not None and before.state == now.state:
            now.state = "told"
    return vars(now) | {"told": notes}
