"""The bridge of the examples between the service and an Orthanc archive."""

import io
import json
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from importlib import import_module
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import yaml
from archives import orthanc_at, report_ids
from dicoms import dicom
from pydicom import dcmread
from pydicom.uid import generate_uid
from services import standin_at, started
from standin import Calibrated, case, picture, with_key
from waiting import until

from misgiving.cli import app

pytestmark = pytest.mark.usefixtures("hash_key")
EXAMPLE = Path(__file__).parents[2] / "examples" / "orthanc"
FORMATS = {"formats": ("PNG", "DICOM")}


def photo(grey, **tags):
    """A file of one grey level, and its header."""
    fixed = {f"{level}InstanceUID": generate_uid() for level in ("Study", "Series", "SOP")}
    fixed |= {"Modality": "XC", "SpecificCharacterSet": "ISO_IR 100"}
    fixed |= {"PatientID": "P1", "PatientName": "Müller^Jörg"}
    file = dicom(np.full((16, 16), grey, np.uint8), **fixed | tags)
    return file, dcmread(io.BytesIO(file))


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    with orthanc_at(tmp_path_factory.mktemp("orthanc")) as client:
        yield client


@pytest.fixture
def archive(orthanc):
    """An archive that is empty, also of changes."""
    for patient in orthanc.get("/patients").json():
        orthanc.delete(f"/patients/{patient}")
    orthanc.delete("/changes")
    return orthanc


@pytest.fixture
def bridge_of(archive, tmp_path, monkeypatch):
    """Make a bridge in this process, between the archive and a client of a service."""
    monkeypatch.syspath_prepend(EXAMPLE)
    archive_of, bridge = import_module("archive"), import_module("bridge")

    def make(client, state="state.json", dicomweb=None):
        place = archive_of.Archive(str(archive.base_url), dicomweb)
        made = bridge.Bridge(place, "http://127.0.0.1", tmp_path / state, ["XC"])
        made.sender = made.reader = client
        clients.append(place._orthanc)
        return made

    clients = []
    yield make
    for client in clients:
        client.close()


def work(bridge):
    bridge.follow_changes()
    bridge.follow_reviews()


def send(archive, *files):
    for file, _ in files:
        assert archive.post("/instances", content=file).json()["Status"] == "Success"


def reports(archive):
    """All reports in the archive, oldest first, each with the values of its content by name."""
    files = (archive.get(f"/instances/{id}/file").content for id in report_ids(archive))
    read = [dcmread(io.BytesIO(file)) for file in files]
    read.sort(key=lambda report: (report.ContentDate, report.ContentTime))
    return [(report, values(report)) for report in read]


def values(report):
    found, items = {}, [*report.ContentSequence]
    while items:
        item = items.pop()
        items += item.get("ContentSequence", [])
        name = item.ConceptNameCodeSequence[0].CodeMeaning
        if item.ValueType == "CODE":
            value = item.ConceptCodeSequence[0].CodeMeaning
        elif item.ValueType == "NUM":
            value = float(item.MeasuredValueSequence[0].NumericValue)
        elif item.ValueType == "IMAGE":
            value = item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        else:
            value = str(item.get("TextValue", item.get("PersonName")))
        found.setdefault(name, []).append(value)
    return {name: each[0] if len(each) == 1 else {*each} for name, each in found.items()}


