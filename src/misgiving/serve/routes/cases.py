"""`/cases`: the worklist, its CSV, single cases with their images, and reviews."""

import io
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from PIL import Image
from pydantic import AwareDatetime, BaseModel, Field, model_validator

from misgiving.deferral.decisions import Outcome
from misgiving.errors import UsageError
from misgiving.serve import fhir
from misgiving.serve.case import (
    ANY_READER,
    BlindCase,
    Case,
    CaseQuery,
    CaseWithHistory,
    OverrideReason,
    Review,
    StorableText,
    Verdict,
    zulu,
)
from misgiving.serve.problems import BINARY, ProblemError, content, documented
from misgiving.serve.routes.tables import CSV, cases_as_csv
from misgiving.serve.service import ReaderDep, Service, ServiceDep, client_of, key_of, reader_of

router = APIRouter(
    tags=["cases"],
    responses=documented(HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
)

CASE_ID = "^[0-9a-f]{32}$"
CURSOR = r"^(-?[0-9]{1,18}(\.[0-9]{1,18})?(e-[0-9]{1,3})?_)?[0-9a-f]{32}$"
TIME = r"^[\d-]{10}T[\d:.]{15}Z$"
NO_CASE = documented(HTTPStatus.NOT_FOUND)
BAD_REVIEW = documented(
    HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.CONFLICT
)
PAGE_NUMBERS = 50_000  # probabilities on one page, of about 30 bytes each
CACHED = {"Cache-Control": "private, max-age=86400"}  # the input of one model never changes
SHOWABLE = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"RIFF": "image/webp",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
}
"""Types by the first bytes of a file."""
LONGEST_START = max(map(len, SHOWABLE))
UNKNOWN_TYPE = "application/octet-stream"
NO_IMAGE = (
    "this instance does not have the image: it has left the memory, or another instance received "
    "it, and image files are not kept (option keep_images)"
)
BLIND = "this case is read blind until its reader has answered"


CaseId = Annotated[str, Path(pattern=CASE_ID, description="The id of a case.")]


def _case(request: Request, id: CaseId, service: ServiceDep, reader: ReaderDep) -> Case:
    case, key = service.store.cases([id], reader).get(id), key_of(request)
    sender = key.name if key and key.role == "send" else None
    if case and sender in (None, case.sent_by):
        return case if sender is None else case.as_sent(sender)
    raise ProblemError(HTTPStatus.NOT_FOUND, f"there is no case {id}; GET /cases lists them")


CaseDep = Annotated[Case, Depends(_case)]
OpenedCase = CaseWithHistory | BlindCase
Stored = TypeVar("Stored")


class CasePage(BaseModel):
    """One page of the worklist."""

    cases: list[Case | BlindCase]
    total: int = Field(description="Number of cases that match the filter.")
    reviewed: int = Field(description="Number of these that are reviewed.")
    counts: dict[Outcome, int] = Field(description="Number of all cases by decision.")
    last_arrival: int = Field(
        description="Number of the last case in the store; a later query with `arrived_after` "
        "finds what has come since, whatever the clocks of several services say."
    )
    last_review: int = Field(description="The same of reviews, for `reviewed_after`.")
    cursor: str | None = Field(description="For the next page; null: this is the last one.")


class NewReview(BaseModel, extra="forbid"):
    """A reviewer's verdict on a case."""

    verdict: Verdict
    chosen_class: str | None = Field(
        default=None,
        alias="class",
        max_length=255,
        description="The class after this review; only with `override`.",
    )
    override_reason: OverrideReason | None = None
    note: StorableText = Field(default="", max_length=2000)
    reviewer: StorableText = Field(default="", max_length=200)
    seen: AwareDatetime | None = Field(
        default=None,
        description="`reviewed_at` of the last review that the reviewer knows; null: none. A newer "
        "review is then a conflict.",
    )

    @model_validator(mode="after")
    def _check_class(self) -> "NewReview":
        if (self.verdict == "override") != (self.chosen_class is not None):
            raise ValueError("give `class` with override, and with no other verdict")
        return self


