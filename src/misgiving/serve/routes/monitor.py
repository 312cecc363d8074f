"""`/monitor`: the page of the operator."""

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from misgiving.serve.history import monitor_page
from misgiving.serve.service import ServiceDep

router = APIRouter(include_in_schema=False)


@router.get("/monitor", response_class=HTMLResponse)
def get_monitor(service: ServiceDep) -> HTMLResponse:
    """Show what happened over time."""
    return HTMLResponse(monitor_page(service))
