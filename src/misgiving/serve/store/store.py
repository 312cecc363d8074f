"""Cases and reviews in a database; what a method has returned from is on the disk."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple, get_args

from sqlalchemy import Connection, Engine, Select, exists, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from misgiving.errors import DataError
from misgiving.serve.records import Case, Decided, Outcome, Review
from misgiving.serve.store.engines import WRITES, engine_for, shown
from misgiving.serve.store.migrations import migrate
from misgiving.serve.store.queries import (
    Filter,
    Order,
    Page,
    cursor_after,
    decided_query,
    page_query,
)
from misgiving.serve.store.tables import ARRIVALS, CASES, REVIEWS

ROWS_AT_ONCE = 500
NOT_STORED = {"review", "reviews"}


class Known(NamedTuple):
    """What a reviewer knows of a case: when it was last reviewed; None: never."""

    last: datetime | None


class NewerReviewError(Exception):
    """The last review of a case is another one than the reviewer knows; None: there is none."""

    def __init__(self, last: Review | None) -> None:
        super().__init__(last)
        self.last = last


class Store:
    """All cases, on SQLite or PostgreSQL; safe in threads, and for several processes at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writing = engine.execution_options(**{WRITES: True})

    @classmethod
    def open(cls, place: str) -> "Store":
        """The store at a database URL or the path of an SQLite file, made where there is none.

        Raises:
            DataError: It cannot be opened, or a newer version has written it.
            UsageError: The place is no place for a store.
        """
        store = cls(engine_for(place))
        try:
            store._migrate(shown(place))
        except BaseException:
            store.close()
            raise
        return store

    def _migrate(self, place: str) -> None:
        try:
            with self._writing.begin() as connection:
                migrate(connection, place)
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error)
            raise DataError(
                f"{place}: the store cannot be opened ({reason}); check the place, or name "
                "another with --store"
            ) from error

    def add(self, cases: Sequence[Case]) -> list[Case]:
        """Commit all of these cases, or none; gives them back."""
        with self._writing.begin() as connection:
            connection.execute(insert(CASES), [_row(case) for case in cases])
            connection.execute(insert(ARRIVALS), [{"case_id": case.id} for case in cases])
        return list(cases)

    def review(self, id: str, review: Review, *, known: Known | None = None) -> bool:
        """Commit what a person said; False where there is no such case.

        Raises:
            NewerReviewError: Others have reviewed it; where `known` is given.
        """
        with self._writing.begin() as connection:  # its update lets others who review it wait
            found = connection.execute(update(CASES).where(CASES.c.id == id).values(reviewed=True))
            if found.rowcount:
                _refuse_newer(connection, id, known)
                values = {"case_id": id, **review.model_dump(mode="json")}
                connection.execute(insert(REVIEWS).values(values))
        return found.rowcount > 0

    def case(self, id: str) -> Case | None:
        """The case of this id."""
        with self._engine.begin() as connection:
            found = _cases(connection, select(CASES).where(CASES.c.id == id))
        return found[0] if found else None

    def reviews(self, id: str) -> list[Review]:
        """All reviews of a case, the first one first."""
        query = select(REVIEWS).where(REVIEWS.c.case_id == id).order_by(REVIEWS.c.number)
        with self._engine.begin() as connection:
            return [Review.model_validate(row) for row in _rows(connection, query)]

    def page(
        self,
        of: Filter,
        order: Order = "expected_error",
        *,
        limit: int = ROWS_AT_ONCE,
        cursor: str | None = None,
    ) -> Page:
        """At most `limit` cases, from the cursor on."""
        query = page_query(of, order, cursor).limit(limit + 1)
        with self._engine.begin() as connection:
            cases = _cases(connection, query)
        more = len(cases) > limit
        return Page(cases[:limit], cursor_after(cases[limit - 1], order) if more else None)

    def all(self, of: Filter, order: Order = "expected_error") -> Iterator[Case]:
        """Every case, read page by page, so that memory does not grow with their number."""
        page = self.page(of, order)
        yield from page.cases
        while page.cursor is not None:
            page = self.page(of, order, cursor=page.cursor)
            yield from page.cases

    def decided(self, policy_fingerprint: str, *, after: int = 0) -> Iterator[Decided]:
        """What one policy has decided, from this number on, in the order of arrival.

        Of several processes that write to PostgreSQL one may commit a lower number after another's
        higher one.
        """
        while rows := self._decided(policy_fingerprint, after):
            yield from rows
            after = rows[-1].number

    def _decided(self, policy_fingerprint: str, after: int) -> list[Decided]:
        query = decided_query(policy_fingerprint, after).limit(ROWS_AT_ONCE)
        with self._engine.begin() as connection:
            return [Decided.model_validate(row) for row in _rows(connection, query)]

    def count(self, of: Filter) -> int:
        """How many cases there are."""
        with self._engine.begin() as connection:
            found = connection.scalar(
                select(func.count()).select_from(CASES).where(of.conditions())
            )
        return int(found or 0)

    def counts(self) -> dict[Outcome, int]:
        """How many cases there are of each decision."""
        query = select(CASES.c.decision, func.count()).group_by(CASES.c.decision)
        with self._engine.begin() as connection:
            found = {row[0]: row[1] for row in connection.execute(query)}
        return {decision: found.get(decision, 0) for decision in get_args(Outcome)}

    def ping(self) -> None:
        """Raise SQLAlchemyError where the database does not answer."""
        with self._engine.begin() as connection:
            connection.execute(select(exists().where(CASES.c.id == "")))

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def _refuse_newer(connection: Connection, id: str, known: Known | None) -> None:
    if known is None:
        return
    last = _last_reviews(connection, [id]).get(id)
    if (last.reviewed_at if last else None) != known.last:
        raise NewerReviewError(last)


def _row(case: Case) -> dict[str, Any]:
    received = case.model_dump(mode="json", include={"received"})
    return case.model_dump(exclude=NOT_STORED) | received | {"doubt": case.doubt}


def _cases(connection: Connection, query: Select[Any]) -> list[Case]:
    """The cases of a query, each with its last review."""
    rows = _rows(connection, query)
    reviewed = [row["id"] for row in rows if row["reviewed"]]
    last = _last_reviews(connection, reviewed) if reviewed else {}
    return [Case.model_validate({**row, "review": last.get(row["id"])}) for row in rows]


def _last_reviews(connection: Connection, ids: Sequence[str]) -> dict[str, Review]:
    of_each = select(func.max(REVIEWS.c.number)).where(REVIEWS.c.case_id.in_(ids))
    last = of_each.group_by(REVIEWS.c.case_id)
    rows = _rows(connection, select(REVIEWS).where(REVIEWS.c.number.in_(last)))
    return {row["case_id"]: Review.model_validate(row) for row in rows}


def _rows(connection: Connection, query: Select[Any]) -> list[dict[str, Any]]:
    return [{str(name): row[name] for name in row} for row in connection.execute(query).mappings()]
