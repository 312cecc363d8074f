import pytest
from fhir.resources.R4B.observation import Observation
from standin import Calibrated, picture, sent, with_key

from misgiving.serve.fhir import MEDIA_TYPE

UID = "1.2.826.0.1.3680043.8.498.1"


def observation(client, id, **headers):
    """The validated Observation of a case, with its components by name."""
    answer = client.get(f"/cases/{id}", headers={"Accept": f"{MEDIA_TYPE}, */*;q=0.1", **headers})
    assert (answer.status_code, answer.headers["content-type"]) == (200, MEDIA_TYPE)
    read = Observation.model_validate(answer.json())
    parts = {part.code.text: part for part in read.component or ()}
    return read, {name: part.valueString or part.valueQuantity for name, part in parts.items()}


def test_an_accepted_case_is_an_observation_with_answer_numbers_and_versions(serving):
    client = serving(Calibrated())
    parameters = {"name": UID, "group": "patient 7"}
    headers = {"Content-Type": "image/png"}
    sent = client.post("/decisions", params=parameters, headers=headers, content=picture(0.02))
    case, model = sent.json()["results"][0]["case"], client.get("/model").json()
    read, parts = observation(client, case["id"])
    assert (read.status, read.valueCodeableConcept.text) == ("preliminary", "dark")
    assert read.subject.identifier.value == "patient 7"
    assert read.derivedFrom[0].identifier.value == f"urn:oid:{UID}"
    assert read.effectiveDateTime.isoformat().replace("+00:00", "Z") == case["received"]
    assert float(parts["probability"].value) == pytest.approx(case["probability"])
    assert parts["decision"] == case["decision"] == "accept"
    assert (parts["answer"], parts["reason"]) == ("dark", case["reason"])
    assert parts["certificate"] == "\n".join(model["policy"])
    assert parts["model"] == case["model_fingerprint"]
    assert parts["policy"] == case["policy_fingerprint"]


def test_what_is_not_accepted_has_the_decision_as_value_until_a_reader_says_more(serving):
    client = serving(Calibrated())
    id = sent(client, picture(0.45))["id"]
    read, _ = observation(client, id)
    assert (read.valueCodeableConcept.text, read.subject, read.derivedFrom) == ("defer", None, None)
    told = {}
    for verdict, values in (("unsure", {}), ("override", {"class": "light"}), ("none", {})):
        client.post(f"/cases/{id}/review", json={"verdict": verdict, **values})
        read, _ = observation(client, id)
        told[verdict] = read.status, read.valueCodeableConcept.text
    assert told == {
        "unsure": ("preliminary", "defer"),
        "override": ("final", "light"),
        "none": ("final", "none"),
    }


def test_a_blind_case_and_a_sender_learn_no_more_than_from_the_case(serving, sqlite_place):
    keys = {role: with_key(sqlite_place, role, name=role) for role in ("send", "read")}
    client = serving(Calibrated(), audit_share=1.0)
    client.headers = keys["send"]
    id = sent(client, picture(0.02), name=UID)["id"]
    read, parts = observation(client, id, **keys["read"])
    assert (read.status, read.valueCodeableConcept, parts) == ("registered", None, {})
    body = client.get(f"/cases/{id}", headers={"Accept": MEDIA_TYPE, **keys["read"]}).json()
    assert {*body} == {
        *("resourceType", "id", "status", "code", "effectiveDateTime", "derivedFrom"),
        "dataAbsentReason",
    }
    verdict = {"verdict": "override", "class": "light"}
    client.post(f"/cases/{id}/review", json=verdict, headers=keys["read"])
    assert observation(client, id)[0].valueCodeableConcept.text == "dark"  # for the sender
    other = with_key(sqlite_place, "send", name="other")
    assert client.get(f"/cases/{id}", headers={"Accept": MEDIA_TYPE, **other}).status_code == 404


def test_other_types_are_answered_as_before(client):
    id = sent(client)["id"]
    for accepted in ("*/*", "application/json", "text/html"):
        answer = client.get(f"/cases/{id}", headers={"Accept": accepted})
        assert (answer.headers["content-type"], answer.json()["id"]) == ("application/json", id)
