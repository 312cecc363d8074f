"""Which cases are asked for, in which order, and from where on."""

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, select, tuple_

from misgiving.errors import UsageError
from misgiving.serve.records import Case, Decided, Outcome, zulu
from misgiving.serve.store.tables import ARRIVALS, CASES, REVIEWS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Order = Literal["expected_error", "newest"]
KEYS = {"expected_error": (CASES.c.doubt, CASES.c.id), "newest": (CASES.c.id,)}


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which cases; what is None or empty does not matter.

    Attributes:
        decisions: Any of these.
        reviewed: Whether a person has looked at them.
        predicted_class: As the model said.
        received_since: Answered at this moment or later.
        reviewed_since: Reviewed at this moment or later, perhaps not for the first time.
    """

    decisions: tuple[Outcome, ...] = ()
    reviewed: bool | None = None
    predicted_class: str | None = None
    received_since: datetime | None = None
    reviewed_since: datetime | None = None

    def conditions(self) -> ColumnElement[bool]:
        """As a clause of SQL; values are bound, never written into it."""
        clauses: list[ColumnElement[bool]] = []
        if self.decisions:
            clauses.append(CASES.c.decision.in_(self.decisions))
        if self.reviewed is not None:
            clauses.append(CASES.c.reviewed.is_(self.reviewed))
        if self.predicted_class is not None:
            clauses.append(CASES.c.predicted_class == self.predicted_class)
        return and_(True, *clauses, *self._since())

    def _since(self) -> list[ColumnElement[bool]]:
        clauses: list[ColumnElement[bool]] = []
        if self.received_since is not None:
            clauses.append(CASES.c.id >= first_id_at(self.received_since))
        if self.reviewed_since is not None:
            late = REVIEWS.c.reviewed_at >= zulu(self.reviewed_since)
            clauses.append(CASES.c.id.in_(select(REVIEWS.c.case_id).where(late)))
        return clauses


def first_id_at(moment: datetime) -> str:
    """What no id of this moment or later comes before: ids begin with their time in microseconds.

    >>> first_id_at(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
    '000000000f4240'
    """
    return f"{max(0, (moment - EPOCH) // timedelta(microseconds=1)):014x}"


class Page(NamedTuple):
    """Some cases, and where the following ones begin.

    Attributes:
        cases: In the order that was asked for.
        cursor: To be given back for what follows; None: there is no more.
    """

    cases: list[Case]
    cursor: str | None


def page_query(of: Filter, order: Order, cursor: str | None) -> Select[Any]:
    """The cases after the cursor; the worst or the newest first."""
    keys = KEYS[order]
    query = select(CASES).where(of.conditions()).order_by(*(key.desc() for key in keys))
    return query if cursor is None else query.where(tuple_(*keys) < _read(cursor, order))


def decided_query(policy_fingerprint: str, after: int) -> Select[Any]:
    """What one policy has decided, from a number of arrival on."""
    columns = [CASES.c[name] for name in Decided.model_fields if name != "number"]
    arrived = select(ARRIVALS.c.number, *columns).join(CASES, CASES.c.id == ARRIVALS.c.case_id)
    of_policy = and_(CASES.c.policy_fingerprint == policy_fingerprint, ARRIVALS.c.number > after)
    return arrived.where(of_policy).order_by(ARRIVALS.c.number)


def cursor_after(case: Case, order: Order) -> str:
    """Where the cases after this one begin."""
    keys = [case.doubt, case.id] if order == "expected_error" else [case.id]
    return base64.urlsafe_b64encode(json.dumps([order, *keys]).encode()).decode().rstrip("=")


def _read(cursor: str, order: Order) -> tuple[float | str, ...]:
    refusal = UsageError(
        "cursor is not one of this list and order; leave it out to begin with the first case"
    )
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        match json.loads(base64.b64decode(padded, altchars="-_", validate=True)):
            case ["expected_error", float(doubt), str(id)] if order == "expected_error":
                return doubt, _clean(id)
            case ["newest", str(id)] if order == "newest":
                return (_clean(id),)
    except ValueError as error:
        raise refusal from error
    raise refusal


def _clean(id: str) -> str:
    if not id.isalnum() or not id.isascii():
        raise ValueError(id)
    return id
