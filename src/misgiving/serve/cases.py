"""`/cases`: the worklist, one case with its pictures, and what a person says of it."""

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response, StreamingResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from misgiving.errors import UsageError
from misgiving.serve.dependencies import Served, TheCase
from misgiving.serve.images import UNKNOWN, as_jpeg, media_type
from misgiving.serve.problems import ProblemError, content, documented
from misgiving.serve.records import Case, CaseWithHistory, Moment, Outcome, Review
from misgiving.serve.store import Filter, Known, NewerReviewError, Order
from misgiving.serve.worklist import csv_lines

router = APIRouter(tags=["cases"])

NO_NUL = r"^[^\x00]*$"  # which PostgreSQL cannot store
KEPT = {"Cache-Control": "private, max-age=86400"}  # a case's pictures do not change
BAD_QUERY = documented(HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE)
NO_CASE = {**documented(HTTPStatus.NOT_FOUND), **BAD_QUERY}
BAD_BODY = documented(
    HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE
)
BINARY = {"type": "string", "format": "binary"}
JPEG = content("image/jpeg", BINARY)
ANY_IMAGE = content("image/*", BINARY)
CSV = content("text/csv", {"type": "string"})


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a moment needs its time zone, such as Z")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("a moment must lie between the years 1 and 9999 of UTC") from error


Instant = Annotated[datetime, AfterValidator(_utc)]
Since = Annotated[Instant | None, Query(description="At this moment, or later.")]


class Cases(BaseModel):
    """A part of the worklist."""

    cases: list[Case]
    total: int = Field(description="How many cases the filter lets through.")
    counts: dict[Outcome, int] = Field(description="Of each decision, whatever the filter.")
    asked_at: Moment = Field(description="By the service's clock; for what comes later.")
    cursor: str | None = Field(description="Give it back for what follows; null: no more.")


class _Remark(BaseModel):
    model_config = ConfigDict(extra="forbid")

    note: str = Field(default="", max_length=2000, pattern=NO_NUL)
    reviewer: str = Field(default="", max_length=200, pattern=NO_NUL)
    seen: Instant | None = Field(
        default=None,
        description="When the last review that is known was made; null: there was none. Where it "
        "is given, a newer review of another person is a conflict.",
    )

    @property
    def known(self) -> Known | None:
        """What the reviewer says to know; None: nothing was said."""
        return Known(self.seen) if "seen" in self.model_fields_set else None


class Agree(_Remark):
    """The model's class stands."""

    verdict: Literal["agree"]

    def final_class(self, case: Case) -> str:
        """The class that holds from now on."""
        return case.predicted_class


class Override(_Remark):
    """Another class, or the same one named explicitly."""

    verdict: Literal["override"]
    named: str = Field(alias="class", max_length=255, description="The class that holds.")

    def final_class(self, case: Case) -> str:
        """The class that holds from now on."""
        if self.named not in case.probabilities:
            raise UsageError(
                f"unknown class {self.named!r}; choose from {', '.join(case.probabilities)}"
            )
        return self.named


Remark = Annotated[Agree | Override, Field(discriminator="verdict")]


def _filter(
    decision: Annotated[list[Outcome] | None, Query(description="Any of these.")] = None,
    reviewed: Annotated[bool | None, Query(description="By a person.")] = None,
    predicted_class: Annotated[
        str | None,
        Query(alias="class", max_length=255, pattern=NO_NUL, description="As the model says it."),
    ] = None,
    received_since: Since = None,
    reviewed_since: Since = None,
) -> Filter:
    return Filter(
        decisions=tuple(decision or ()),
        reviewed=reviewed,
        predicted_class=predicted_class,
        received_since=received_since,
        reviewed_since=reviewed_since,
    )


Wanted = Annotated[Filter, Depends(_filter)]
Ordered = Annotated[Order, Query(description="Probably wrong first, or newest first.")]


