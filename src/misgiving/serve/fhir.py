"""A case as an Observation of FHIR R4B, which says no more than the case."""

import re
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from misgiving.bundle.bundle import Bundle
from misgiving.serve.case import BlindCase, Case, zulu
from misgiving.serve.problems import content

MEDIA_TYPE = "application/fhir+json"
DOCUMENTED = content(MEDIA_TYPE, {"type": "object"})
UID = re.compile(r"[012](\.(0|[1-9]\d*))+")
MASKED = {"system": "http://terminology.hl7.org/CodeSystem/data-absent-reason", "code": "masked"}
UNITLESS = {"system": "http://unitsofmeasure.org", "code": "1"}


def is_accepted(request: Request) -> bool:
    """True for a client that asks for FHIR."""
    return MEDIA_TYPE in request.headers.get("accept", "")


def observation_of(case: Case | BlindCase, model: Bundle) -> JSONResponse:
    """Answer with the Observation of a case; a name that is a UID is what it is derived from.

    The value is a reader's word, which makes it final, or else the answer that the policy accepts,
    or else the decision.
    """
    observation: dict[str, Any] = {"resourceType": "Observation", "id": case.id}
    observation |= {"code": {"text": "image class"}, "effectiveDateTime": zulu(case.received)}
    if UID.fullmatch(case.name):
        identifier = {"system": "urn:dicom:uid", "value": f"urn:oid:{case.name}"}
        observation["derivedFrom"] = [{"type": "Media", "identifier": identifier}]
    if isinstance(case, BlindCase):
        observation |= {"status": "registered", "dataAbsentReason": {"coding": [MASKED]}}
    else:
        observation |= _result(case, model)
    return JSONResponse(observation, media_type=MEDIA_TYPE, headers={"Vary": "Accept"})


def _result(case: Case, model: Bundle) -> dict[str, Any]:
    said = case.review and (case.review.final_class or case.review.verdict)
    said = None if said in ("unsure", "withdraw") else said
    answer = case.answer or case.predicted_class
    value = said or (answer if case.decision == "accept" else case.decision)
    is_own = model.policy is not None and model.policy.fingerprint == case.policy_fingerprint
    texts = {
        **{"decision": case.decision, "reason": case.reason, "answer": answer},
        **{"model": case.model_fingerprint, "policy": case.policy_fingerprint},
        "certificate": "\n".join(model.card["targets"]) if is_own else None,
    }
    parts = [{"code": {"text": name}, "valueString": text} for name, text in texts.items() if text]
    if case.probability is not None:
        quantity = UNITLESS | {"value": case.probability}
        parts.append({"code": {"text": "probability"}, "valueQuantity": quantity})
    result: dict[str, Any] = {"status": "final" if said else "preliminary", "component": parts}
    result |= {"subject": {"identifier": {"value": case.group}}} if case.group else {}
    return result | {"valueCodeableConcept": {"text": value}}