class CasePageQuery(CaseQuery):
    """Query parameters of one page of the worklist."""

    limit: int = Field(default=50, ge=1, le=500, description="Cases per page.")
    cursor: str | None = Field(
        default=None, pattern=CURSOR, description="`cursor` of the previous page."
    )


@router.get("/cases")
def list_cases(
    request: Request, service: ServiceDep, query: Annotated[CasePageQuery, Query()]
) -> CasePage:
    """List the worklist page by page."""
    query = query.model_copy(update={"reader": reader_of(request, query.reader)})
    # Before the page, so that a later query finds what arrives in between.
    last_arrival, last_review = service.store.latest()
    limit = min(query.limit, max(1, PAGE_NUMBERS // len(service.model.classes)))
    cases, cursor = service.store.page(query, limit=limit, cursor=query.cursor)
    return CasePage(
        cases=[*map(_visible, cases)],
        cursor=cursor,
        total=service.store.count(query),
        reviewed=service.store.count(query, reviewed=True),
        counts=service.store.counts(),
        last_arrival=last_arrival,
        last_review=last_review,
    )


@router.get("/cases.csv", responses=CSV, response_class=Response)
def export_cases(
    request: Request, service: ServiceDep, query: Annotated[CaseQuery, Query()]
) -> StreamingResponse:
    """Export the worklist as CSV; text that a spreadsheet would evaluate starts with `'`.

    The columns `reader_NAME` have the class of each reader's blind answer.
    """
    query = query.model_copy(update={"reader": reader_of(request, query.reader)})
    return cases_as_csv(service, "cases.csv", service.store.all(query))


@router.get("/cases/{id}", responses=NO_CASE | fhir.DOCUMENTED, response_model=OpenedCase)
def get_case(
    request: Request,
    service: ServiceDep,
    id: CaseId,
    reader: ReaderDep,
    limit: Annotated[int, Query(ge=1, le=500, description="Reviews per page.")] = 50,
    cursor: Annotated[str | None, Query(pattern=TIME, description="Of the page before.")] = None,
) -> OpenedCase | Response:
    """Open one case, with its last reviews: the reader's answers to other cases count from now.

    A key to send opens the cases that it sent, without reviews. Who accepts `application/fhir+json`
    gets an Observation of FHIR R4B.
    """
    is_sender = (key := key_of(request)) is not None and key.role == "send"
    if not is_sender:
        service.store.settle_answers(reader, opened=id)
    case = _case(request, id, service, reader)
    opened = case if is_sender else _opened(service, case, reader)
    if fhir.is_accepted(request):
        return fhir.observation_of(opened, service.model)
    if isinstance(opened, BlindCase):
        return opened
    last = [] if is_sender else service.store.reviews(id, limit=limit + 1, before=cursor)
    page = last[-limit:]
    earlier = zulu(page[0].reviewed_at) if len(last) > limit else None
    return CaseWithHistory(**opened.model_dump(), reviews=page, cursor=earlier)


def _opened(service: Service, case: Case, reader: str) -> Case | BlindCase:
    if isinstance(visible := _visible(case), BlindCase):
        answer = None if reader == ANY_READER else service.store.pending_answer(case.id, reader)
        if answer is not None and answer.final_class is not None:  # not told whether it agrees
            answer = answer.model_copy(update={"verdict": "override", "override_reason": None})
        return visible.model_copy(update={"answer": answer})
    return visible


@router.post("/cases/{id}/review", responses={**NO_CASE, **BAD_REVIEW})
def review_case(
    request: Request, service: ServiceDep, case: CaseDep, given: NewReview
) -> Case | BlindCase:
    """Confirm the model's class, choose another one, or name none; earlier reviews are kept.

    Where superclasses are answered, another class of the same one agrees.

    A reader who has not answered a blind case chooses a class by `override`, and can correct it
    until this reader opens another case, or 30 seconds have passed; then the decision appears.
    Other reviews can be withdrawn while they are the last one.
    """
    reviewer = key.name if (key := key_of(request)) else given.reviewer
    case = service.store.cases([case.id], reviewer)[case.id]
    if case.blind and (given.verdict in ("agree", "withdraw") or not reviewer.strip()):
        raise UsageError(f"{BLIND}: give `reviewer`, and `class` with override")
    final_class = case.predicted_class if given.verdict == "agree" else given.chosen_class
    if final_class is not None and final_class not in case.probabilities:
        raise UsageError(
            f"unknown class {final_class!r}; choose from {', '.join(case.probabilities)}"
        )
    policy, agreeing = service.model.policy, {case.predicted_class}
    if policy is not None and case.answer is not None:
        agreeing |= {*policy.certificate.targets.members(case.answer)}
    agrees = given.verdict == "override" and final_class in agreeing
    verdict: Verdict = "agree" if agrees else given.verdict
    review = Review(
        verdict=verdict,
        override_reason=given.override_reason if verdict in ("override", "none") else None,
        note=given.note,
        reviewer=reviewer,
        final_class=final_class,
        reviewed_at=datetime.now(UTC),
    )
    check = "seen" in given.model_fields_set
    # the monitor counts it among the audits at its next update
    stored = service.store.review(case.id, review, last_seen=given.seen, check=check)
    case = service.store.cases([case.id], reviewer)[case.id]
    if not stored:
        raise _conflict(case.review)
    return _opened(service, case, reviewer)


def _conflict(last: Review | None) -> ProblemError:
    detail = "this case has no review: `seen` must be null, and nothing can be withdrawn"
    if last is not None:
        detail = (
            f"{last.reviewer or 'Someone else'} has reviewed this case in the meantime as "
            f"{last.final_class or last.verdict}; look at the case and review it again"
        )
    review = last and last.model_dump(mode="json")
    return ProblemError(HTTPStatus.CONFLICT, detail, review=review)


def _visible(case: Case) -> Case | BlindCase:
    """The case as the reader who asks may see it."""
    if not case.blind:
        return case
    values = case.model_dump(exclude={"answer"})  # the model's; a blind case has the reader's
    values |= {"position": case.position, "classes": list(case.probabilities)}
    return BlindCase.model_validate(values)


@router.get(
    "/cases/{id}/thumbnail",
    responses={**content("image/jpeg", BINARY), **NO_CASE},
    response_class=Response,
)
async def get_thumbnail(request: Request, service: ServiceDep, case: CaseDep) -> Response:
    """Get the image as the model saw it, if the case is recent or files are kept.

    The image of another model's case is as this model sees it, and must not be cached.
    """
    file = io.BytesIO()
    inputs = _available(await service.model_inputs(case, client_of(request)))
    Image.fromarray(inputs[0]).save(file, "JPEG", quality=85)
    headers = CACHED if case.model_fingerprint == service.model.fingerprint else None
    return Response(file.getvalue(), media_type="image/jpeg", headers=headers)


@router.get(
    "/cases/{id}/image",
    responses={**content("image/*", BINARY), **NO_CASE},
    response_class=Response,
)
def get_image(request: Request, service: ServiceDep, case: CaseDep) -> FileResponse:
    """Get the stored copy of the file, whole and without metadata, if files are kept."""
    fields = request.scope["headers"]  # a bad range would be answered in plain text
    request.scope["headers"] = [field for field in fields if field[0] != b"range"]
    path = _available(service.image(case))
    with path.open("rb") as file:
        start = file.read(LONGEST_START)
    # The type as which a browser may show it, whatever the sender said.
    kind = next((kind for begin, kind in SHOWABLE.items() if start.startswith(begin)), UNKNOWN_TYPE)
    disposition = "attachment" if kind == UNKNOWN_TYPE else "inline"
    headers = {**CACHED, "Content-Disposition": disposition}
    return FileResponse(path, media_type=kind, headers=headers)


def _available(image: Stored | None) -> Stored:
    if image is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, NO_IMAGE)
    return image
