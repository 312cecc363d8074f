"""`/health`, `/model` and `/metrics`: the service about itself."""

import importlib.metadata
import platform
from http import HTTPStatus
from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, Field

from misgiving.serve.dependencies import Served
from misgiving.serve.problems import ProblemError, content, documented

router = APIRouter(tags=["service"])

PACKAGES = ("misgiving", "numpy", "onnxruntime", "pillow", "fastapi", "sqlalchemy")
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
TEXT = content("text/plain", {"type": "string"})


class Health(BaseModel):
    """The service can answer."""

    status: Literal["ok"]


class Limits(BaseModel):
    """What one request may be."""

    max_bytes: int = Field(description="Of one file.")
    max_pixels: int = Field(description="Of one image.")
    max_decoded_bytes: int = Field(
        description="Of images that are decoded at once; others wait their turn."
    )
    max_files: int = Field(description="In one request.")
    queue: int = Field(description="Images that may wait.")
    timeout: float = Field(description="Seconds of one request.")


class Description(BaseModel):
    """The model, its policy, and how to use both."""

    classes: list[str]
    model_fingerprint: str
    policy_fingerprint: str | None
    policy: list[str] | None = Field(description="What is promised, in words; null: no policy.")
    card: dict[str, Any] = Field(description="The model card.")
    versions: dict[str, str]
    limits: Limits
    keeps_images: bool
    notice: str


NOTICE = (
    "For research and for experts who check every answer. Not a medical device: no answer of it "
    "is a diagnosis."
)


@router.get("/health", responses=documented(HTTPStatus.SERVICE_UNAVAILABLE))
def health(service: Served) -> Health:
    """Whether the store answers and images can be decoded and answered; needs no key."""
    service.store.ping()
    if not service.alive:
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "a thread of the service has ended, or all that decode images hang; start it again",
        )
    return Health(status="ok")


@router.get("/model")
async def model(service: Served) -> Description:
    """The model card, the policy in words, versions, and the limits of a request."""
    found = service.model
    return Description(
        classes=list(found.classes),
        model_fingerprint=found.fingerprint,
        policy_fingerprint=service.policy_fingerprint,
        policy=None if found.policy is None else found.policy.summary(),
        card=dict(found.card),
        versions=_versions(),
        limits=Limits.model_validate(service.settings, from_attributes=True),
        keeps_images=service.kept is not None,
        notice=NOTICE,
    )


@router.get("/metrics", responses=TEXT, response_class=Response)
async def metrics(service: Served) -> Response:
    """Counts and times in Prometheus' text format."""
    service.monitoring.waiting.set(service.admission.images)
    service.monitoring.hung_readers.set(service.readers.hung)
    service.monitoring.held_bytes.set(service.admission.held_bytes)
    return Response(service.monitoring.text(), media_type=PROMETHEUS)


def _versions() -> dict[str, str]:
    known = {one.metadata["Name"].lower() for one in importlib.metadata.distributions()}
    versions = {name: importlib.metadata.version(name) for name in PACKAGES if name in known}
    return {"python": platform.python_version(), **versions}
