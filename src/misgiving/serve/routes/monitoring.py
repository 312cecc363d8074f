"""`/health`, `/metrics` and `/drift`."""

from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, Field

from misgiving.deferral.drift import FALSE_ALARMS
from misgiving.serve.drift_tracker import DriftStatus
from misgiving.serve.problems import ProblemError, content, documented
from misgiving.serve.routes import ServiceDep
from misgiving.serve.routes.model import NO_POLICY
from misgiving.serve.schemas import Moment

router = APIRouter(tags=["monitoring"])

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
NO_DRIFT = "There is no evidence that the images have changed since the calibration."
DRIFT = (
    "The images are no longer like the calibration cases, so the target error rate may be "
    "exceeded. Look at the deferred and the accepted cases, and calibrate with new ones."
)


class Health(BaseModel):
    """The service works."""

    status: Literal["ok"]


class DriftTest(BaseModel):
    """A sequential test, valid at any time."""

    name: str
    e_value: float = Field(description="Starts at 1, and grows with the evidence of a change.")
    highest: float
    alarm_at: float
    since: Moment | None = Field(description="Time of the alarm.")
    sentence: str = Field(description="The latest cases in words.")
    alarmed_with: str | None = Field(description="The cases before the alarm in words.")


class Drift(BaseModel):
    """Comparison of the cases with the calibration cases."""

    alarm: bool
    summary: str
    false_alarms: float = Field(description="Probability of any false alarm, ever.")
    cases: int = Field(description="Number of different images that were tested.")
    complete: bool = Field(description="False if more cases wait: ask again.")
    tests: list[DriftTest]


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
    return Response(service.metrics.text(), media_type=PROMETHEUS)


@router.get("/drift", responses=documented(HTTPStatus.SERVICE_UNAVAILABLE))
def get_drift(service: ServiceDep) -> Drift:
    """Test for drift; the tests may be read after every case."""
    status = DriftStatus() if service.drift is None else service.drift.update()
    alarm = bool(status.since)
    return Drift(
        alarm=alarm,
        summary=NO_POLICY if service.drift is None else DRIFT if alarm else NO_DRIFT,
        false_alarms=FALSE_ALARMS,
        cases=status.cases,
        complete=status.complete,
        tests=[
            DriftTest(**{**one._asdict(), "since": status.since.get(one.name)})
            for one in status.tests
        ],
    )
