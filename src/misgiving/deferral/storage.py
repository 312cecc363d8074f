"""A policy as JSON that shows whether it was changed.

The checksum guards against edits by mistake. It is no signature: who wants to forge a policy can.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from misgiving.deferral.bounds import Interval
from misgiving.deferral.cases import Targets
from misgiving.deferral.operating_points import Evidence
from misgiving.deferral.prevalence import PrevalenceOutcome
from misgiving.deferral.thresholds import Attainable, Calibration, ClassOutcome
from misgiving.errors import DataError
from misgiving.files import write_json

if TYPE_CHECKING:
    from misgiving.deferral.policy import DeferralPolicy

FORMAT = 2
READABLE = (1, FORMAT)  # the first kept no calibration cases
AGAIN = "run `misgiving calibrate` again"


def encode(policy: "DeferralPolicy") -> dict[str, Any]:
    """The policy as JSON values, with format number and checksum."""
    fields = asdict(policy)
    calibration = fields["calibration"]
    calibration["accept_threshold"] = _writable(policy.accept_threshold)
    if evidence := calibration["evidence"]:
        evidence["thresholds"] = [_writable(one) for one in evidence["thresholds"]]
    content = json.loads(json.dumps({"format": FORMAT, **fields}, allow_nan=False))
    return {**content, "checksum": checksum(content)}


def _writable(threshold: float | None) -> float | str | None:
    return "-inf" if threshold == -math.inf else threshold  # for which JSON has no number


def decode(content: Any, *, name: str) -> dict[str, Any]:
    """The fields of the policy, refused unless they are as they were written."""
    fields = _checked(content, name=name)
    try:
        return {**fields, "calibration": _calibration(fields["calibration"])}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{name}: is not a policy; {AGAIN}") from error


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of the content, whatever its order and spacing."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all."""
    write_json(path, content)


def read(path: Path) -> Any:
    """Read JSON; a file that is none is refused."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"{path}: cannot be read ({reason}); name a policy's file") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not a policy (no JSON); {AGAIN}") from error


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(constant)


def _checked(content: Any, *, name: str) -> dict[str, Any]:
    """The fields less format number and checksum."""
    if not isinstance(content, dict) or "checksum" not in content:
        raise DataError(f"{name}: is not a policy; {AGAIN}")
    fields = dict(content)
    written = fields.pop("checksum")
    if fields.get("format") not in READABLE:
        raise DataError(
            f"{name}: has format {fields.get('format')!r}, and this version reads "
            f"{' and '.join(map(str, READABLE))}; {AGAIN}"
        )
    if not _unchanged(fields, written):
        raise DataError(f"{name}: was changed after it was calibrated; {AGAIN}")
    del fields["format"]
    return fields


def _unchanged(fields: Mapping[str, Any], written: object) -> bool:
    try:
        return checksum(fields) == written
    except ValueError:  # NaN or infinity
        return False


def _calibration(fields: Mapping[str, Any]) -> Calibration:
    threshold, scores = fields["accept_threshold"], fields["ood_scores"]
    decoded = {
        "targets": Targets(**fields["targets"]),
        "classes": tuple(fields["classes"]),
        "accept_threshold": None if threshold is None else float(threshold),
        "ood_scores": None if scores is None else tuple(scores),
        "coverage": Interval(*fields["coverage"]),
        "class_outcomes": tuple(ClassOutcome(**of) for of in fields["class_outcomes"]),
        "prevalence": _prevalence(fields["prevalence"]),
        "best": None if fields["best"] is None else Attainable(**fields["best"]),
        "evidence": _evidence(fields.get("evidence")),
    }
    return Calibration(**{**fields, **decoded})


def _prevalence(fields: Mapping[str, Any] | None) -> PrevalenceOutcome | None:
    return None if fields is None else PrevalenceOutcome(**{**fields, "mix": tuple(fields["mix"])})


def _evidence(fields: Mapping[str, Any] | None) -> Evidence | None:
    if fields is None:
        return None
    thresholds = tuple(float(one) for one in fields["thresholds"])
    columns = {name: tuple(fields[name]) for name in ("scores", "wrong", "kept")}
    return Evidence(thresholds=thresholds, **columns)
