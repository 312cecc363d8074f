"""`/health`, `/metrics` and `/drift`."""

from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import generate_latest
from pydantic import BaseModel

from misgiving.serve.drift_tracker import Drift
from misgiving.serve.problems import ProblemError, content, documented
from misgiving.serve.routes import ServiceDep
from misgiving.serve.routes.model import NO_POLICY

router = APIRouter(tags=["monitoring"])

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class Health(BaseModel):
    """The service works."""

    status: Literal["ok"]


@router.get("/health", responses=documented(HTTPStatus.SERVICE_UNAVAILABLE))
def check_health(service: ServiceDep) -> Health:
    """Check the database and the threads; needs no key."""
    service.store.ping()
    if not service.alive:
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "a thread of the service has ended, or all decoding threads hang; restart the service",
        )
    return Health(status="ok")


@router.get(
    "/metrics", responses=content("text/plain", {"type": "string"}), response_class=Response
)
async def get_metrics(service: ServiceDep) -> Response:
    """Get the metrics in Prometheus' text format."""
    service.metrics.waiting.set(service.admission.images)
    service.metrics.hung_readers.set(service.workers.hung)
    service.metrics.held_bytes.set(service.admission.held_bytes)
    return Response(generate_latest(service.metrics.registry), media_type=PROMETHEUS)


@router.get("/drift", responses=documented(HTTPStatus.SERVICE_UNAVAILABLE))
def get_drift(service: ServiceDep) -> Drift:
    """Test for drift; the tests may be read after every case."""
    return Drift(summary=NO_POLICY) if service.drift is None else service.drift.update()
