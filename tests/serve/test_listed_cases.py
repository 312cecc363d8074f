import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest
from commands import one_line
from sqlalchemy.exc import OperationalError
from standin import Standin, picture

from misgiving.csv_tables import write_csv
from misgiving.errors import DataError
from misgiving.evaluation.suspect_labels import SUSPECTS_FILE, SuspectLabel
from misgiving.serve.case import CaseQuery
from misgiving.serve.listed_cases import add_listed_cases, read_review_list
from misgiving.serve.service import Service
from misgiving.serve.settings import ServiceSettings
from misgiving.serve.store import Store

LEVELS = {"light": 0.9, "dark": 0.05, "doubtful": 0.4}


@pytest.fixture
def suspects(tmp_path):
    """A list as `data check` writes it; its order is that of no other column."""
    rows = []
    for number, (name, level) in enumerate(LEVELS.items()):
        path = tmp_path / f"{name}.png"
        path.write_bytes(picture(level))
        suggested, score = "dark" if name == "dark" else "light", 0.9 - number / 10
        rows.append(SuspectLabel(str(path), name, "grey", suggested, score, "held-out", "why"))
    write_csv(tmp_path / SUSPECTS_FILE, SuspectLabel._fields, rows)
    return tmp_path / SUSPECTS_FILE


@pytest.fixture
def started(sqlite_place):
    """Start a service on the same store, as after a restart."""
    with ExitStack() as stack:

        def start(**settings):
            settings = ServiceSettings(threads=1, **settings)
            service = Service(Standin(), Store.open(sqlite_place), settings)
            stack.callback(service.close)
            return service

        yield start


def add(service, suspects, on_image=lambda *_: None):
    return add_listed_cases(service, read_review_list(suspects), on_image)


def in_order(service):
    return list(service.store.all(CaseQuery(order="listed")))


def test_listed_images_are_cases_with_place_and_remark_in_the_order_of_the_list(
    started, suspects, monkeypatch
):
    monkeypatch.setattr("misgiving.serve.listed_cases.IMAGES_AT_ONCE", 2)
    service, steps = started(), []
    assert add(service, suspects, lambda *step: steps.append(step)) == []
    assert steps == [(2, 3), (3, 3)]
    cases = in_order(service)
    assert [(case.place, Path(case.name).stem) for case in cases] == list(enumerate(LEVELS, 1))
    assert "suggested class light" in cases[0].remark
    # They are no traffic of clients, and cases of no list come after them.
    counted = service.metrics.registry.get_sample_value
    assert counted("misgiving_decisions_total", {"decision": "accept"}) is None

    async def send():
        await service.decide("sent.png", picture(0.9))
        await service.decoders.close()

    asyncio.run(send())
    assert counted("misgiving_decisions_total", {"decision": "accept"}) == 1
    assert [case.place for case in in_order(service)] == [1, 2, 3, None]


def test_a_list_is_stored_once_and_images_that_cannot_be_read_are_returned(started, suspects):
    add(started(), suspects)
    restarted = started(max_bytes=1000)
    assert add(restarted, suspects) == []
    for case, level in zip(in_order(restarted), LEVELS.values(), strict=True):
        assert restarted.recent[case.id][0].mean() == pytest.approx(255 * level, abs=1)
    damaged, large = suspects.with_name("light.png"), suspects.with_name("doubtful.png")
    damaged.write_bytes(b"no image")
    large.write_bytes(picture(0.4) + bytes(1000))
    bad = add(restarted, suspects)  # and the other is a case
    assert [image.image for image in bad] == [str(damaged), str(large)]
    assert "1000 bytes" in bad[1].reason


def test_a_list_that_cannot_be_used_or_stored_is_one_line(started, suspects, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OperationalError("INSERT", {}, Exception("disk I/O error\nwith values"))

    service = started()
    monkeypatch.setattr(service._store_batches, "_work", fail)
    with pytest.raises(DataError) as failure:
        add(service, suspects)
    assert "(disk I/O error)" in one_line(str(failure.value))
    path = tmp_path / "list.csv"
    for text in ("", "path,label\n", "id,label\n1,a\n", 'path\n"missing.png\n'):
        path.write_text(text)
        with pytest.raises(DataError) as failure:
            read_review_list(path)
        assert str(path) in one_line(str(failure.value))
