"""Cases and reviews in a database; a method that writes has committed when it returns."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple, get_args

from pydantic import ConfigDict, Field
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Select,
    and_,
    func,
    insert,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from misgiving.decisions.decision import Outcome
from misgiving.errors import DataError, UsageError
from misgiving.serve.database import (
    ARRIVALS,
    CASES,
    NOT_STORED,
    OTHERS,
    REVIEWS,
    ROWS,
    STATES,
    WRITES,
    engine_for,
    migrate,
    shown,
)
from misgiving.serve.schemas import (
    NO_NUL,
    Case,
    DecidedCase,
    Instant,
    Record,
    Review,
    zulu,
)

PAGE_SIZE = 500
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST = 2**31 - 1  # place of a case that is in no list
MOST = 2**63 - 1  # number that a database can hold
KEYS = {
    "expected_error": (CASES.c.doubt, CASES.c.id),
    "newest": (CASES.c.id,),
    "listed": (-func.coalesce(CASES.c.place, LAST), CASES.c.id),
}


class CaseQuery(Record):
    """Conditions on cases, and their order; None or empty means no condition."""

    model_config = ConfigDict(populate_by_name=True)

    decisions: list[Outcome] = Field(
        default=[], alias="decision", description="One or more decisions."
    )
    reviewed: bool | None = Field(default=None, description="Has a review.")
    predicted_class: str | None = Field(
        default=None,
        alias="class",
        max_length=255,
        pattern=NO_NUL,
        description="The predicted class.",
    )
    name: str | None = Field(
        default=None,
        max_length=255,
        pattern=NO_NUL,
        description="Part of the name, in upper or lower case (PostgreSQL: of its locale).",
    )
    received_since: Instant | None = Field(
        default=None, description="Received at this time or later."
    )
    reviewed_since: Instant | None = Field(
        default=None, description="Reviewed at this time or later."
    )
    arrived_after: int | None = Field(
        default=None, ge=0, le=MOST, description="Arrived after an earlier `last_arrival`."
    )
    reviewed_after: int | None = Field(
        default=None, ge=0, le=MOST, description="Reviewed after an earlier `last_review`."
    )
    order: Literal["expected_error", "newest", "listed"] = Field(
        default="expected_error",
        description="Most likely wrong first, newest first, or as in the list of `serve --cases`.",
    )

    def conditions(self) -> ColumnElement[bool]:
        """The conditions as an SQL clause with bound values."""
        clauses: list[ColumnElement[bool]] = []
        if self.decisions:
            clauses.append(CASES.c.decision.in_(self.decisions))
        if self.reviewed is not None:
            clauses.append(CASES.c.reviewed.is_(self.reviewed))
        if self.predicted_class is not None:
            clauses.append(CASES.c.predicted_class == self.predicted_class)
        if self.name is not None:
            clauses.append(CASES.c.name.icontains(self.name, autoescape=True))
        return and_(True, *clauses, *self._moments())

    def _moments(self) -> Iterator[ColumnElement[bool]]:
        if self.received_since is not None:
            yield CASES.c.id >= first_id_at(self.received_since)
        if self.reviewed_since is not None:
            late = REVIEWS.c.reviewed_at >= zulu(self.reviewed_since)
            yield CASES.c.id.in_(select(REVIEWS.c.case_id).where(late))
        for table, number in (ARRIVALS, self.arrived_after), (REVIEWS, self.reviewed_after):
            if number is not None:
                yield CASES.c.id.in_(select(table.c.case_id).where(table.c.number > number))


def first_id_at(time: datetime) -> str:
    """The smallest id of this time or later; ids start with their time in microseconds.

    >>> first_id_at(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
    '000000000f4240'
    """
    return f"{max(0, (time - EPOCH) // timedelta(microseconds=1)):014x}"


class Page(NamedTuple):
    """Some cases in the requested order; the next page starts after the case `cursor`, if any."""

    cases: list[Case]
    cursor: str | None


class Latest(NamedTuple):
    """Numbers of the last case and the last review that arrived; 0: there is none."""

    arrival: int
    review: int


class ExpectedReview(NamedTuple):
    """The last review that a reviewer knows, by its time; None: there was none."""

    reviewed_at: datetime | None


class NewerReviewError(Exception):
    """The last review of a case is not the one that the reviewer knows; None: there is none."""

    def __init__(self, last: Review | None) -> None:
        super().__init__(last)
        self.last = last


class Store:
    """All cases, on SQLite or PostgreSQL; safe in threads and for several processes at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writing = engine.execution_options(**{WRITES: ROWS})
        self._writing_others = engine.execution_options(**{WRITES: OTHERS})

    @classmethod
    def open(cls, location: str) -> "Store":
        """Open a database URL or the path of an SQLite file, which is created if there is none.

        Raises:
            DataError: It cannot be opened, or a newer version has written it.
            UsageError: The location is not supported.
        """
        store = cls(engine_for(location))
        try:
            with store._writing_others.begin() as connection:
                migrate(connection, shown(location))
        except SQLAlchemyError as error:
            store.close()
            reason = str(getattr(error, "orig", None) or error)
            raise DataError(
                f"{shown(location)}: the store cannot be opened ({reason}); check the location, or "
                "choose another one with the option store"
            ) from error
        except BaseException:
            store.close()
            raise
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
            fresh = []
            for case in cases:
                if stored.setdefault(_identity(case), case) is case:
                    fresh.append(case)
            if fresh:
                connection.execute(insert(CASES), [_row(case) for case in fresh])
                connection.execute(insert(ARRIVALS), [{"case_id": case.id} for case in fresh])
        return [stored[_identity(case)] for case in cases]

    def review(self, id: str, review: Review, *, expected: ExpectedReview | None = None) -> bool:
        """Commit a review; returns False if there is no such case.

        It gets a later time than the last review, even if that came from a server whose clock is
        ahead: the page knows the newer one of two by its time.

        Raises:
            NewerReviewError: The last review is not the expected one.
        """
        with self._writing.begin() as connection:  # its update makes other reviewers wait
            found = connection.execute(update(CASES).where(CASES.c.id == id).values(reviewed=True))
            if found.rowcount:
                last = _last_reviews(connection, [id]).get(id)
                if expected and expected.reviewed_at != (last.reviewed_at if last else None):
                    raise NewerReviewError(last)
                if last and last.reviewed_at >= review.reviewed_at:
                    later = last.reviewed_at + timedelta(microseconds=1)
                    review = review.model_copy(update={"reviewed_at": later})
                values = {"case_id": id, **review.model_dump(mode="json")}
                connection.execute(insert(REVIEWS).values(values))
        return found.rowcount > 0

    def case(self, id: str) -> Case | None:
        """The case with this id."""
        with self._engine.begin() as connection:
            found = _cases(connection, select(CASES).where(CASES.c.id == id))
        return found[0] if found else None

    def reviews(self, id: str) -> list[Review]:
        """All reviews of a case, oldest first."""
        query = select(REVIEWS).where(REVIEWS.c.case_id == id).order_by(REVIEWS.c.number)
        with self._engine.begin() as connection:
            return [Review.model_validate(row) for row in _rows(connection, query)]

    def page(self, query: CaseQuery, *, limit: int = PAGE_SIZE, cursor: str | None = None) -> Page:
        """At most `limit` cases after the case `cursor`.

        Raises:
            UsageError: The case of the cursor has been deleted.
        """
        keys = KEYS[query.order]
        found = select(CASES).where(query.conditions()).order_by(*(key.desc() for key in keys))
        with self._engine.begin() as connection:
            if cursor is not None:
                last = connection.execute(select(*keys).where(CASES.c.id == cursor)).first()
                if last is None:
                    raise UsageError(
                        f"the case of cursor {cursor} has been deleted; leave the cursor out to "
                        "start with the first case"
                    )
                found = found.where(tuple_(*keys) < tuple(last))
            cases = _cases(connection, found.limit(limit + 1))
        more = len(cases) > limit
        return Page(cases[:limit], cases[limit - 1].id if more else None)

    def all(self, query: CaseQuery) -> Iterator[Case]:
        """Every case, read page by page to bound the memory."""
        page = self.page(query)
        yield from page.cases
        while page.cursor is not None:
            page = self.page(query, cursor=page.cursor)
            yield from page.cases

    def decided(self, policy_fingerprint: str, *, after: int = 0) -> Iterator[DecidedCase]:
        """Cases that one policy decided, after this number, in the order of arrival.

        Those of a list of images are left out: they are a selection, and no sample of the images
        that the service gets.
        """
        columns = [CASES.c[name] for name in DecidedCase.model_fields if name != "number"]
        query = (
            select(ARRIVALS.c.number, *columns)
            .join(CASES, CASES.c.id == ARRIVALS.c.case_id)
            .where(CASES.c.policy_fingerprint == policy_fingerprint, CASES.c.place.is_(None))
            .order_by(ARRIVALS.c.number)
            .limit(PAGE_SIZE)
        )
        while True:
            with self._engine.begin() as connection:
                rows = _rows(connection, query.where(ARRIVALS.c.number > after))
            if not rows:
                return
            yield from map(DecidedCase.model_validate, rows)
            after = rows[-1]["number"]

    def listed(
        self, model_fingerprint: str, policy_fingerprint: str | None, *, image_kept: bool
    ) -> dict[tuple[str, int, str | None], str]:
        """Ids of the cases of lists that one model and policy decided, by hash, place and remark.

        Args:
            model_fingerprint: Of the model.
            policy_fingerprint: Of the policy; None: there was none.
            image_kept: True for cases whose files are stored, False for the others.
        """
        query = select(CASES.c.id, CASES.c.sha256, CASES.c.place, CASES.c.remark).where(
            CASES.c.place.is_not(None),
            CASES.c.model_fingerprint == model_fingerprint,
            CASES.c.policy_fingerprint == policy_fingerprint,  # IS NULL for None
            CASES.c.image_kept.is_(image_kept),
        )
        with self._engine.begin() as connection:
            return {(row[1], row[2], row[3]): row[0] for row in connection.execute(query)}

    def count(self, query: CaseQuery, *, reviewed: bool | None = None) -> int:
        """Number of cases; with `reviewed`, of those of them that are or are not."""
        counted = select(func.count()).select_from(CASES).where(query.conditions())
        if reviewed is not None:
            counted = counted.where(CASES.c.reviewed.is_(reviewed))
        with self._engine.begin() as connection:
            return int(connection.scalar(counted) or 0)

    def latest(self) -> Latest:
        """What has arrived so far; a query after it can ask for all that comes later."""
        with self._engine.begin() as connection:
            numbers = (select(func.max(table.c.number)) for table in (ARRIVALS, REVIEWS))
            return Latest(*(connection.scalar(number) or 0 for number in numbers))

    def counts(self) -> dict[Outcome, int]:
        """Number of cases by decision."""
        query = select(CASES.c.decision, func.count()).group_by(CASES.c.decision)
        with self._engine.begin() as connection:
            found = {row[0]: row[1] for row in connection.execute(query)}
        return {decision: found.get(decision, 0) for decision in get_args(Outcome)}

    def load(self, name: str) -> bytes | None:
        """A value that `save` has stored."""
        with self._engine.begin() as connection:
            found = connection.scalar(select(STATES.c.value).where(STATES.c.name == name))
        return None if found is None else bytes(found)

    def save(self, name: str, value: bytes) -> None:
        """Commit a value in place of an earlier one of this name."""
        kept = "ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        with self._writing_others.begin() as connection:
            connection.execute(
                text(f"INSERT INTO states (name, value) VALUES (:name, :value) {kept}"),
                {"name": name, "value": value},
            )

    def ping(self) -> None:
        """Raise SQLAlchemyError if the database does not store anything."""
        self.save("health", zulu(datetime.now(UTC)).encode())

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def _identity(case: Case) -> tuple[object, ...]:
    """Key that two uploads of one file share if they are the same case."""
    decided_by = case.model_fingerprint, case.policy_fingerprint
    return case.sha256, *decided_by, case.image_kept, case.place, case.remark


def _row(case: Case) -> dict[str, Any]:
    values = case.model_dump(exclude=NOT_STORED)
    return values | {"received": zulu(case.received), "doubt": case.doubt}


def _cases(connection: Connection, query: Select[Any]) -> list[Case]:
    """The cases of a query, each with its last review."""
    rows = _rows(connection, query)
    last = _last_reviews(connection, [row["id"] for row in rows if row["reviewed"]])
    return [Case.model_validate({**row, "review": last.get(row["id"])}) for row in rows]


def _last_reviews(connection: Connection, ids: Sequence[str]) -> dict[str, Review]:
    if not ids:
        return {}
    last_numbers = (
        select(func.max(REVIEWS.c.number))
        .where(REVIEWS.c.case_id.in_(ids))
        .group_by(REVIEWS.c.case_id)
    )
    rows = _rows(connection, select(REVIEWS).where(REVIEWS.c.number.in_(last_numbers)))
    return {row["case_id"]: Review.model_validate(row) for row in rows}


def _rows(connection: Connection, query: Select[Any]) -> list[dict[str, Any]]:
    return [{str(name): row[name] for name in row} for row in connection.execute(query).mappings()]
