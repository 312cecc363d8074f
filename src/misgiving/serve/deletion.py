"""Deletion of cases, of which audits and drift tests keep what says nothing about a person.

Both are sequential: without the outcomes and scores of deleted cases, their evidence would change.
"""

import secrets
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from misgiving.errors import DataError, Parameter
from misgiving.serve.case import (
    ARRIVALS,
    CASES,
    DELETED,
    REVIEWS,
    STORE_TABLES,
    Review,
    standing,
    zulu,
)
from misgiving.serve.found_wrong import FoundWrongRecord
from misgiving.serve.kept_images import KeptImages
from misgiving.serve.monitor import DEFERRED_BY_ALARM
from misgiving.serve.reviews import reviews_by_case
from misgiving.serve.store import Store

BATCH = 500  # cases in one transaction, for which others wait


class Deletion(NamedTuple):
    """Numbers of cases.

    Attributes:
        deleted: Deleted cases.
        blind: Open blind cases, which were deleted or spared.
        untold: Accepted answers found wrong of which nobody was told; they were deleted or spared.
    """

    deleted: int
    blind: int
    untold: int


def delete_cases(
    store: Store, images: KeptImages | None, chosen: ColumnElement[bool], *, sparing: bool = False
) -> Deletion:
    """Delete cases with their reviews and images.

    A kill leaves whole cases, some perhaps without their image; the same call deletes the rest.

    Args:
        store: Has the cases.
        images: Has the image files.
        chosen: Condition on the columns of `CASES`.
        sparing: Spare open blind cases, and accepted answers found wrong of which nobody was told.

    Raises:
        DataError: Cases have images, and there is no folder.
    """
    total = Deletion(0, 0, 0)
    check_folder(store, images, chosen)
    with store.begin() as connection:
        ids = connection.execute(select(CASES.c.id).where(chosen)).scalars().all()
    for start in range(0, len(ids), BATCH):
        with store.begin(writing=True) as connection:  # uploads and reviews wait
            arrived = select(CASES, ARRIVALS.c.number).select_from(CASES).join(ARRIVALS)
            batch = arrived.where(CASES.c.id.in_(ids[start : start + BATCH]))
            rows = connection.execute(batch).all()
            blind = {row.id for row in rows if row.blind}
            found_wrong = FoundWrongRecord(store).answers(states=("open", "contradicted"))
            untold = {row.id for row in rows} & {answer.id for answer in found_wrong.answers}
            spared = blind | untold if sparing else set()
            rows = [row for row in rows if row.id not in spared]
            _delete(connection, rows, images)
        numbers = len(rows), len(blind), len(untold)
        total = Deletion(*map(sum, zip(total, numbers, strict=True)))
    store.clear_log()
    return total


def check_folder(store: Store, images: KeptImages | None, chosen: ColumnElement[bool]) -> None:
    """Raise DataError if there is no folder, and cases have images."""
    with store.begin() as connection:
        has_image = select(CASES.c.id).where(chosen, CASES.c.image_kept).limit(1)
        if images is None and connection.execute(has_image).first():
            raise DataError("cases have images; give their folder as ", Parameter("keep_images"))


def _delete(connection: Connection, rows: Sequence[Any], images: KeptImages | None) -> None:
    ids = [row.id for row in rows]
    reviews = reviews_by_case(connection, REVIEWS.c.case_id.in_(ids))
    evidence = [row for row in rows if row.policy_fingerprint is not None and row.place is None]
    if evidence:
        kept = [_kept(row, reviews.get(row.id, [])) for row in evidence]
        connection.execute(insert(DELETED), kept)
    for table in reversed(STORE_TABLES.sorted_tables):
        key = CASES.c.id if table is CASES else table.columns.get("case_id")
        if key is not None:
            connection.execute(delete(table).where(key.in_(ids)))
    _forget_groups(connection, {row.group for row in rows} - {None})
    if images is not None:  # before the commit: a repetition finds them by their cases
        _delete_images(connection, {row.sha256 for row in rows if row.image_kept}, images)


def _delete_images(connection: Connection, files: set[str], images: KeptImages) -> None:
    """Delete the files that no case has any more."""
    used = select(CASES.c.sha256).where(CASES.c.sha256.in_(files), CASES.c.image_kept)
    for sha256 in files.difference(connection.execute(used).scalars()):
        images.delete(sha256)


def _forget_groups(connection: Connection, groups: Iterable[str]) -> None:
    """Rename the groups of deleted cases that no case has any more."""
    for group in groups:
        if not connection.execute(select(CASES.c.id).where(CASES.c.group == group)).first():
            renamed = update(DELETED).where(DELETED.c.group == group)
            connection.execute(renamed.values(group=secrets.token_hex(8)))


def _kept(row: Any, reviews: Sequence[Review]) -> dict[str, Any]:
    """Facts for audits and drift tests: times are days, and a group is named while it has cases."""
    blind = [review for review in reviews if review.blind]
    same = ("number", "policy_fingerprint", "decision", "audited", "shadow", "acceptance_score")
    return {
        **{name: getattr(row, name) for name in (*same, "ood_score")},
        "group": row.group if row.audited else None,
        "received": _day(row.received),
        "tested": row.reason != DEFERRED_BY_ALARM and not row.is_copy,
        "standing": standing(reviews),
        "answered": _day(zulu(blind[-1].reviewed_at)) if blind else None,
    }


def _day(time: str) -> str:
    return f"{time[:10]}T00:00:00.000000Z"
