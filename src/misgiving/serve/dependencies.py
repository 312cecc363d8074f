"""What routes ask for."""

from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Path, Request

from misgiving.serve.problems import ProblemError
from misgiving.serve.records import Case
from misgiving.serve.service import Service


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Served = Annotated[Service, Depends(_service)]
CaseId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="The id of a case.")]


def _case(id: CaseId, service: Served) -> Case:
    case = service.store.case(id)
    if case is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, f"there is no case {id}; GET /cases lists them")
    return case


TheCase = Annotated[Case, Depends(_case)]
