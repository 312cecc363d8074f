"""Cases, reviews and their store in SQLite or PostgreSQL; a method that writes has committed."""

import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime
from typing import Any, get_args

import sqlalchemy as sa
from sqlalchemy import Connection, Select, func, insert, select
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from misgiving.deferral.decisions import Outcome
from misgiving.errors import DataError, Parameter, UsageError
from misgiving.serve.case import (
    ANY_READER,
    ARRIVALS,
    AUDITS,
    CASES,
    DELETED,
    LISTED,
    PENDING,
    REVIEWS,
    STORE_TABLES,
    Case,
    CaseQuery,
    Review,
    folded,
    zulu,
)
from misgiving.serve.database import WRITING, engine_for, shown
from misgiving.serve.reviews import (
    add_answer,
    add_reviews,
    check_count,
    due_cases,
    is_answered,
    reviews_by_case,
    settle_answers,
    withdraw,
)
from misgiving.serve.rows import (
    conditions_of,
    identity_of,
    is_reviewed,
    read_cases,
    row_of,
    with_repeats,
    with_reviews,
)
from misgiving.serve.schema import prepare_tables

PAGE_SIZE = 100
OF_FILES = (
    select(CASES)
    .where(CASES.c.sha256.in_(sa.bindparam("hashes", expanding=True)))
    .order_by(CASES.c.id.desc())
)
SORTED_BY = {
    "expected_error": (CASES.c.expected_error, CASES.c.id),
    "newest": (CASES.c.id,),
    "listed": (LISTED, CASES.c.id),
}