def errors(report, folder):
    """What another implementation of the standard finds wrong."""
    if not shutil.which("dciodvfy"):
        return []
    report.save_as(folder / "report.dcm")
    command = ["dciodvfy", folder / "report.dcm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert "ComprehensiveSR" in lines
    return [line for line in lines if line.startswith("Error")]


@pytest.mark.parametrize("size", [12, pytest.param(50, marks=pytest.mark.soak)])
def test_each_image_has_one_report_though_the_bridge_is_killed(
    archive, tmp_path, monkeypatch, size
):
    place, state = str(tmp_path / "cases.sqlite"), tmp_path / "state.json"
    for role in ("send", "read"):
        secret = with_key(place, role, name=role)["Authorization"].split()[1]
        monkeypatch.setenv(f"MISGIVING_{role.upper()}_KEY", secret)
    images = [photo(5 * number) for number in range(size)]
    send(archive, *images)
    with standin_at(place, **FORMATS) as (_, service):
        urls = "--orthanc", str(archive.base_url), "--service", str(service.base_url)
        options = "--modality", "XC", "--state", state, "--pause", "0.05"
        command = [sys.executable, EXAMPLE / "bridge.py", *urls, *options]
        with started(command):
            until(lambda: len(report_ids(archive)) > size // 4)
        state.unlink()  # what was done is done again
        with started(command):
            last = until(lambda: len(report_ids(archive)) >= size) and archive.get("/changes?last")
            until(lambda: json.loads(state.read_text())["change"] >= last.json()["Last"])
    found = reports(archive)
    images = {image.SOPInstanceUID: image for _, image in images}
    assert sorted(each["Source of Measurement"] for _, each in found) == sorted(images)
    for report, each in found:
        image = images[each["Source of Measurement"]]
        assert (report.StudyInstanceUID, report.PatientID) == (image.StudyInstanceUID, "P1")
        assert report.PatientName == "Müller^Jörg"
        assert errors(report, tmp_path) == []


class Killed(BaseException):
    """Of a bridge, after any request."""


def die():
    raise Killed


def interrupt(bridge, number, action):
    """Let a bridge work, and act after one of its requests; gives the number of its requests."""
    seen, clients = count(), (bridge.archive._orthanc, bridge.sender)

    def event(_):
        if next(seen) == number:
            action()

    for client in clients:
        client.event_hooks = {"response": [event]}
    try:
        work(bridge)
    except Killed:
        pass
    finally:
        for client in clients:
            client.event_hooks = {}
    return next(seen)


@pytest.mark.soak
@pytest.mark.parametrize("action", ["killed", "joined"])
def test_all_is_done_once_though_a_bridge_is_killed_or_another_works_after_any_request(
    archive, serving, bridge_of, action
):
    client = serving(**FORMATS)
    act = {"killed": die, "joined": lambda: work(bridge_of(client, "other.json"))}[action]
    for number in count():
        send(archive, image := photo(number))
        requests = interrupt(bridge_of(client), number, act)
        work(bridge_of(client))
        (case,) = client.get("/cases", params={"name": image[1].SOPInstanceUID}).json()["cases"]
        client.post(f"/cases/{case['id']}/review", json={"verdict": "agree", "reviewer": "Ann"})
        requests = max(requests, interrupt(bridge_of(client), number, act))
        work(bridge_of(client))
        assert len(report_ids(archive)) == 2 * (number + 1)
        if requests <= number:
            break
    assert number > 5
    by_image = Counter(each["Source of Measurement"] for _, each in reports(archive))
    assert {*by_image.values()} == {2}
    assert not any(bridge_of(client).state["without_report"])


def test_reports_say_what_the_service_and_its_readers_say(archive, serving, bridge_of, tmp_path):
    client = serving(Calibrated(), **FORMATS)
    send(archive, photo(0), photo(140), photo(90, Modality="CT"))
    work(bridge_of(client))
    cases = {case["name"]: case for case in client.get("/cases").json()["cases"]}
    first = [told for _, told in reports(archive)]
    assert (len(cases), {told["Source of Measurement"] for told in first}) == (2, {*cases})
    assert {told["Decision"] for told in first} == {"accept", "defer"}
    model = client.get("/model").json()
    for told in first:
        case = cases[told["Source of Measurement"]]
        assert (told["Decision"], told["Class"]) == (case["decision"], case["predicted_class"])
        assert told["Probability"] == pytest.approx(case["probability"], abs=1e-4)
        assert told["Certificate"] == " ".join(model["policy"])
        versions = {f"{kind} {case[f'{kind}_fingerprint']}" for kind in ("model", "policy")}
        assert (told["Algorithm Parameters"], told["Algorithm Version"]) == (
            *(versions, model["versions"]["misgiving"]),
        )
    case = next(each for each in cases.values() if each["predicted_class"] == "dark")
    said = {"class": "light", "override_reason": "atypical", "note": "größer, ≥ 6 mm"}
    for body in ({"verdict": "override", **said}, {"verdict": "withdraw"}):
        client.post(f"/cases/{case['id']}/review", json={"reviewer": "Ann^=O'Nym", **body})
    work(bridge_of(client))
    *_, (report, told), (_, withdrawn) = reports(archive)
    assert (told["Verdict"], told["Class"], told["Reason"]) == ("override", "light", "atypical")
    assert (told["Note"], told["Person Observer Name"]) == (said["note"], "Ann  O'Nym^")
    assert told["Source of Measurement"] == case["name"]
    assert (errors(report, tmp_path), withdrawn["Verdict"]) == ([], "withdraw")


def test_a_report_names_a_superclass_that_is_answered_and_no_certificate_of_another_policy(
    monkeypatch,
):
    monkeypatch.syspath_prepend(EXAMPLE)
    report_of, told = import_module("structured_report").decision_report, {}
    decided = case(1, predicted_class="MEL", answer="malignant").model_dump(mode="json")
    for policy in (None, "c" * 64):
        model = {"policy": ["Certified."], "policy_fingerprint": policy}
        model["versions"] = {"misgiving": "1.0.0"}
        told[policy] = values(report_of(photo(0)[1], decided, model))
    assert (told[None]["Class"], told[None]["Superclass"]) == ("MEL", "malignant")
    assert told[None]["Certificate"] == "Certified."
    assert "Certificate" not in told["c" * 64]


def test_an_answer_to_a_blind_case_is_stored_when_the_case_is_blind_no_more(
    archive, serving, bridge_of
):
    client = serving(Calibrated(), **FORMATS, audit_share=1.0)
    send(archive, photo(200))
    work(bridge_of(client))
    (case,) = client.get("/cases").json()["cases"]
    for reader, stored in (("Ann", 1), ("Ben", 3)):
        client.post(f"/cases/{case['id']}/review", json={"verdict": "none", "reviewer": reader})
        work(bridge_of(client))
        assert len(report_ids(archive)) == stored


def test_an_image_that_is_refused_is_noted_once_with_the_reason(
    archive, serving, bridge_of, tmp_path, capsys
):
    client = serving(formats=("JPEG",))
    send(archive, refused := photo(0))
    for _ in range(2):
        work(bridge_of(client))
    uid = refused[1].SOPInstanceUID
    noted = bridge_of(client).state["without_report"]
    assert noted.keys() == {uid}
    assert "JPEG" in noted[uid]
    assert capsys.readouterr().err.count(f"{uid} has no report") == 1
    (tmp_path / "state.json").unlink()
    work(bridge_of(serving(**FORMATS)))
    assert len(report_ids(archive)) == 1


def test_an_image_of_which_no_report_can_be_made_does_not_stop_the_others(
    archive, serving, bridge_of
):
    client = serving(**FORMATS)
    images = photo(0, PatientSex="X"), photo(9)
    send(archive, *images)
    work(bridge_of(client))
    assert bridge_of(client).state["without_report"].keys() == {images[0][1].SOPInstanceUID}
    assert [each["Source of Measurement"] for _, each in reports(archive)] == [
        images[1][1].SOPInstanceUID
    ]


def test_an_image_that_cannot_be_read_does_not_stop_the_others(archive, serving, bridge_of):
    file, _ = photo(0)
    send(archive, (file.replace(b"\x08\0\x60\0CS", b"\x08\0\x60\0FD"), None), good := photo(9))
    work(bridge_of(serving(**FORMATS)))
    assert len(bridge_of(None).state["without_report"]) == 1
    assert [each["Source of Measurement"] for _, each in reports(archive)] == [
        good[1].SOPInstanceUID
    ]


def test_a_review_of_another_file_is_no_report_on_the_image_whose_name_it_has(
    archive, serving, bridge_of
):
    client = serving(**FORMATS)
    send(archive, image := photo(0))
    files = {"files": (str(image[1].SOPInstanceUID), picture(0.9))}
    client.post("/decisions", files=files)
    work(bridge_of(client))
    verdict = {"verdict": "override", "class": "light", "reviewer": "Ann"}
    for each in client.get("/cases").json()["cases"]:
        assert each["name"] == image[1].SOPInstanceUID
        note = "forged" if each["predicted_class"] == "light" else "true"
        client.post(f"/cases/{each['id']}/review", json=verdict | {"note": note})
    work(bridge_of(client))
    assert [each.get("Note") for _, each in reports(archive)] == [None, "true"]


def test_another_archive_or_store_is_read_from_its_beginning(archive, serving, bridge_of, tmp_path):
    client = serving(**FORMATS)
    send(archive, photo(0))
    work(bridge_of(client))
    (case,) = client.get("/cases").json()["cases"]
    client.post(f"/cases/{case['id']}/review", json={"verdict": "unsure"})
    send(archive, photo(9))
    state = {"change": 10**6, "review": 10**6, "without_report": {}}
    (tmp_path / "state.json").write_text(json.dumps(state))
    for _ in range(2):
        work(bridge_of(client))
    assert len(report_ids(archive)) == 3


def test_a_request_is_sent_again_until_the_server_is_available(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    ask, pauses = import_module("archive").ask, []
    monkeypatch.setattr("archive.time", SimpleNamespace(sleep=pauses.append))
    answers = iter([httpx.ConnectError("no"), 503, 429, 401, 502, 504, 422])

    def handle(_):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        pause = {429: "7", 504: "9" * 20}.get(answer)
        return httpx.Response(answer, headers={"Retry-After": pause} if pause else {})

    client = httpx.Client(transport=httpx.MockTransport(handle), base_url="http://127.0.0.1")
    assert ask(client, "POST", "/decisions", refusals=[422]).status_code == 422
    assert pauses == pytest.approx([0.1, 0.2, 7, 0.8, 1.6, 30])


def test_reports_are_stored_by_dicomweb_where_its_url_is_given(archive, serving, bridge_of):
    client, stored = serving(**FORMATS), {}
    send(archive, photo(0))

    def handle(request):
        """As the web service of an archive does."""
        if request.method == "GET":
            return httpx.Response(200 if request.url.path in stored else 404)
        kind, _, options = request.headers["Content-Type"].partition("; ")
        assert (kind, request.url.path) == ("multipart/related", "/dicom-web/studies")
        boundary = options.split("boundary=")[1].encode()
        _, part, end = request.content.split(b"--" + boundary)
        assert end == b"--\r\n"
        _, _, file = part.partition(b"\r\n\r\n")
        report = dcmread(io.BytesIO(file.removesuffix(b"\r\n")))
        names = (
            ("studies", "StudyInstanceUID"),
            ("series", "SeriesInstanceUID"),
            ("instances", "SOPInstanceUID"),
        )
        path = "".join(f"/{level}/{report[name].value}" for level, name in names)
        assert stored.setdefault(f"/dicom-web{path}/metadata", report) is report
        return httpx.Response(200)

    for state in ("one.json", "other.json"):
        for each in client.get("/cases?reviewed=false").json()["cases"]:
            said = {"verdict": "none", "note": "\r\n--part--\r\n", "reviewer": "Ann"}
            client.post(f"/cases/{each['id']}/review", json=said)
        bridge = bridge_of(client, state, dicomweb="http://archive/dicom-web")
        bridge.archive._dicomweb = httpx.Client(
            transport=httpx.MockTransport(handle), base_url="http://archive/dicom-web"
        )
        work(bridge)
        assert bridge.state["without_report"] == {}
    assert (len(stored), report_ids(archive)) == (2, [])


def test_the_compose_file_has_options_that_there_are():
    path = EXAMPLE / "compose.yaml"
    services = yaml.safe_load(path.read_text(encoding="utf-8"))["services"]
    _, given, _ = app.parse_args(["serve", *services["misgiving"]["command"]])
    assert given.kwargs["settings"] == {"formats": ("PNG", "DICOM")}
    program, script, *options = shlex.split(services["bridge"]["command"])
    helped = subprocess.run([sys.executable, EXAMPLE / "bridge.py", "-h"], capture_output=True)
    assert (program, script) == ("python", "/srv/bridge.py")
    for option in (each for each in options if each.startswith("--")):
        assert option in helped.stdout.decode().split()
