"""`/calibration`, `/drift` and `/cases/{id}/saliency`: what a person looks at before deciding."""

import math
import shlex
import threading
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from misgiving.deferral import DeferralPolicy
from misgiving.deferral.drift import FALSE_ALARMS
from misgiving.serve.cases import NO_CASE
from misgiving.serve.dependencies import Served, TheCase
from misgiving.serve.model import Model
from misgiving.serve.problems import ProblemError, documented, too_busy
from misgiving.serve.records import Moment
from misgiving.serve.saliency import Square, Squares, occlusion
from misgiving.serve.watch import Seen

router = APIRouter(tags=["insight"])

NO_POLICY = "no policy is calibrated for this model; run `misgiving calibrate`, and export again"
UNCHANGED = "Nothing shows that the images have changed since the calibration."
CHANGED = (
    "The images are no longer like those that the policy was calibrated with. What it targets "
    "may not hold: look at the deferred and the accepted cases, and calibrate with new ones."
)
TOGETHER = 2  # pictures of importance that are computed at once

_turns = threading.BoundedSemaphore(TOGETHER)


class Setting(BaseModel):
    """What happens among the calibration cases with another threshold."""

    threshold: float | None = Field(description="Lowest score that is accepted; null: all are.")
    accepted: int
    wrong: int = Field(description="Of the accepted.")
    coverage: float = Field(description="Share of all calibration cases that is accepted.")
    error: float | None = Field(description="Share of the accepted that is wrong.")
    bound: float = Field(description="No setting has a higher error, with the confidence, at once.")


class Saved(BaseModel):
    """The policy that decides."""

    max_error: float = Field(description="What is promised of the accepted.")
    accepts: bool = Field(description="Whether it accepts anything.")
    threshold: float | None = Field(description="Lowest score that is accepted; null: all, or none")
    ood_threshold: float | None
    class_promises: list[str] = Field(description="Classes that must not be missed.")


class Curve(BaseModel):
    """Every setting that the calibration cases can judge; it changes nothing."""

    why_not: str | None = Field(description="Why there are none, in words.")
    confidence: float | None
    cases: int
    settings: list[Setting] = Field(description="Strictest first.")
    saved: Saved | None
    command: str | None = Field(description="What calibrates; {max_error} stands for the target.")


class DriftRow(BaseModel):
    """One test that may be read any time."""

    name: str
    e_value: float = Field(description="Begins with 1, and grows with the evidence of a change.")
    highest: float
    alarm_at: float
    since: Moment | None = Field(description="When it alarmed.")
    sentence: str = Field(description="What the last cases are like.")
    alarmed_with: str | None = Field(description="What those before the alarm were like.")


class Drift(BaseModel):
    """Whether cases still are like the calibration cases."""

    alarm: bool
    summary: str
    false_alarms: float = Field(description="Probability that any test ever alarms for nothing.")
    cases: int = Field(description="Different images that were taken into account.")
    complete: bool = Field(description="Whether these are all; else ask again.")
    tests: list[DriftRow]
    missing: list[str] = Field(description="Why a test is not made.")


class Saliency(BaseModel):
    """Where the predicted class comes from."""

    predicted_class: str
    probability: float = Field(description="Of the predicted class, without a patch.")
    drops: list[list[float]] = Field(description="Row by row: by how much a patch lowers it.")


@router.get("/calibration")
def calibration(service: Served) -> Curve:
    """Coverage and error at every setting, with bounds that hold for all of them at once."""
    policy = service.model.policy
    if not isinstance(policy, DeferralPolicy):
        return Curve(
            why_not=NO_POLICY, confidence=None, cases=0, settings=[], saved=None, command=None
        )
    kept, targets = policy.certificate.calibration_scores, policy.targets
    settings = kept.operating_points(confidence=targets.confidence)
    return Curve(
        why_not=None,
        confidence=targets.confidence,
        cases=policy.certificate.cases,
        settings=[
            Setting(**{**one._asdict(), "threshold": _json(one.threshold)}) for one in settings
        ],
        saved=_saved(policy),
        command=command(policy),
    )


