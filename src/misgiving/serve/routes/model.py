"""`/model`, `/calibration`, `/drift`, `/health`, `/metrics`, `/monitor`: model and state."""

import platform
import shlex
from functools import cache
from http import HTTPStatus
from importlib.metadata import distributions
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from prometheus_client import generate_latest
from pydantic import BaseModel, Field

from misgiving.deferral.decisions import Number
from misgiving.deferral.policy import Policy
from misgiving.deferral.sentences import lines
from misgiving.errors import DataError
from misgiving.serve.audits import Audit
from misgiving.serve.history import monitor_page
from misgiving.serve.monitor import Drift
from misgiving.serve.problems import Metrics, ProblemError, content, documented
from misgiving.serve.service import ServiceDep, key_of
from misgiving.serve.settings import Role

router, without_key = APIRouter(), APIRouter()

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
SHOWN_PACKAGES = ("misgiving", "numpy", "onnxruntime", "pillow", "fastapi", "sqlalchemy")
NOTICE = (
    "For research, and for experts who check every decision. Not a medical device; not for "
    "diagnosis."
)
SHOWN_LIMITS = ("max_bytes", "max_pixels", "max_files", "queue", "timeout")
EACH_VALUE = "each value has a threshold of its own, so that no other target can be previewed"
CALIBRATE_FIRST = "this model has no policy; run `misgiving calibrate` and export the model again"


class ModelDescription(BaseModel):
    """The model, its policy, and the limits of a request."""

    classes: list[str]
    class_names: dict[str, str] = Field(description="Long names, by class.")
    model_fingerprint: str
    policy_fingerprint: str | None
    policy: list[str] | None = Field(description="The policy in words; null: no policy.")
    card: dict[str, Any] = Field(description="The model card.")
    versions: dict[str, str]
    limits: dict[str, int | float] = Field(
        description="Bytes and pixels of one image, files and seconds of one request, and images "
        "that may wait."
    )
    keeps_images: bool
    audits: bool = Field(description="Some cases are read blind.")
    shadow: bool = Field(description="Every case is read blind, and deferred for everyone.")
    reviews: int | None = Field(description="Cases that can be read in a day.")
    look_again: bool = Field(description="Readers are asked to look again at some answers.")
    key: str | None = Field(description="Name of the key that was sent; null: without keys.")
    role: Role | None = Field(description="Its role.")
    notice: str


class CalibrationPoint(BaseModel):
    """Coverage and error on the calibration cases at one threshold."""

    threshold: Number = Field(description="Lowest accepted score; null: no threshold.")
    accepted: int = Field(description="Number of accepted cases.")
    wrong: int = Field(description="Number of accepted cases that are wrong.")
    coverage: float = Field(description="Share of all cases, or of the pool, that is accepted.")
    error: float | None = Field(description="Share of the accepted cases that is wrong.")
    bound: float = Field(
        description="Upper bound of the error; holds for all operating points at once."
    )


class SavedPolicy(BaseModel):
    """The policy that decides."""

    max_error: float | None = Field(description="Target error rate among accepted images.")
    max_silent_error: float | None = Field(
        description="Target share of all images that are accepted with a wrong answer."
    )
    max_deferred: float | None = Field(description="Target share of all images that is deferred.")
    for_each: str | None = Field(description="Column of which each value has a threshold.")
    guarantee: str = Field(description="Targets hold with a confidence (confident) or on average.")
    accepts: bool = Field(description="False if it defers everything.")
    threshold: Number = Field(description="Lowest accepted score; null: none, or accepts all.")
    ood_threshold: float | None
    class_targets: list[str] = Field(description="Classes with a limit on missed cases.")
    superclasses: dict[str, list[str]] = Field(
        description="Classes of each superclass where these are answered; else empty."
    )
    rule: str = Field(description="Rule by which the answer is predicted.")
    naming: str = Field(description="Sentence on that rule, with its costs.")
    max_error_probability: float = Field(
        description="Highest error probability of an answer that can be accepted."
    )


class Calibration(BaseModel):
    """Operating points that the calibration cases can judge; for comparison only."""

    unavailable: str | None = Field(
        default=None, description="Reason why there are no operating points."
    )
    confidence: float | None = None
    cases: int = 0
    pool: int | None = Field(
        default=None, description="Images from which the cases were drawn above a limit."
    )
    operating_points: list[CalibrationPoint] = Field(default=[], description="Strictest first.")
    policy: SavedPolicy | None = None
    command: str | None = Field(
        default=None, description="Calibrates; replace {max_error} by the target."
    )


@cache
def _versions() -> dict[str, str]:
    """Versions of what is installed: another package may be in its place, as onnxruntime-gpu."""
    installed = {
        name: package.version for name in SHOWN_PACKAGES for package in distributions(name=name)
    }
    return {"python": platform.python_version(), **installed}


@router.get("/model", tags=["model"])
def describe_model(request: Request, service: ServiceDep) -> ModelDescription:
    """Describe the model: card, policy, versions, and limits of a request."""
    model, key = service.model, key_of(request)
    return ModelDescription(
        classes=list(model.classes),
        class_names=dict(service.settings.class_names),
        model_fingerprint=model.fingerprint,
        policy_fingerprint=service.policy_fingerprint,
        policy=None if model.policy is None else model.card["targets"],
        card=dict(model.card),
        versions=_versions(),
        limits={name: getattr(service.settings, name) for name in SHOWN_LIMITS},
        keeps_images=service.files is not None,
        audits=service.settings.shadow or bool(service.store.audits()),
        shadow=service.settings.shadow,
        reviews=service.settings.reviews,
        look_again=service.settings.look_again,
        key=key and key.name,
        role=key and key.role,
        notice=NOTICE,
    )


