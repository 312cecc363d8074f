"""Structured Reports (TID 1500) on a decision, and on a reader's review of it."""

import uuid
from datetime import datetime

import highdicom as hd
from pydicom.sr.codedict import codes

TYPE_2 = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"),
    *("StudyDate", "StudyTime"),
)  # may be empty in a report, and are missing in some images


def uid(*names):
    """Derive a UID."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, ' '.join(names)).int}"


def code(text):
    """Make a code of this program."""
    return hd.sr.CodedConcept(text, "99MISGIVING", text[:64])


def decision_report(image, case, model):
    """Report the decision of a case, and the versions of what decided."""
    versions = [f"model {case['model_fingerprint']}", f"policy {case['policy_fingerprint']}"]
    algorithm = hd.sr.AlgorithmIdentification(
        "misgiving", model["versions"]["misgiving"], versions, codes.cid7162.ArtificialIntelligence
    )
    device = hd.sr.DeviceObserverIdentifyingAttributes(uid(*versions), "misgiving")
    answer = case["answer"]
    terms = {
        "Decision": case["decision"],
        "Class": case["predicted_class"],
        "Superclass": None if answer == case["predicted_class"] else answer,
    }
    is_of_model = case["policy_fingerprint"] == model["policy_fingerprint"]
    certificate = " ".join(model["policy"] or ()) if is_of_model else ""
    texts = {"Reason": case["reason"], "Certificate": certificate}
    observer = hd.sr.ObserverContext(codes.DCM.Device, device)
    probability = [] if case["probability"] is None else [round(case["probability"], 4)]
    measured = [
        hd.sr.Measurement(codes.DCM.Probability, p, codes.UCUM.NoUnits) for p in probability
    ]
    return _report(image, case, "", observer, terms, texts, measured, algorithm)


def review_report(image, case, review):
    """Report a reader's review of a case."""
    name = review["reviewer"].translate(str.maketrans("^=\\", "   "))[:63] or "unknown"
    person = hd.sr.PersonObserverIdentifyingAttributes(f"{name}^")  # not in parts
    terms = {"Verdict": review["verdict"], "Class": review["final_class"]}
    terms["Class of the model"] = case["predicted_class"]
    terms["Reason"] = review["override_reason"]
    observer = hd.sr.ObserverContext(codes.DCM.Person, person)
    return _report(image, case, review["reviewed_at"], observer, terms, {"Note": review["note"]})


def _report(image, case, reviewed_at, observer, terms, texts, measured=(), algorithm=None):
    for keyword in TYPE_2:
        image.setdefault(keyword, "")
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        hd.sr.TrackingIdentifier(uid("case", case["id"]), case["id"]),
        algorithm_id=algorithm,
        measurements=measured,
        qualitative_evaluations=[
            hd.sr.QualitativeEvaluation(code(name), code(term))
            for name, term in terms.items()
            if term is not None
        ],
        source_images=[hd.sr.SourceImageForMeasurementGroup.from_source_image(image)],
    )
    contains = hd.sr.RelationshipTypeValues.CONTAINS
    group[0].ContentSequence.extend(
        hd.sr.TextContentItem(code(name), text, contains) for name, text in texts.items() if text
    )
    context = hd.sr.ObservationContext(observer)
    content = hd.sr.MeasurementReport(context, codes.SCT.ImagingProcedure, [group])
    time = datetime.fromisoformat(reviewed_at or case["received"]).astimezone()
    return hd.sr.ComprehensiveSR(
        [image],
        content[0],
        series_instance_uid=uid("series", case["id"]),
        series_number=1,
        sop_instance_uid=uid("report", case["id"], reviewed_at),
        instance_number=1,
        manufacturer="misgiving",
        is_complete=True,
        content_date=time.date(),
        content_time=time.time(),
        specific_character_set="ISO_IR 192",
    )
