"""Routes of the API, one file per resource, and the dependencies that they share."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from threading import BoundedSemaphore
from typing import Annotated

from fastapi import Depends, Path, Request

from misgiving.serve.problems import ProblemError, too_busy
from misgiving.serve.schemas import Case
from misgiving.serve.service import Service


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service)]
CASE_ID = "^[0-9a-f]{32}$"
CaseId = Annotated[str, Path(pattern=CASE_ID, description="The id of a case.")]


def _case(id: CaseId, service: ServiceDep) -> Case:
    case = service.store.case(id)
    if case is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, f"there is no case {id}; GET /cases lists them")
    return case


CaseDep = Annotated[Case, Depends(_case)]


@contextmanager
def slot_of(slots: BoundedSemaphore, work: str) -> Iterator[None]:
    """Hold one of a few slots for work during the block; 429 if all are taken."""
    if not slots.acquire(blocking=False):
        raise too_busy(f"too many {work} at once; send the request again after Retry-After seconds")
    try:
        yield
    finally:
        slots.release()