@router.get("/cases", responses=BAD_QUERY)
def cases(
    service: Served,
    wanted: Wanted,
    order: Ordered = "expected_error",
    limit: Annotated[int, Query(ge=1, le=500, description="Cases at once, at most.")] = 50,
    cursor: Annotated[str | None, Query(max_length=200, description="Of the part before.")] = None,
) -> Cases:
    """The worklist, part by part."""
    asked_at = datetime.now(UTC)
    page = service.store.page(wanted, order, limit=limit, cursor=cursor)
    return Cases(
        cases=page.cases,
        cursor=page.cursor,
        total=service.store.count(wanted),
        counts=service.store.counts(),
        asked_at=asked_at,
    )


@router.get("/cases.csv", responses={**CSV, **BAD_QUERY}, response_class=Response)
def cases_as_csv(
    service: Served, wanted: Wanted, order: Ordered = "expected_error"
) -> StreamingResponse:
    """The whole worklist as CSV; texts that a spreadsheet would compute begin with `'`."""
    named = {"Content-Disposition": 'attachment; filename="cases.csv"'}
    lines = csv_lines(service.store.all(wanted, order))
    return StreamingResponse(lines, media_type="text/csv; charset=utf-8", headers=named)


@router.get("/cases/{id}", responses=NO_CASE)
def case(service: Served, found: TheCase) -> CaseWithHistory:
    """One case with all its reviews."""
    return _with_history(service, found)


@router.post(
    "/cases/{id}/review", responses={**NO_CASE, **BAD_BODY, **documented(HTTPStatus.CONFLICT)}
)
def review(service: Served, found: TheCase, remark: Remark) -> CaseWithHistory:
    """Say that the model's class stands, or which class holds; earlier reviews are kept."""
    said = Review(
        verdict=remark.verdict,
        final_class=remark.final_class(found),
        note=remark.note,
        reviewer=remark.reviewer,
        reviewed_at=datetime.now(UTC),
    )
    try:
        service.store.review(found.id, said, known=remark.known)
    except NewerReviewError as error:
        raise _conflict(error.last) from error
    return _with_history(service, found)


def _conflict(last: Review | None) -> ProblemError:
    if last is None:
        detail = "nobody has reviewed this case: `seen` must be null"
        return ProblemError(HTTPStatus.CONFLICT, detail, review=None)
    return ProblemError(
        HTTPStatus.CONFLICT,
        f"{last.reviewer or 'Another person'} has reviewed this case meanwhile and said "
        f"{last.final_class}; look at it, and review it again",
        review=last.model_dump(mode="json"),
    )


@router.get("/cases/{id}/thumbnail", responses={**JPEG, **NO_CASE}, response_class=Response)
async def thumbnail(service: Served, found: TheCase) -> Response:
    """The image as the model saw it; for recent cases, or where image files are kept."""
    square = await service.square(found)
    if square is None:
        raise ProblemError(
            HTTPStatus.NOT_FOUND,
            "the image is no longer in memory; start the service with --keep-images to keep images",
        )
    return Response(as_jpeg(square), media_type="image/jpeg", headers=KEPT)


@router.get("/cases/{id}/image", responses={**ANY_IMAGE, **NO_CASE}, response_class=Response)
def image(service: Served, found: TheCase) -> Response:
    """The file as it was sent; only where image files are kept."""
    data = service.image(found)
    if data is None:
        raise ProblemError(
            HTTPStatus.NOT_FOUND,
            "the file was not kept; start the service with --keep-images to keep those to come",
        )
    kind = media_type(data)
    shown = "attachment" if kind == UNKNOWN else "inline"
    return Response(data, media_type=kind, headers={**KEPT, "Content-Disposition": shown})


def _with_history(service: Served, found: Case) -> CaseWithHistory:
    reviews = service.store.reviews(found.id)
    values = {**found.model_dump(), "reviewed": bool(reviews), "reviews": reviews}
    return CaseWithHistory.model_validate({**values, "review": reviews[-1] if reviews else None})
