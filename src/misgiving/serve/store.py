"""Cases, reviews and their store in SQLite or PostgreSQL; a method that writes has committed."""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, get_args, get_origin

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy import Column, ColumnElement, Connection, Select, Text, func, insert, select
from sqlalchemy.exc import SQLAlchemyError

from misgiving.deferral.decisions import Outcome
from misgiving.errors import DataError, UsageError, without_none
from misgiving.serve.database import WRITING, create_tables, engine_for, shown
from misgiving.serve.records import Case, CaseQuery, Review, zulu

PAGE_SIZE = 500
PAGE_NUMBERS = 50_000  # probabilities, of about 30 bytes each
IN_PIECES = {"yield_per": 50}  # rows that PostgreSQL's driver holds at a time
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
    sa.Index("cases_by_expected_error", "expected_error", "id"),
    sa.Index("cases_by_decision", "decision", "reviewed"),
    sa.Index("cases_by_class", "predicted_class", "expected_error", "id", "decision", "reviewed"),
    sa.Index("cases_by_name", "folded_name", "id"),  # has all that a search reads
    sa.Index("ix_cases_sha256", "sha256"),
)
REVIEWS = sa.Table(
    "reviews",
    METADATA,
    _number(),
    Column("case_id", sa.ForeignKey(CASES.c.id), nullable=False),
    *_columns(Review),
    sa.Index("reviews_by_case", "case_id", "number"),
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

PINGS = sa.Table("pings", METADATA, Column("time", Text, primary_key=True))
"""Written to check that the database stores anything."""

SORT_KEYS = {
    "expected_error": (CASES.c.expected_error, CASES.c.id),
    "newest": (CASES.c.id,),
    "listed": (-func.coalesce(CASES.c.place, LAST_PLACE), CASES.c.id),
}


class Store:
    """All cases, on SQLite or PostgreSQL; safe in threads and for several processes at once."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._writing = engine.execution_options(**{WRITING: True})

    @classmethod
    def open(cls, location: str) -> "Store":
        """Open a database URL or the path of an SQLite file, which is created if there is none.

        Raises:
            DataError: It cannot be opened, or its tables have another schema.
            UsageError: The location is not supported.
        """
        store = cls(engine_for(location))
        try:
            with store._writing.begin() as connection:
                create_tables(connection, METADATA)
        except (SQLAlchemyError, DataError) as error:
            store.close()
            raise DataError(
                f"{shown(location)}: cannot be opened ({getattr(error, 'orig', None) or error}); "
                "check the folder and its permissions, or choose another `store`"
            ) from error
        return store

    def add(self, cases: Sequence[Case]) -> list[Case]:
        """Commit all of these cases or none, and return them.

        A file that the same model and policy have decided before stays its earlier case, which is
        returned in place of the new one.
        """
        hashes = {case.sha256 for case in cases}
        with self._writing.begin() as connection:
            earlier = select(CASES).where(CASES.c.sha256.in_(hashes)).order_by(CASES.c.id.desc())
            stored = {_identity(case): case for case in _cases(connection, earlier)}
            new = [case for case in cases if stored.setdefault(_identity(case), case) is case]
            if new:
                connection.execute(insert(CASES), [_row(case) for case in new])
                connection.execute(insert(ARRIVALS), [{"case_id": case.id} for case in new])
        return [stored[_identity(case)] for case in cases]

    def review(
        self, id: str, review: Review, *, last_seen: datetime | None = None, check: bool = False
    ) -> bool:
        """Commit a review of an existing case.

        It gets a later time than the last review, even if that came from a server whose clock is
        ahead: the page knows the newer one of two by its time.

        Args:
            id: The case.
            review: The review.
            last_seen: Time of the last review that the reviewer has seen; None: there was none.
            check: Commit only if the last review is the one that the reviewer has seen.

        Returns:
            False if it is not, so that nothing was committed.
        """
        with self._writing.begin() as connection:  # other reviewers wait
            last = _last_reviews(connection, [id]).get(id)
            if check and last_seen != (last.reviewed_at if last else None):
                return False
            if last and last.reviewed_at >= review.reviewed_at:
                later = last.reviewed_at + timedelta(microseconds=1)
                review = review.model_copy(update={"reviewed_at": later})
            values = {"case_id": id, **review.model_dump(mode="json")}
            connection.execute(insert(REVIEWS).values(values))
            connection.execute(sa.update(CASES).where(CASES.c.id == id).values(reviewed=True))
        return True

    def case(self, id: str) -> Case | None:
        """The case with this id."""
        with self._engine.begin() as connection:
            return next(iter(_cases(connection, select(CASES).where(CASES.c.id == id))), None)

    def reviews(self, id: str) -> list[Review]:
        """All reviews of a case, oldest first."""
        query = select(REVIEWS).where(REVIEWS.c.case_id == id).order_by(REVIEWS.c.number)
        return [Review.model_validate(row._asdict()) for row in self._read(query)]

    def page(
        self, query: CaseQuery, *, limit: int = PAGE_SIZE, cursor: str | None = None
    ) -> tuple[list[Case], str | None]:
        """At most `limit` cases after the case `cursor`, and the cursor of the next page, if any.

        With many classes there are fewer: at least one, and about `PAGE_NUMBERS` probabilities.

        Raises:
            UsageError: There is no case of the cursor.
        """
        keys = SORT_KEYS[query.order]
        selected = select(CASES).where(_conditions(query)).order_by(*(key.desc() for key in keys))
        with self._engine.begin() as connection:
            if cursor is not None:
                last = connection.execute(select(*keys).where(CASES.c.id == cursor)).first()
                if last is None:
                    raise UsageError(f"there is no case of the cursor {cursor}")
                selected = selected.where(sa.tuple_(*keys) < tuple(last))
            rows, numbers = list[Any](), 0
            with connection.execute(
                selected.limit(limit + 1), execution_options=IN_PIECES
            ) as result:
                for row in result:
                    rows.append(row)
                    numbers += len(row.probabilities)
                    if numbers > PAGE_NUMBERS and len(rows) > 1:
                        limit = len(rows) - 1
                        break
            cases = _with_reviews(connection, rows)
        return cases[:limit], cases[limit - 1].id if len(cases) > limit else None

    def all(self, query: CaseQuery) -> Iterator[Case]:
        """Every case, read page by page to bound the memory."""
        cases, cursor = self.page(query)
        yield from cases
        while cursor is not None:
            cases, cursor = self.page(query, cursor=cursor)
            yield from cases

    def decided(self, policy_fingerprint: str, *, after: int, limit: int) -> list[Any]:
        """Values of the first cases that one policy decided after this number, as they arrived.

        Those of a list of images are left out: they are a selection, and no sample of the images
        that the service gets.
        """
        numbers = ("acceptance_score", "error_probability", "ood_score")
        values = ("received", "decision", *numbers, "sha256")
        return self._read(
            select(ARRIVALS.c.number, *(CASES.c[name] for name in values))
            .join(CASES, CASES.c.id == ARRIVALS.c.case_id)
            .where(CASES.c.policy_fingerprint == policy_fingerprint, CASES.c.place.is_(None))
            .where(ARRIVALS.c.number > after)
            .order_by(ARRIVALS.c.number)
            .limit(limit)
        )

    def count(self, query: CaseQuery, *, reviewed: bool | None = None) -> int:
        """Number of cases; with `reviewed`, of those of them that are or are not."""
        counted = select(func.count()).select_from(CASES).where(_conditions(query))
        if reviewed is not None:
            counted = counted.where(CASES.c.reviewed.is_(reviewed))
        return int(self._read(counted)[0][0])

    def latest(self) -> tuple[int, int]:
        """Numbers of the last case and the last review that arrived; 0: there is none."""
        last = (select(func.max(table.c.number)).scalar_subquery() for table in (ARRIVALS, REVIEWS))
        ((case, review),) = self._read(select(*last))
        return case or 0, review or 0

    def counts(self) -> dict[Outcome, int]:
        """Number of cases by decision."""
        rows = self._read(select(CASES.c.decision, func.count()).group_by(CASES.c.decision))
        return dict.fromkeys(get_args(Outcome), 0) | {row[0]: row[1] for row in rows}

    def check(self, case: Case) -> None:
        """Raise SQLAlchemyError where this case could not be stored now, or none be read.

        It is not kept.
        """
        with self._engine.begin() as connection:  # waits for no lock of another process
            connection.execute(sa.delete(PINGS))
            connection.execute(insert(PINGS).values(time=zulu(datetime.now(UTC))))
            with connection.begin_nested() as attempt:
                connection.execute(insert(CASES).values(_row(case)))
                connection.execute(insert(ARRIVALS).values(case_id=case.id))
                _last_reviews(connection, [case.id])
                attempt.rollback()

    def _read(self, query: Select[Any]) -> list[Any]:
        with self._engine.begin() as connection:
            return list(connection.execute(query))

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def _conditions(query: CaseQuery) -> ColumnElement[bool]:
    """The conditions as an SQL clause with bound values."""
    conditions: list[tuple[Any, Callable[[Any], ColumnElement[bool]]]] = [
        (query.decisions or None, CASES.c.decision.in_),
        (query.reviewed, CASES.c.reviewed.is_),
        (query.predicted_class, CASES.c.predicted_class.__eq__),
        (query.name, _is_named),
        (query.arrived_after, partial(_is_numbered_after, ARRIVALS)),
        (query.reviewed_after, partial(_is_numbered_after, REVIEWS)),
    ]
    return sa.and_(True, *(clause(value) for value, clause in conditions if value is not None))


def _folded(name: str) -> str:
    """A name for searching: in lower case, and letters with accents as one character."""
    return unicodedata.normalize("NFC", name.casefold())


def _is_named(part: str) -> ColumnElement[bool]:
    matches = CASES.c.folded_name.contains(_folded(part), autoescape=True)
    return CASES.c.id.in_(select(CASES.c.id).where(matches))


def _is_numbered_after(table: sa.Table, number: int) -> ColumnElement[bool]:
    return CASES.c.id.in_(select(table.c.case_id).where(table.c.number > number))


def _identity(case: Case) -> tuple[object, ...]:
    """Key that two uploads of one file share if they are the same case."""
    decided_by = case.model_fingerprint, case.policy_fingerprint
    return case.sha256, *decided_by, case.image_kept, case.place, case.remark


def _row(case: Case) -> dict[str, Any]:
    values = case.model_dump(mode="json", exclude={"review"})  # reviews have their own table
    return values | {
        "expected_error": case.expected_error,
        "folded_name": _folded(case.name),
    }


def _cases(connection: Connection, query: Select[Any]) -> list[Case]:
    """The cases of a query, each with its last review."""
    return _with_reviews(connection, list(connection.execute(query)))


def _with_reviews(connection: Connection, rows: Sequence[Any]) -> list[Case]:
    last = _last_reviews(connection, [row.id for row in rows if row.reviewed])
    return [Case.model_validate({**row._asdict(), "review": last.get(row.id)}) for row in rows]


def _last_reviews(connection: Connection, ids: Sequence[str]) -> dict[str, Review]:
    numbers = select(func.max(REVIEWS.c.number)).where(REVIEWS.c.case_id.in_(ids))
    last = select(REVIEWS).where(REVIEWS.c.number.in_(numbers.group_by(REVIEWS.c.case_id)))
    rows = connection.execute(last) if ids else ()
    return {row.case_id: Review.model_validate(row._asdict()) for row in rows}
