"""Rows of cases, and conditions on them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Select, func, select

from misgiving.serve.case import (
    ARRIVALS,
    CASES,
    IN_SHADOW,
    REVIEWS,
    Case,
    CaseQuery,
    folded,
)
from misgiving.serve.reviews import (
    is_answered,
    is_read_by,
    last_reviews,
)


def identity_of(case: Case) -> tuple[object, ...]:
    """Key that two uploads of one file share if they are the same case."""
    decided_by = case.model_fingerprint, case.policy_fingerprint
    origin = case.image_kept, case.place, case.remark, case.value
    return case.sha256, *decided_by, *origin, case.shadow


def row_of(case: Case) -> dict[str, Any]:
    """The row of a case, with what its sender and its readers do not see."""
    values = {column.name: getattr(case, column.name, None) for column in CASES.columns}
    values |= case.model_dump(mode="json", exclude={"review"})  # reviews have their own table
    return values | {"folded_name": folded(case.name)}


FIRST_OF_PIXELS = select(CASES.c.pixels, CASES.c.policy_fingerprint, CASES.c.shadow).where(
    CASES.c.pixels.in_(sa.bindparam("pixels", expanding=True)),
    CASES.c.place.is_(None) & ~CASES.c.is_copy,
)
LAST_OF_GROUP = (
    select(func.max(CASES.c.repeat))  # ids are not in the order of arrival
    .where(CASES.c.group == sa.bindparam("unit"), CASES.c.place.is_(None))
    .where(CASES.c.policy_fingerprint == sa.bindparam("policy"))
    .where(CASES.c.shadow == sa.bindparam("in_shadow"))
)


def with_repeats(connection: Connection, cases: Sequence[Case]) -> list[Case]:
    """New cases with what their policy has seen before: their image, and others of their group.

    It begins anew after a shadow. Cases of a list, which is a selection, take no part.
    """
    rows = connection.execute(FIRST_OF_PIXELS, {"pixels": [case.pixels for case in cases]})
    seen, counts = {tuple(row) for row in rows}, dict[str, int]()
    values = {}
    for case in (each for each in cases if each.place is None):
        image, group = (case.pixels, case.policy_fingerprint, case.shadow), case.group
        if group and group not in counts:
            number = connection.scalar(
                LAST_OF_GROUP, {"unit": group, "policy": image[1], "in_shadow": case.shadow}
            )
            counts[group] = -1 if number is None else number
        if group:
            counts[group] += 1
        values[case.id] = {"is_copy": image in seen, "repeat": counts.get(group or "")}
        seen.add(image)
    return [case.model_copy(update=values.get(case.id, {})) for case in cases]


def read_cases(
    connection: Connection, query: Select[Any], reader: str = "", **values: Any
) -> list[Case]:
    """The cases of a query with these values, each with its last review."""
    return with_reviews(connection, list(connection.execute(query, values)), reader)


def with_reviews(connection: Connection, rows: Sequence[Any], reader: str) -> list[Case]:
    """Cases of rows with their last reviews; blind ones are not blind to who has answered."""
    if not rows:
        return []
    blind = {row.id for row in rows if row.blind}
    if blind and reader:
        answered = select(CASES.c.id).where(CASES.c.id.in_(blind), is_answered(reader))
        blind -= set(connection.execute(answered).scalars())
    reviewed = {row.id: row.reviewed or (row.blind and row.id not in blind) for row in rows}
    last = last_reviews(connection, [row.id for row in rows if row.id not in blind])
    values = (
        {"blind": row.id in blind, "reviewed": reviewed[row.id], "review": last.get(row.id)}
        | (IN_SHADOW if row.shadow else {})
        for row in rows
    )
    return [Case.model_validate(row._asdict() | own) for row, own in zip(rows, values, strict=True)]


def conditions_of(query: CaseQuery) -> ColumnElement[bool]:
    """The conditions as an SQL clause with bound values."""
    clauses: list[tuple[Any, Callable[[Any], ColumnElement[bool]]]] = [
        (query.decisions or None, CASES.c.listed_decision.in_),
        (query.reviewed, partial(is_reviewed, query.reader)),
        (query.mine or None, lambda _: is_read_by(query.reader)),
        (query.predicted_class, lambda name: (CASES.c.predicted_class == name) & ~CASES.c.blind),
        # a visible case of its group would tell that a blind one is deferred
        (query.group, lambda name: (CASES.c.group == name) & ~CASES.c.blind),
        (query.name, _is_named),
        (query.arrived_after, partial(_is_numbered_after, ARRIVALS)),
        (query.reviewed_after, partial(is_reviewed_after, query.reader)),
    ]
    return sa.and_(True, *(clause(value) for value, clause in clauses if value is not None))


def _is_named(part: str) -> ColumnElement[bool]:
    matches = CASES.c.folded_name.contains(folded(part), autoescape=True)
    return CASES.c.id.in_(select(CASES.c.id).where(matches))


def is_reviewed(reader: str, reviewed: bool) -> ColumnElement[bool]:
    """True for cases that are reviewed, or are not; a reader knows of one more than others."""
    settled = CASES.c.reviewed.is_(reviewed)
    if not reader:
        return settled
    answered = is_answered(reader)
    return sa.or_(settled, answered) if reviewed else sa.and_(settled, ~answered)


def is_reviewed_after(reader: str, number: int) -> ColumnElement[bool]:
    """Blind cases tell nobody else that somebody has answered."""
    return _is_numbered_after(REVIEWS, number) & (~CASES.c.blind | is_answered(reader))


def _is_numbered_after(table: sa.Table, number: int) -> ColumnElement[bool]:
    return CASES.c.id.in_(select(table.c.case_id).where(table.c.number > number))
