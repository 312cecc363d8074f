"""Lists of images that become cases."""

import asyncio
import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from browsing import needs_chromium, playwright
from calibrated import Calibrated
from commands import one_line
from sqlalchemy.exc import OperationalError
from standin import Standin, picture
from triage import names, no_pictures, stored

from misgiving.errors import DataError
from misgiving.results.review_lists import SuspectLabel, read_review_list
from misgiving.serve.listed_cases import add_listed_cases
from misgiving.serve.service import Service
from misgiving.serve.settings import Settings
from misgiving.serve.store import CaseQuery, Store
from misgiving.serve.uploads import Upload
from misgiving.workflows.suspect_labels import LabelAudit

LEVELS = {"light": 0.9, "dark": 0.05, "doubtful": 0.4}
SUGGESTED = {"light": "light", "dark": "dark", "doubtful": "light"}


@pytest.fixture
def suspects(tmp_path):
    """A list as `data audit` writes it; its order is that of no other column."""
    rows = []
    for number, (name, level) in enumerate(LEVELS.items()):
        path = tmp_path / f"{name}.png"
        path.write_bytes(picture(level))
        label = "dark" if SUGGESTED[name] == "light" else "light"
        score = 0.9 - number / 10
        why = f"the model gives 90% {SUGGESTED[name]} and 10% {label}"
        rows.append(SuspectLabel(str(path), name, label, SUGGESTED[name], score, "held-out", why))
    return LabelAudit(rows, []).write(tmp_path)


@pytest.fixture
def started(sqlite_place):
    """Start a service on the same store, as after a restart."""
    made = []

    def start(model=None, **settings):
        settings = Settings(threads=1, **settings)
        made.append(Service(model or Standin(), Store.open(sqlite_place), settings))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture
def service(started):
    return started()


def test_listed_images_are_cases_with_place_and_remark_in_the_order_of_the_list(service, suspects):
    steps = []
    bad = add_listed_cases(service, read_review_list(suspects), lambda *step: steps.append(step))
    assert (bad, steps) == ([], [(3, 3)])
    found = service.store.page(CaseQuery(order="listed")).cases
    assert [(one.place, one.name.rpartition("/")[2]) for one in found] == [
        (1, "light.png"),
        (2, "dark.png"),
        (3, "doubtful.png"),
    ]
    assert found[0].remark == (
        "labelled dark; suggested class light (score 0.9); the model gives 90% light and 10% dark"
    )
    assert service.recent.get(found[0].id) is not None


def test_a_list_is_stored_once_however_often_the_service_starts_with_it(service, suspects):
    images = read_review_list(suspects)
    for _ in range(2):
        add_listed_cases(service, images, lambda *_: None)
    assert service.store.count(CaseQuery()) == 3
    moved = [images[0]._replace(place=7, remark="again")]
    add_listed_cases(service, moved, lambda *_: None)
    assert service.store.count(CaseQuery()) == 4


class Newer(Standin):
    fingerprint = "e" * 64


@pytest.mark.parametrize("again", ["model", "policy", "keep_images"])
def test_a_list_is_decided_anew_by_another_model_or_policy_or_to_keep_its_files(
    started, suspects, tmp_path, again
):
    images = read_review_list(suspects)
    add_listed_cases(started(), images, lambda *_: None)
    other = {
        "model": lambda: started(Newer()),
        "policy": lambda: started(Calibrated()),
        "keep_images": lambda: started(keep_images=tmp_path / "kept"),
    }[again]
    for _ in range(2):
        service = other()
        add_listed_cases(service, images, lambda *_: None)
        assert service.store.count(CaseQuery()) == 6
    newest = service.store.page(CaseQuery(order="newest")).cases[:3]
    assert {(one.model_fingerprint, one.policy_fingerprint, one.image_kept) for one in newest} == {
        (service.model.fingerprint, service.policy_fingerprint, again == "keep_images")
    }


def test_a_list_has_its_pictures_after_a_restart(started, suspects):
    images = read_review_list(suspects)
    add_listed_cases(started(), images, lambda *_: None)
    restarted = started()
    assert add_listed_cases(restarted, images, lambda *_: None) == []
    cases = restarted.store.page(CaseQuery(order="listed")).cases
    for case, level in zip(cases, LEVELS.values(), strict=True):
        assert restarted.recent.get(case.id).mean() == pytest.approx(255 * level, abs=1)


def test_cases_of_no_list_come_last_and_pages_hold_every_case_once(service, suspects):
    add_listed_cases(service, read_review_list(suspects), lambda *_: None)
    newest = service.store.page(CaseQuery(order="newest")).cases[0]
    other = newest.model_copy(update={"id": "f" * 32, "place": None, "remark": None})
    service.store.add([other])
    places, cursor = [], None
    for _ in range(4):
        page = service.store.page(CaseQuery(order="listed"), limit=1, cursor=cursor)
        places += [one.place for one in page.cases]
        cursor = page.cursor
    assert (places, cursor) == ([1, 2, 3, None], None)