@router.get("/calibration", tags=["model"])
def list_operating_points(service: ServiceDep) -> Calibration:
    """List coverage and error at every operating point, with simultaneous bounds."""
    policy = service.model.policy
    if policy is None:
        return Calibration(unavailable=CALIBRATE_FIRST)
    certificate, targets = policy.certificate, policy.certificate.targets
    return Calibration(
        unavailable=EACH_VALUE if certificate.by_value else None,
        confidence=targets.confidence,
        cases=certificate.cases,
        pool=None if certificate.pool is None else len(certificate.pool.scores),
        operating_points=[
            CalibrationPoint(**point._asdict()) for point in certificate.operating_points
        ],
        policy=SavedPolicy(
            max_error=targets.max_error,
            max_silent_error=targets.max_silent_error,
            max_deferred=targets.max_deferred,
            for_each=targets.for_each,
            guarantee=certificate.guarantee,
            accepts=certificate.accepted > 0,
            threshold=certificate.accept_threshold,
            ood_threshold=certificate.ood_threshold,
            class_targets=list(targets.class_max_miss),
            superclasses={name: [*targets.members(name)] for name in targets.superclasses}
            if targets.answer_level == "superclass"
            else {},
            rule=policy.rule.rule,
            naming=lines("policy.txt", "predicts", policy)[0],
            max_error_probability=policy.rule.max_error_probability,
        ),
        command=command(policy, of_graph=service.model.card.get("training") == {}),
    )


@without_key.get(
    "/health", tags=["monitoring"], responses=documented(HTTPStatus.SERVICE_UNAVAILABLE)
)
async def check_health(service: ServiceDep) -> dict[Literal["status"], Literal["ok", "busy"]]:
    """Check that an image could be decided, and its case stored, some seconds ago; needs no key.

    While it waits for the images of others, the service is busy, and a restart would not help.
    """
    try:
        return {"status": await service.check()}
    except (TimeoutError, DataError) as failure:
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "an image cannot be decided and stored in time; restart the service if this lasts",
        ) from failure


@router.get(
    "/metrics",
    tags=["monitoring"],
    responses=content("text/plain", {"type": "string"}),
    response_class=Response,
)
def get_metrics(service: ServiceDep) -> Response:
    """Get the metrics in Prometheus' text format."""
    wrong = service.found_wrong.answers(states=())
    for state, count in wrong.counts.items():
        service.metrics.found_wrong.labels(state).set(count)
    service.metrics.found_wrong_overdue.set(wrong.overdue)
    if service.monitor is not None:
        drift = service.monitor.drift
        if audit := service.monitor.audit():
            _set_audit(service.metrics, audit)
        service.metrics.drift_alarm.set(drift.alarm)
        service.metrics.drift_cases.set(drift.cases)
        for test in drift.tests:
            service.metrics.drift_e_value.labels(test.name).set(test.e_value)
    return Response(generate_latest(service.metrics.registry), media_type=PROMETHEUS)


def _set_audit(metrics: Metrics, audit: Audit) -> None:
    metrics.audit_alarm.set(audit.alarm)
    metrics.audit_upper.set(audit.upper or 1.0)
    for kind in ("audited", "wrong", "unconfirmed", "overdue", "repeated", "repeated_wrong"):
        metrics.audit_answers.labels(kind).set(getattr(audit, kind))
    metrics.group_cases.clear()  # whose cases may be deleted
    for group, number in (audit.large_groups or {}).items():
        metrics.group_cases.labels(group).set(number)


@router.get("/drift", tags=["monitoring"])
async def get_drift(service: ServiceDep) -> Drift:
    """Get the drift tests, which are updated a few seconds after a case and may always be read."""
    return Drift(summary=CALIBRATE_FIRST) if service.monitor is None else service.monitor.drift


@router.get("/monitor", include_in_schema=False, response_class=HTMLResponse)
def get_monitor(service: ServiceDep) -> HTMLResponse:
    """Show what happened over time."""
    return HTMLResponse(monitor_page(service))


def command(policy: Policy, *, of_graph: bool = False) -> str:
    """The command that certifies another target error rate and is otherwise the same.

    It has no `guarantee`: on average this target is for batches, which are not served. A graph that
    was made elsewhere has no run, so that new predictions of it are calibrated on.
    """
    cases = ["NEW_PREDICTIONS.csv", "--out", "POLICY"] if of_graph else ["RUN", "NEW_CASES"]
    words = ["misgiving", "calibrate", *cases, "--max-error", "{max_error}"]
    targets = policy.certificate.targets
    options = vars(targets) | vars(policy.rule)
    options["max_ood_false_alarms"] = targets.max_ood_false_alarms or "off"
    options |= {"ood_detector": policy.ood_detector, "seed": policy.seed}
    for name, value in options.items():
        option = name.replace("_", "-")
        if name == "superclasses":
            words += [f"--{option} SUPERCLASSES.json"] if value else []
        elif isinstance(value, dict):
            pairs = (shlex.quote(f"{key}={number}") for key, number in value.items())
            words += [f"--{option} {pair}" for pair in pairs]
        elif isinstance(value, bool):
            words += [] if value else [f"--no-{option}"]
        elif name != "max_error" and value is not None:
            words += [f"--{option}", str(value)]
    return " ".join([*words, "--overwrite"])
