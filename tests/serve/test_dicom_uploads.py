"""DICOM files that are sent: their patients are hashed, and no header is kept."""

import io

import numpy as np
import pytest
from corpus import picture as smooth
from dicoms import UID, dicom
from PIL import Image
from standin import Standin, picture

from misgiving.cli import exit_code
from misgiving.data.decoding import decode
from misgiving.data.preprocessing import Preprocessing
from misgiving.hash_key import hashed

pytestmark = pytest.mark.usefixtures("hash_key")
BLUE = np.full((20, 30, 3), (0, 0, 250), dtype=np.uint8)


def post(client, data, **query):
    answer = client.post("/decisions", params=query, files={"files": ("a.dcm", data)})
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][0]["case"]


def test_a_case_has_uid_and_hashed_patient_and_its_copy_no_header(serving, tmp_path):
    model = Standin()
    model.preprocessing = Preprocessing(
        image_size=16, color_constancy="none", tags=("Modality",), frame=2
    )
    kept = {"keep_images": tmp_path / "kept"}
    client = serving(model, formats=("DICOM", "PNG"), **kept)
    frames = np.stack([np.zeros_like(BLUE), BLUE])
    data = dicom(frames, PatientID="Jane Doe 1", Modality="XC", StudyDescription="Jane Doe")
    case = post(client, data)
    assert (case["name"], case["group"]) == (UID, hashed("Jane Doe 1"))
    assert case["metadata"] == {"Modality": "XC"}
    assert (case["predicted_class"], case["decision"]) == ("light", "accept")  # of frame 2
    (copy,) = (path for path in kept["keep_images"].rglob("*") if path.is_file())
    assert b"Jane" not in copy.read_bytes()
    np.testing.assert_array_equal(decode(copy.read_bytes(), "a"), BLUE)
    again = post(client, copy.read_bytes())
    assert again["probabilities"] == case["probabilities"]
    with Image.open(io.BytesIO(client.get(f"/cases/{case['id']}/image").content)) as shown:
        assert shown.format == "PNG"  # which a browser shows
    given = post(client, dicom(smooth(), PatientID="P2"), group="other")
    assert given["group"] == "other"
    assert client.get("/health").json()["status"] == "ok"


def test_the_text_of_a_tag_is_as_short_and_plain_as_a_name(serving):
    model = Standin()
    model.preprocessing = Preprocessing(image_size=16, color_constancy="none", tags=("TextValue",))
    client = serving(model, formats=("DICOM", "PNG"))
    data = dicom(smooth(), TextValue="x" * 2_000_000, PatientID="7" * 300)
    case = post(client, data.replace(UID.encode(), b"1.2\0\r\n" + UID.encode()[6:]))
    assert case["name"] == "1.2\ufffd\ufffd\ufffd" + UID[6:]
    assert case["metadata"] == {"TextValue": "x" * 255}
    assert case["group"] == hashed("7" * 300)  # as training and `cases delete` read it


def test_a_service_that_does_not_name_dicom_refuses_it(serving):
    answer = serving(Standin()).post("/decisions", files={"files": ("a", dicom(smooth()))})
    assert answer.status_code == 422
    assert "not an image in a supported format" in answer.json()["detail"]


def test_cases_of_a_patient_are_deleted_by_the_plain_id(serving, sqlite_place):
    client = serving(Standin(), formats=("DICOM", "PNG"))
    for patient in ("P1", "P2"):
        post(client, dicom(BLUE + (patient == "P2"), PatientID=patient))
    post(client, picture(), group="P1")
    assert exit_code(["cases", "delete", sqlite_place, "--group", "P1"]) == 0
    assert [case["group"] for case in client.get("/cases").json()["cases"]] == [hashed("P2")]


def test_a_key_that_cannot_be_made_is_known_at_the_start(monkeypatch, capsys):
    monkeypatch.setenv("MISGIVING_HASH_KEY", "/dev/null/hash.key")
    assert exit_code(["serve", "any", "--formats", "DICOM,PNG"]) == 1
    assert "error: /dev/null" in capsys.readouterr().err


def test_models_that_see_other_frames_share_nothing_that_was_decoded():
    data, loaded = dicom(np.stack([np.zeros_like(BLUE), BLUE])), {}
    for frame, blue in ((1, 0), (2, 250), (1, 0)):
        square = Preprocessing(image_size=4, color_constancy="none", frame=frame)
        assert square.from_file(data, "a", loaded=loaded)[0, 0, 2] == blue