def test_listed_images_do_not_count_as_decided_traffic(service, suspects):
    images = read_review_list(suspects)
    add_listed_cases(service, images, lambda *_: None)
    counted = service.metrics.registry.get_sample_value
    assert counted("misgiving_decisions_total", {"decision": "accept"}) is None
    upload = Upload("sent.png", Path(images[0].path).read_bytes())
    asyncio.run(service.decide(upload))
    assert counted("misgiving_decisions_total", {"decision": "accept"}) == 1


def test_images_that_cannot_be_read_are_named_and_the_others_become_cases(
    service, suspects, tmp_path
):
    images = read_review_list(suspects)
    (tmp_path / "dark.png").write_bytes(b"no image")
    (bad,) = add_listed_cases(service, images, lambda *_: None)
    assert bad.image == str(tmp_path / "dark.png")
    assert service.store.count(CaseQuery()) == 2


def test_a_folder_that_takes_no_image_is_one_line(started, suspects, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    service = started(keep_images=tmp_path / "file")
    with pytest.raises(DataError, match=r"file: an image cannot be stored \(File exists\)"):
        add_listed_cases(service, read_review_list(suspects), lambda *_: None)


@pytest.mark.parametrize("statement", ["SELECT", "INSERT"])
def test_a_database_that_fails_is_one_line(service, suspects, monkeypatch, statement):
    def fail(*_, **__):
        raise OperationalError(statement, {}, Exception("disk I/O error\nwith values"))

    if statement == "SELECT":
        monkeypatch.setattr(service.store, "listed", fail)
    monkeypatch.setattr(service._store_batches, "_work", fail)
    with pytest.raises(DataError) as failure:
        add_listed_cases(service, read_review_list(suspects), lambda *_: None)
    assert str(failure.value) == (
        "the database is not available (disk I/O error); start again, and what is stored is not "
        "decided again"
    )


def test_serve_refuses_a_folder_that_takes_no_image(misgiving, tmp_path, exported):
    (tmp_path / "file").write_bytes(b"")
    options = "--keep-images", tmp_path / "file", "--store", tmp_path / "cases.sqlite", "--port", 0
    code, _, error = misgiving("serve", exported[1], *options)
    assert code == 1
    assert f"{tmp_path / 'file'}: File exists; check the path" in one_line(error)
    assert not (tmp_path / "cases.sqlite").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "has no rows"),
        ("path,label\n", "has no rows"),
        ("id,label\n1,a\n", "there is no column path"),
        ("path,label\n,a\n", "row 1: '' is not a file"),
        ("path\nmissing.png\n", "'missing.png' is not a file"),
        ('path\n"missing.png\n', "missing or damaged"),
        (None, "missing or damaged"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_line(text, expected, tmp_path):
    path = tmp_path / "list.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=expected) as failure:
        read_review_list(path)
    assert str(path) in str(failure.value)
    assert "\n" not in str(failure.value)


def test_a_name_that_a_spreadsheet_would_compute_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "=1.png").write_bytes(picture())
    row = SuspectLabel("=1.png", "=1.png", "dark", "light", 0.9, "held-out", "because")
    written = LabelAudit([row], []).write(tmp_path)
    with written.open(newline="") as file:
        assert next(csv.DictReader(file))["path"] == "'=1.png"
    assert read_review_list(written)[0].path == "=1.png"


def test_serve_refuses_a_list_before_it_loads_the_model(misgiving, tmp_path, exported):
    (tmp_path / "list.csv").write_text("path\nmissing.png\n")
    code, _, error = misgiving("serve", exported[1], "--cases", tmp_path / "list.csv")
    assert code == 1
    assert "'missing.png' is not a file" in one_line(error)


@needs_chromium
def test_the_page_shows_a_list_in_its_order_with_the_remarks(page_service, opened, suspects):
    service = page_service._app.state.service
    page = opened(prepare=no_pictures)
    assert page.locator("#listed").is_hidden()
    with ThreadPoolExecutor() as elsewhere:  # the browser's loop runs in this thread
        elsewhere.submit(
            add_listed_cases, service, read_review_list(suspects), lambda *_: None
        ).result()
    stored(page_service, 1, id="f" * 32, name="newer.png")
    page.goto(page.url.partition("#")[0] + "#order=listed")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert [name.rpartition("/")[2] for name in names(page)] == [
        "light.png",
        "dark.png",
        "doubtful.png",
        "newer.png",
    ]
    assert "order=listed" in page.locator("#csv").get_attribute("href")
    playwright.expect(page.locator(".row .why").first).to_contain_text("suggested class light")
    page.locator(".row").first.click()
    playwright.expect(page.locator("#case-remark")).to_be_visible()
    playwright.expect(page.locator("#case-remark")).to_contain_text(
        "Number 1 of the list: labelled"
    )
    page.keyboard.press("a")
    playwright.expect(page.locator("#saved-text")).to_contain_text("Saved: light")
    assert page.locator("#order").input_value() == "listed"
