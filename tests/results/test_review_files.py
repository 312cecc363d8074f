"""Files for other tools; `make exchange-check` reads them with these tools' own packages."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from misgiving.errors import UsageError
from misgiving.results.decision_tables import DecisionRow, DecisionTable
from misgiving.results.review_files import DecisionFormat, DecisionSource

CLASSES = ("mel & <nv>", '"scc"', "0")
SURE = DecisionRow(
    path="/images/a b&c?#%.png",
    predicted_class=CLASSES[0],
    probability=0.9,
    predicted_loss=-1.5,
    decision="accept",
    reason="probability of error 0.10 is within 0.20",
    error_probability=0.1,
    acceptance_score=0.9,
)
UNSURE = SURE._replace(
    path="/images/d.png", probability=0.4, decision="defer", error_probability=0.6
)
OOD = SURE._replace(path="/images/e.png", decision="ood", ood_p_value=0.01, error_probability=0.5)
BROKEN = DecisionRow("/images/broken.png", unreadable="not an image")
DECISIONS = [SURE, UNSURE, BROKEN, OOD]
SOURCE = DecisionSource(CLASSES, "model|policy", {})


def written(tmp_path, format, decisions=DECISIONS, *, source=SOURCE, **options):
    out = tmp_path / "decisions.json"
    table = DecisionTable.of(decisions, has_policy=True, unreadable=True)
    DecisionFormat(format=format, **options).write(out, table, source)
    return out


def tasks_of(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_fiftyone_gets_a_label_with_the_decision_as_attributes_for_each_readable_image(tmp_path):
    content = json.loads(written(tmp_path, "fiftyone").read_text())
    assert content["classes"] == list(CLASSES)
    assert set(content["labels"]) == {SURE.path, UNSURE.path, OOD.path}
    label = content["labels"][OOD.path]
    assert (label["label"], label["confidence"]) == (CLASSES[0], 0.9)
    assert label["attributes"] == {
        "decision": "ood",
        "reason": OOD.reason,
        "predicted_loss": -1.5,
        "error_probability": 0.5,
        "acceptance_score": 0.9,
        "ood_p_value": 0.01,
        "model_version": SOURCE.version,
    }


def test_paths_of_fiftyone_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = written(tmp_path, "fiftyone", [SURE._replace(path="x/../y.png")])
    assert list(json.loads(out.read_text())["labels"]) == [f"{tmp_path}/y.png"]


def test_label_studio_gets_likely_errors_first_with_the_probability_as_score(tmp_path):
    tasks = tasks_of(written(tmp_path, "label-studio"))
    assert [task["data"]["path"] for task in tasks] == [UNSURE.path, OOD.path, SURE.path]
    scores = [task["predictions"][0]["score"] for task in tasks]
    assert scores == [0.4, 0.9, 0.9]
    assert {task["predictions"][0]["model_version"] for task in tasks} == {SOURCE.version}


def test_copies_of_an_image_come_after_others_in_label_studio(tmp_path):
    rows = [UNSURE._replace(path=f"/{name}.png") for name in "abc"] + [SURE]
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], dtype=np.float32)
    source = SOURCE._replace(features=dict(enumerate(vectors)))
    tasks = tasks_of(written(tmp_path, "label-studio", rows, source=source))
    assert [task["data"]["path"] for task in tasks] == ["/a.png", SURE.path, "/c.png", "/b.png"]


def test_an_image_that_is_called_ood_has_no_class_in_label_studio(tmp_path):
    results = {
        task["data"]["decision"]: task["predictions"][0]["result"]
        for task in tasks_of(written(tmp_path, "label-studio"))
    }
    assert results["ood"] == []
    (choice,) = results["defer"]
    assert choice["value"] == {"choices": [CLASSES[0]]}


def test_the_labelling_configuration_offers_the_classes_as_they_are_named(tmp_path):
    out = written(tmp_path, "label-studio")
    root = ElementTree.fromstring(out.with_suffix(".xml").read_text(encoding="utf-8"))
    assert [choice.get("value") for choice in root.iter("Choice")] == list(CLASSES)
    (image,), (choices,) = root.iter("Image"), root.iter("Choices")
    (region,) = tasks_of(out)[0]["predictions"][0]["result"]
    assert (region["to_name"], region["from_name"]) == (image.get("name"), choices.get("name"))
    variables = [tag.get("value", "")[1:] for tag in root.iter() if tag.tag in ("Image", "Header")]
    assert all(name in task["data"] for name in variables for task in tasks_of(out))


def test_label_studio_finds_local_files_under_its_document_root(tmp_path):
    (task,) = tasks_of(written(tmp_path, "label-studio", [SURE], image_root=Path("/images")))
    address = urlsplit(task["data"]["image"])
    assert address.path == "/data/local-files/"
    assert parse_qs(address.query) == {"d": ["a b&c?#%.png"]}


@pytest.mark.parametrize(
    ("prefix", "address"),
    [
        ("https://host/images", "https://host/images/a%20b%26c%3F%23%25.png"),
        ("s3://bucket/", "s3://bucket/a b&c?#%.png"),
        ("/mnt/copy", "/mnt/copy/a b&c?#%.png"),
    ],
)
def test_an_address_is_quoted_where_it_is_a_web_address(prefix, address):
    place = DecisionFormat(format="label-studio", image_root=Path("/images"), image_url=prefix)
    assert place.address(SURE.path) == address


def test_a_file_name_that_is_not_utf8_has_an_address():
    name = b"/\xff.png".decode("utf-8", "surrogateescape")
    assert DecisionFormat(format="label-studio").address(name).endswith("?d=%FF.png")


@pytest.mark.parametrize(
    ("options", "out", "resume", "says"),
    [
        ({"format": "fiftyone"}, "a.csv", False, "ends in .json"),
        ({"format": "label-studio"}, None, False, "needs `out`"),
        ({"format": "label-studio"}, "a.json", True, "`resume` does not go"),
        ({"format": "fiftyone", "image_root": Path("/other")}, "a.json", False, "/images: is not"),
        ({"image_url": "s3://b/"}, "a.csv", False, "another tool's `format`"),
        ({}, "a.xlsx", False, "ends in .csv"),
    ],
)
def test_what_does_not_go_together_is_refused(options, out, resume, says):
    with pytest.raises(UsageError, match=says):
        DecisionFormat(**options).refuse(
            None if out is None else Path(out), [Path("/images")], resume=resume
        )


def test_label_studio_accepts_configuration_and_tasks(tmp_path):
    interfaces = pytest.importorskip("label_studio_sdk.label_interface")
    from label_studio_sdk.label_interface.objects import TaskValue

    out = written(tmp_path, "label-studio")
    interface = interfaces.LabelInterface(out.with_suffix(".xml").read_text(encoding="utf-8"))
    interface.validate()
    tasks = tasks_of(out)
    for task in tasks:
        TaskValue(**task)
        assert interface.validate_task({"data": task["data"]})
        assert interface.validate_prediction(task["predictions"][0], return_errors=True) == []
    (choice,) = tasks[0]["predictions"][0]["result"]
    choice["value"]["choices"] = ["another class"]
    assert not interface.validate_prediction(tasks[0]["predictions"][0])


def test_fiftyone_imports_labels_with_their_attributes(tmp_path, monkeypatch):
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "1")
    importers = pytest.importorskip("fiftyone.utils.data.importers")
    path = str(written(tmp_path, "fiftyone"))
    found = importers.FiftyOneImageClassificationDatasetImporter(labels_path=path)
    found.setup()
    labels = {image: label for image, _, label in found}
    assert found.get_dataset_info() == {"classes": list(CLASSES)}
    assert set(labels) == {SURE.path, UNSURE.path, OOD.path}
    assert (labels[UNSURE.path].label, labels[UNSURE.path].confidence) == (CLASSES[0], 0.4)
    assert labels[UNSURE.path].error_probability == 0.6
    assert labels[OOD.path].decision == "ood"
    assert labels[SURE.path].reason == SURE.reason