@router.get("/drift", responses=documented(HTTPStatus.SERVICE_UNAVAILABLE))
def drift(service: Served) -> Drift:
    """Tests of whether the images have changed, which may be looked at after every case."""
    if service.watch is None:
        return _drift(Seen(cases=0, complete=True, tests=[], since={}, missing=[NO_POLICY]))
    return _drift(service.watch.look())


@router.get(
    "/cases/{id}/saliency",
    responses={
        **NO_CASE,
        **documented(
            HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.TOO_MANY_REQUESTS
        ),
    },
)
async def saliency(service: Served, found: TheCase) -> Saliency:
    """By how much the class becomes less probable where a part of the image is covered."""
    if found.model_fingerprint != service.model.fingerprint:
        raise ProblemError(
            HTTPStatus.CONFLICT, "another model has answered this case; send the image again"
        )
    square = await service.square(found)
    if square is None:
        raise ProblemError(
            HTTPStatus.NOT_FOUND,
            "the image is no longer in memory; start the service with --keep-images to keep images",
        )
    if not _turns.acquire(blocking=False):
        raise too_busy(
            f"{TOGETHER} such pictures are being computed; ask again after the seconds in "
            "Retry-After"
        )
    try:
        return await run_in_threadpool(_saliency, service.model, found.predicted_class, square)
    finally:
        _turns.release()


def _saliency(model: Model, name: str, square: Square) -> Saliency:
    of_class = list(model.classes).index(name)
    seen: list[float] = []

    def probabilities_of(squares: Squares) -> Sequence[float]:
        shares = [answer.probabilities[of_class] for answer in model.answer_squares(squares)]
        seen.extend(shares)
        return shares

    drops = occlusion(square, probabilities_of)
    if not math.isfinite(float(drops.sum())):
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "the model gave no finite probability, so there is nothing to show",
        )
    return Saliency(predicted_class=name, probability=seen[0], drops=drops.tolist())


def _saved(policy: DeferralPolicy) -> Saved:
    threshold = policy.accept_threshold
    return Saved(
        max_error=policy.targets.max_error,
        accepts=threshold is not None,
        threshold=None if threshold is None else _json(threshold),
        ood_threshold=policy.ood_threshold,
        class_promises=list(policy.targets.class_max_miss),
    )


def command(policy: DeferralPolicy) -> str:
    """What sets such a policy for another target: all that this one was asked for."""
    targets = policy.targets
    words = ["misgiving", "calibrate", "RUN", "NEW_CASES", "--max-error", "{max_error}"]
    words += ["--confidence", str(targets.confidence)]
    for rate in _pairs(targets.class_max_miss):
        words += ["--class-max-miss", shlex.quote(rate)]
    if targets.max_ood_false_alarms is not None:
        words += ["--max-ood-false-alarms", str(targets.max_ood_false_alarms)]
    if not targets.simultaneous:
        words.append("--each")
    if targets.prevalence:
        words += ["--prevalence", shlex.quote(",".join(_pairs(targets.prevalence)))]
    if policy.ood_detector is not None:
        words += ["--detector", shlex.quote(policy.ood_detector)]
    return " ".join([*words, "--seed", str(policy.seed), "--overwrite"])


def _pairs(shares: Mapping[str, float]) -> list[str]:
    return [f"{name}={share}" for name, share in shares.items()]


def _json(threshold: float) -> float | None:
    return None if threshold == -math.inf else threshold


def _drift(seen: Seen) -> Drift:
    alarm = bool(seen.since)
    return Drift(
        alarm=alarm,
        summary=CHANGED if alarm else UNCHANGED if seen.tests else seen.missing[0],
        false_alarms=FALSE_ALARMS,
        cases=seen.cases,
        complete=seen.complete,
        tests=[
            DriftRow(**{**one._asdict(), "since": seen.since.get(one.name)}) for one in seen.tests
        ],
        missing=seen.missing,
    )
