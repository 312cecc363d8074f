"""Lists of images that become cases."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from browsing import needs_chromium
from calibrated import Calibrated
from commands import one_line
from sqlalchemy.exc import OperationalError
from standin import Standin, picture
from triage import expect, names, no_pictures, reload, stored

from misgiving.errors import DataError
from misgiving.evaluation.suspect_labels import SUSPECTS_FILE, SuspectLabel
from misgiving.files import write_csv
from misgiving.serve.listed_cases import add_listed_cases, read_review_list
from misgiving.serve.service import Service
from misgiving.serve.settings import Settings
from misgiving.serve.store import CaseQuery, Store
from misgiving.serve.uploads import Upload

LEVELS = {"light": 0.9, "dark": 0.05, "doubtful": 0.4}
SUGGESTED = {"light": "light", "dark": "dark", "doubtful": "light"}


@pytest.fixture
def suspects(tmp_path):
    """A list as `data check` writes it; its order is that of no other column."""
    rows = []
    for number, (name, level) in enumerate(LEVELS.items()):
        path = tmp_path / f"{name}.png"
        path.write_bytes(picture(level))
        label = "dark" if SUGGESTED[name] == "light" else "light"
        score = 0.9 - number / 10
        why = f"the model gives 90% {SUGGESTED[name]} and 10% {label}"
        rows.append(SuspectLabel(str(path), name, label, SUGGESTED[name], score, "held-out", why))
    write_csv(tmp_path / SUSPECTS_FILE, SuspectLabel._fields, rows)
    return tmp_path / SUSPECTS_FILE


@pytest.fixture
def started(sqlite_place):
    """Start a service on the same store, as after a restart."""
    made = []

    def start(model=None, **settings):
        settings = Settings(threads=1, **settings)
        made.append(Service(model or Standin(), Store.open(sqlite_place), settings))
        return made[-1]

    yield start
    for service in made:
        service.close()


@pytest.fixture
def service(started):
    return started()


def add(service, suspects):
    return add_listed_cases(service, read_review_list(suspects), lambda *_: None)


def in_order(service, order="listed"):
    return list(service.store.all(CaseQuery(order=order)))


def test_listed_images_are_cases_with_place_and_remark_in_the_order_of_the_list(service, suspects):
    steps = []
    bad = add_listed_cases(service, read_review_list(suspects), lambda *step: steps.append(step))
    assert (bad, steps) == ([], [(3, 3)])
    cases = in_order(service)
    assert [(case.place, Path(case.name).stem) for case in cases] == list(enumerate(LEVELS, 1))
    assert "suggested class light" in cases[0].remark
    assert service.recent.get(cases[0].id) is not None


def test_a_list_is_stored_once_however_often_the_service_starts_with_it(started, suspects):
    add(started(), suspects)
    restarted = started()
    assert add(restarted, suspects) == []
    assert restarted.store.count(CaseQuery()) == 3
    for case, level in zip(in_order(restarted), LEVELS.values(), strict=True):
        assert restarted.recent.get(case.id).mean() == pytest.approx(255 * level, abs=1)
    moved = [read_review_list(suspects)[0]._replace(place=7, remark="again")]
    add_listed_cases(restarted, moved, lambda *_: None)
    assert restarted.store.count(CaseQuery()) == 4


class Newer(Standin):
    fingerprint = "e" * 64


@pytest.mark.parametrize("change", ["model", "policy", "keep_images"])
def test_a_list_is_decided_again_by_another_model_or_policy_or_to_keep_its_files(
    started, suspects, tmp_path, change
):
    add(started(), suspects)
    other = {
        "model": lambda: started(Newer()),
        "policy": lambda: started(Calibrated()),
        "keep_images": lambda: started(keep_images=tmp_path / "kept"),
    }[change]
    for _ in range(2):
        service = other()
        add(service, suspects)
        assert service.store.count(CaseQuery()) == 6
    for case in in_order(service, "newest")[:3]:
        assert (case.model_fingerprint, case.policy_fingerprint, case.image_kept) == (
            service.model.fingerprint,
            service.policy_fingerprint,
            change == "keep_images",
        )


def test_cases_of_no_list_come_last_and_pages_hold_every_case_once(service, suspects):
    add(service, suspects)
    newest = in_order(service, "newest")[0]
    service.store.add([newest.model_copy(update={"id": "f" * 32, "place": None, "remark": None})])
    places, cursor = [], None
    for _ in range(4):
        (case,), cursor = service.store.page(CaseQuery(order="listed"), limit=1, cursor=cursor)
        places.append(case.place)
    assert (places, cursor) == ([1, 2, 3, None], None)


def test_listed_images_do_not_count_as_decided_traffic(service, suspects):
    add(service, suspects)
    counted = service.metrics.registry.get_sample_value
    assert counted("misgiving_decisions_total", {"decision": "accept"}) is None
    image = Path(read_review_list(suspects)[0].path)
    asyncio.run(service.decide(Upload("sent.png", image.read_bytes())))
    assert counted("misgiving_decisions_total", {"decision": "accept"}) == 1


def test_images_that_cannot_be_read_are_returned_and_the_others_become_cases(
    service, suspects, tmp_path
):
    images = read_review_list(suspects)
    (tmp_path / "dark.png").write_bytes(b"no image")
    (bad,) = add_listed_cases(service, images, lambda *_: None)
    assert bad.image == str(tmp_path / "dark.png")
    assert service.store.count(CaseQuery()) == 2


def test_a_folder_that_takes_no_image_is_one_line(misgiving, exported, started, suspects, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"\(File exists\).*`keep_images`"):
        add(started(keep_images=tmp_path / "file"), suspects)
    store = tmp_path / "other.sqlite"
    options = "--keep-images", tmp_path / "file", "--store", store, "--port", 0
    code, _, error = misgiving("serve", exported[1], *options)
    assert (code, store.exists()) == (1, False)
    assert f"{tmp_path / 'file'}: File exists" in one_line(error)


def test_a_database_that_fails_is_one_line(service, suspects, monkeypatch):
    def fail(*_, **__):
        raise OperationalError("INSERT", {}, Exception("disk I/O error\nwith values"))

    monkeypatch.setattr(service._store_batches, "_work", fail)
    with pytest.raises(DataError) as failure:
        add(service, suspects)
    assert "(disk I/O error)" in one_line(str(failure.value))


@pytest.mark.parametrize(
    "text",
    ["", "path,label\n", "id,label\n1,a\n", "path,label\n,a\n", 'path\n"missing.png\n', None],
)
def test_a_list_that_cannot_be_used_is_one_line(text, tmp_path):
    path = tmp_path / "list.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError) as failure:
        read_review_list(path)
    assert str(path) in one_line(str(failure.value))


def test_serve_reads_a_list_before_it_loads_the_model(misgiving, tmp_path, exported):
    (tmp_path / "list.csv").write_text("path\nmissing.png\n")
    code, _, error = misgiving("serve", exported[1], "--cases", tmp_path / "list.csv")
    assert code == 1
    assert "'missing.png' is not a file" in one_line(error)


@needs_chromium
def test_the_page_shows_a_list_in_its_order_with_the_remarks(page_service, opened, suspects):
    page = opened(prepare=no_pictures)
    assert page.locator("#listed").is_hidden()
    with ThreadPoolExecutor() as elsewhere:  # the browser's loop runs in this thread
        elsewhere.submit(add, page_service.service, suspects).result()
    stored(page_service, 1, id="f" * 32, name="newer.png")
    page.goto(page.url.partition("#")[0] + "#order=listed")
    reload(page)
    assert [Path(name).stem for name in names(page)] == [*LEVELS, "newer"]
    assert "order=listed" in page.locator("#csv").get_attribute("href")
    expect(page.locator(".row .why").first).to_contain_text("suggested class light")
    page.locator(".row").first.click()
    expect(page.locator("#case-remark")).to_contain_text("Number 1 of the list")
    page.keyboard.press("a")
    expect(page.locator("#saved-text")).to_contain_text("Saved: light")
    assert page.locator("#order").input_value() == "listed"
