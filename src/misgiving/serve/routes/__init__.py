"""Routes of the API, one file per resource, and the dependencies that they share."""

from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Path, Request

from misgiving.serve.problems import ProblemError
from misgiving.serve.schemas import Case
from misgiving.serve.service import Service

CASE_ID = "^[0-9a-f]{32}$"


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service)]
CaseId = Annotated[str, Path(pattern=CASE_ID, description="The id of a case.")]


def _case(id: CaseId, service: ServiceDep) -> Case:
    case = service.store.case(id)
    if case is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, f"there is no case {id}; GET /cases lists them")
    return case


CaseDep = Annotated[Case, Depends(_case)]