class Store:
    """All cases, on SQLite or PostgreSQL; safe in threads and for several processes at once."""

    def __init__(self, location: str, **options: Any) -> None:
        self.location, self._engine = location, engine_for(location, **options)
        self.failure: Exception | None = None  # of the last check

    @property
    def _writing(self) -> sa.Engine:
        """For transactions that write, of which there are none while checks fail."""
        self.check_available()
        return self._engine.execution_options(**{WRITING: True})

    def check_available(self) -> None:
        """Raise OperationalError if the last check has failed."""
        if self.failure is not None:
            raise OperationalError("BEGIN", None, getattr(self.failure, "orig", self.failure))

    @classmethod
    def open(cls, location: str, *, upgrade: bool = False) -> "Store":
        """Open a database URL or the path of an SQLite file, which is created if there is none.

        Raises:
            DataError: It cannot be opened, its tables have another schema, or they are of an
                earlier version and `upgrade` is false.
            UsageError: The location is not supported.
        """
        store = cls(location)
        try:
            with store._writing.begin() as connection:
                is_current = prepare_tables(connection, STORE_TABLES, upgrade=upgrade)
                check = sa.text("PRAGMA quick_check(1)")
                if connection.dialect.name == "sqlite" and connection.scalar(check) != "ok":
                    raise DataError("it is damaged")
        except (SQLAlchemyError, DataError) as error:
            store.close()
            raise DataError(
                f"{shown(location)}: cannot be opened ({getattr(error, 'orig', None) or error}); "
                "check the folder and its permissions, restore a copy, or choose another ",
                Parameter("store"),
            ) from error
        if not is_current:
            store.close()
            place = "STORE" if "://" in location else location
            raise DataError(
                f"{shown(location)}: has the tables of an earlier version; stop its services, back "
                f"it up, and run: misgiving cases upgrade {place}"
            )
        return store

    def add(
        self, cases: Sequence[Case], draw: Callable[[Case], Case] = lambda case: case
    ) -> list[Case]:
        """Commit all of these cases or none, and return them.

        A file that the same model and policy have decided before stays its earlier case, which is
        returned in place of the new one; the others are drawn for audits, if they are in no list.
        """
        hashes = [case.sha256 for case in cases]
        with self._writing.begin() as connection:
            earlier = read_cases(connection, OF_FILES, hashes=hashes)
            stored = {identity_of(case): case for case in earlier}
            new = [case for case in cases if stored.setdefault(identity_of(case), case) is case]
            if new:
                drawn = (
                    each if each.place else draw(each) for each in with_repeats(connection, new)
                )
                stored |= {identity_of(case): case for case in drawn}
                new = [stored[identity_of(case)] for case in new]
                connection.execute(insert(CASES), [row_of(case) for case in new])
                connection.execute(insert(ARRIVALS), [{"case_id": case.id} for case in new])
        return [stored[identity_of(case)] for case in cases]

    def audit(self, policy_fingerprint: str, share: float | None, **terms: Any) -> Any:
        """The row of `AUDITS` of a policy; None without audits.

        It is made once, with the share of the last policy where none is given; 0 makes none.

        Raises UsageError if the policy has another share.
        """
        is_own = AUDITS.c.policy_fingerprint == policy_fingerprint
        with self._writing.begin() as connection:
            exists = connection.scalar(select(AUDITS.c.share).where(is_own)) is not None
            if share is None and not exists:
                last = select(AUDITS.c.share).order_by(AUDITS.c.since.desc()).limit(1)
                share = connection.scalar(last)
            if share and not exists:
                values = {"policy_fingerprint": policy_fingerprint, "share": share}
                values |= {"since": zulu(datetime.now(UTC)), "secret": secrets.token_hex(32)}
                connection.execute(insert(AUDITS).values(values))
            connection.execute(sa.update(AUDITS).where(is_own).values(terms))
            row = connection.execute(select(AUDITS).where(is_own)).first()
        if row is not None and share and share != row.share:
            raise UsageError(
                Parameter("audit_share"),
                f" is {row.share:g} for the life of this policy, got {share:g}; 0 ends its audits",
            )
        return row

    def audits(self) -> dict[str, Any]:
        """The rows of `AUDITS` by policy, oldest first."""
        rows = self._read(select(AUDITS).order_by(AUDITS.c.since))
        return {row.policy_fingerprint: row for row in rows}

    def shadows(self) -> dict[str | None, str]:
        """Times of the first case in shadow of each policy, oldest first; None: of no policy."""
        first = dict[str | None, str]()
        for table in (CASES, DELETED):
            policy, time = table.c.policy_fingerprint, func.min(table.c.received).label("time")
            for row in self._read(select(policy, time).where(table.c.shadow).group_by(policy)):
                first[row[0]] = min(row.time, first.get(row[0], row.time))
        return dict(sorted(first.items(), key=lambda item: item[1]))

    def open_blind_by_policy(self) -> dict[str | None, int]:
        """Number of blind cases that readers have not settled, by policy."""
        policy = CASES.c.policy_fingerprint
        rows = self._read(select(policy, func.count()).where(CASES.c.blind).group_by(policy))
        return {row[0]: row[1] for row in rows}

    def review(
        self, id: str, review: Review, *, last_seen: datetime | None = None, check: bool = False
    ) -> bool:
        """Commit a review of an existing case.

        Until a reader may see the model's answer to a blind case, reviews are blind answers: they
        can be corrected for a time, and `check` does not matter. To answer ends the time of the
        same reader's other answers.

        Args:
            id: The case.
            review: The review.
            last_seen: Time of the last review that the reviewer has seen; None: there was none.
            check: Commit only if the last review is the one that the reviewer has seen.

        Returns:
            False if it is not, or is not the reviewer's own to withdraw, so that nothing was
            committed.

        Raises UsageError if the reader has reviewed the case too often.
        """
        with self._writing.begin() as connection:  # other reviewers wait
            check_count(connection, id, review.reviewer)
            settle_answers(connection, review.reviewer, opened=id)
            (case,) = read_cases(connection, select(CASES).where(CASES.c.id == id), review.reviewer)
            if case.blind:
                add_answer(connection, id, review)
                settle_answers(connection)
            elif check and last_seen != (case.review.reviewed_at if case.review else None):
                return False
            elif review.verdict == "withdraw":
                return withdraw(connection, id, review)
            else:
                add_reviews(connection, id, [review])
        return True

    def settle_answers(self, reader: str = "", opened: str = "") -> None:
        """Make reviews of the blind answers whose time is over; a reader opens a case.

        This ends the time of the reader's answers to other cases.
        """
        with self.begin() as connection:
            if not due_cases(connection, reader, opened):
                return
        with self.begin(writing=True) as connection:
            settle_answers(connection, reader, opened=opened)

    def pending_answer(self, id: str, reader: str) -> Review | None:
        """A reader's answer to a blind case that can still be corrected."""
        own = (PENDING.c.case_id == id) & (PENDING.c.folded_reviewer == folded(reader.strip()))
        with self.begin() as connection:
            return next(reversed(reviews_by_case(connection, own, PENDING).get(id, [])), None)

    def cases(self, ids: Sequence[str], reader: str = "") -> dict[str, Case]:
        """The cases with these ids by id, each blind or not for this reader."""
        query = select(CASES).where(CASES.c.id.in_(ids))
        with self._engine.begin() as connection:
            return {case.id: case for case in read_cases(connection, query, reader)}

    def reviews(
        self, id: str, *, limit: int | None = None, before: str | None = None
    ) -> list[Review]:
        """The reviews of a case, oldest first: all, or the last ones before a time."""
        query = select(REVIEWS).where(REVIEWS.c.case_id == id).order_by(REVIEWS.c.number.desc())
        if before is not None:
            query = query.where(REVIEWS.c.reviewed_at < before)
        rows = self._read(query.limit(limit))
        return [Review.model_validate(row._asdict()) for row in reversed(rows)]

    def page(
        self, query: CaseQuery, *, limit: int = PAGE_SIZE, cursor: str | None = None
    ) -> tuple[list[Case], str | None]:
        """At most `limit` cases after the place of a cursor, and that of the next page, if any.

        A cursor has the values that sort the last case of a page, which a review may change later.

        Raises:
            UsageError: The cursor is of another order.
        """
        keys = SORTED_BY[query.order]
        sorting = [key.label("sorting") for key in keys[:-1]]  # one, or none
        selected = select(CASES, *sorting).where(conditions_of(query))
        selected = selected.order_by(*(key.desc() for key in keys))
        if cursor is not None:
            *values, id = cursor.split("_")
            if len(values) != len(sorting):
                raise UsageError(f"the cursor {cursor} is of another order")
            selected = selected.where(sa.tuple_(*keys) < (*map(json.loads, values), id))
        with self._engine.begin() as connection:
            rows = list(connection.execute(selected.limit(limit + 1)))
            cases = with_reviews(connection, rows, query.reader)
        if len(cases) <= limit:
            return cases, None
        last = rows[limit - 1]
        return cases[:limit], "_".join([*(str(last.sorting) for _ in sorting), last.id])

    def all(self, query: CaseQuery) -> Iterator[Case]:
        """Every case, read page by page to bound the memory."""
        cases, cursor = self.page(query)
        yield from cases
        while cursor is not None:
            cases, cursor = self.page(query, cursor=cursor)
            yield from cases

    def decided(self, policy_fingerprint: str, *, after: int, limit: int) -> list[Any]:
        """Values of the first cases that one policy decided after this number, as they arrived.

        Deleted cases have no reason. Those of a list of images are left out: they are a selection,
        and no sample of the images that the service gets.
        """
        same = ("received", "decision", "acceptance_score", "ood_score")
        of_case = (CASES.c[name] for name in (*same, "reason", "is_copy"))
        no_value = (sa.null().label(name) for name in ("reason", "is_copy"))
        stored = (
            select(ARRIVALS.c.number, *of_case)
            .join(CASES, CASES.c.id == ARRIVALS.c.case_id)
            .where(CASES.c.policy_fingerprint == policy_fingerprint, CASES.c.place.is_(None))
            .where(ARRIVALS.c.number > after)
            .order_by(ARRIVALS.c.number)
        )
        deleted = (
            select(DELETED.c.number, *(DELETED.c[name] for name in same), *no_value)
            .where(DELETED.c.policy_fingerprint == policy_fingerprint, DELETED.c.tested)
            .where(DELETED.c.number > after)
            .order_by(DELETED.c.number)
        )
        return self._in_order(stored.limit(limit), deleted.limit(limit))[:limit]

    def audit_rows(self, policy_fingerprint: str, *, shadow: bool = False) -> list[Any]:
        """The answers that the audits of a policy count, as they arrived; deleted cases have no id.

        Those that are not audited are accepted answers that were read, but are no new unit.
        """
        same = ("decision", "group", "received", "audited")
        no_value = (sa.null().label(name) for name in ("standing", "answered"))
        stored = (
            select(ARRIVALS.c.number, *(CASES.c[name] for name in ("id", *same)), *no_value)
            .join(CASES, CASES.c.id == ARRIVALS.c.case_id)
            .where(CASES.c.policy_fingerprint == policy_fingerprint, CASES.c.shadow.is_(shadow))
        )
        is_read = CASES.c.id.in_(select(REVIEWS.c.case_id).where(REVIEWS.c.blind))
        repeated = stored.where(~CASES.c.audited, CASES.c.decision == "accept", is_read)
        kept = (DELETED.c[name] for name in (*same, "standing", "answered"))
        is_judged = (DELETED.c.decision == "accept") & DELETED.c.standing.is_not(None)
        deleted = (
            select(DELETED.c.number, sa.null().label("id"), *kept)
            .where(DELETED.c.policy_fingerprint == policy_fingerprint)
            .where(DELETED.c.shadow.is_(shadow), DELETED.c.audited | is_judged)
        )
        return self._in_order(stored.where(CASES.c.audited), repeated, deleted)

    def count(self, query: CaseQuery, *, reviewed: bool | None = None) -> int:
        """Number of cases; with `reviewed`, of those of them that are or are not."""
        part = () if reviewed is None else (is_reviewed(query.reader, reviewed),)
        return self._count(conditions_of(query), *part)

    def audited(self, policy_fingerprints: Sequence[str | None]) -> list[Case]:
        """The audit samples of policies, live and in shadow, oldest first; None: of no policy."""
        policies = (CASES.c.policy_fingerprint == each for each in policy_fingerprints)
        is_sample = CASES.c.audited & sa.or_(sa.false(), *policies)
        with self._engine.begin() as connection:
            return read_cases(connection, select(CASES).where(is_sample).order_by(CASES.c.id))

    def blind_reviews(self) -> dict[str, list[Review]]:
        """All blind answers by case, oldest first, also those that were corrected."""
        with self.begin() as connection:
            return reviews_by_case(connection, REVIEWS.c.blind)

    def open_blind(self, before: str) -> int:
        """Number of blind cases that came before this time and that nobody has answered."""
        return self._count(CASES.c.blind, CASES.c.received < before, ~is_answered(ANY_READER))

    def latest(self) -> tuple[int, int]:
        """Numbers of the last case and the last review that arrived; 0: there is none."""
        last = (select(func.max(table.c.number)).scalar_subquery() for table in (ARRIVALS, REVIEWS))
        ((case, review),) = self._read(select(*last))
        return case or 0, review or 0

    def counts(self) -> dict[Outcome, int]:
        """Number of cases by decision; blind ones are counted with the deferred."""
        listed = CASES.c.listed_decision
        rows = self._read(select(listed, func.count()).group_by(listed))
        return dict.fromkeys(get_args(Outcome), 0) | {row[0]: row[1] for row in rows}

    def begin(self, *, writing: bool = False) -> AbstractContextManager[Connection]:
        """A transaction, for what other modules keep in this database."""
        return (self._writing if writing else self._engine).begin()

    def _in_order(self, *queries: Select[Any]) -> list[Any]:
        """Rows of several queries in the order of arrival; of a number, the last query's."""
        with self._engine.begin() as connection:
            rows = {row.number: row for query in queries for row in connection.execute(query)}
        return [rows[number] for number in sorted(rows)]

    def _count(self, *conditions: sa.ColumnElement[bool]) -> int:
        return int(self._read(select(func.count()).select_from(CASES).where(*conditions))[0][0])

    def _read(self, query: Select[Any]) -> list[Any]:
        with self._engine.begin() as connection:
            return list(connection.execute(query))

    def clear_log(self) -> None:
        """Write SQLite's log of writes into the file: it may still have what was deleted."""
        if self._engine.dialect.name == "sqlite":
            with closing(self._engine.raw_connection()) as connection:  # outside a transaction
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()
