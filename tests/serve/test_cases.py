import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from standin import case, picture, rows_of, sent

from misgiving.serve.kept_images import KeptImages
from misgiving.serve.store import Store


@pytest.fixture(scope="module")
def worklist(shared):
    """One with errors 0.1, 0.4, 0 and out-of-distribution, which no test changes."""
    for level in (0.1, 0.6, 1.0):
        sent(shared, picture(level), f"{level}.png")
    sent(shared, picture(colour=(0, 200, 100)), "GRÜN.png")
    return shared


def names(response):
    return [case["name"] for case in response.json()["cases"]]


def test_filters_and_cursors_lead_through_the_list_and_its_csv(worklist, monkeypatch):
    monkeypatch.setattr("misgiving.serve.routes.tables.CSV_ROWS", 3)
    query = "/cases?order=newest&limit=3"
    first = worklist.get(query)
    second = worklist.get(f"{query}&cursor={first.json()['cursor']}")
    assert (first.json()["total"], second.json()["cursor"]) == (4, None)
    assert names(first) + names(second) == ["GRÜN.png", "1.0.png", "0.6.png", "0.1.png"]
    with monkeypatch.context() as patch:
        patch.setattr("misgiving.serve.routes.cases.PAGE_NUMBERS", 5)  # of two classes
        assert names(worklist.get(query)) == ["GRÜN.png", "1.0.png"]
    errors = [case["error_probability"] for case in worklist.get("/cases").json()["cases"]]
    assert errors == sorted(errors, reverse=True)
    rows = rows_of(worklist.get("/cases.csv"))
    assert [float(row["error_probability"]) for row in rows] == errors
    query = "decision=accept&decision=ood&reviewed=false"
    answer = worklist.get(f"/cases?limit=1&{query}").json()
    assert (answer["total"], answer["reviewed"]) == (3, 0)
    assert {row["name"] for row in rows_of(worklist.get(f"/cases.csv?{query}"))} == {
        *("0.1.png", "1.0.png", "GRÜN.png")
    }
    assert names(worklist.get("/cases?name=grün")) == ["GRÜN.png"]  # in any alphabet
    assert answer["counts"] == {"accept": 2, "defer": 1, "ood": 1}


def test_a_reader_takes_back_the_last_review_and_the_one_before_stands_again(serving):
    client = serving()
    id = sent(client, picture(0.3))["id"]

    def say(reviewer, verdict, **values):
        body = {"verdict": verdict, "reviewer": reviewer, **values}
        return client.post(f"/cases/{id}/review", json=body)

    say("Ben", "override", **{"class": "light"})
    say("Ann", "agree")
    assert say("Ben", "withdraw").status_code == 409
    back = say("ann", "withdraw").json()
    assert (back["reviewed"], back["review"]["final_class"]) == (True, "light")
    assert say("Ann", "withdraw").status_code == 409
    back = say("Ben", "withdraw").json()
    assert (back["reviewed"], back["review"]["final_class"]) == (False, None)
    assert "reviews" not in back
    verdicts = [each["verdict"] for each in client.get(f"/cases/{id}").json()["reviews"]]
    assert verdicts == ["override", "agree", "withdraw", "withdraw"]
    assert [row["id"] for row in client.get("/cases?reviewed=false").json()["cases"]] == [id]
    (row,) = rows_of(client.get("/cases.csv"))
    assert (row["reviewed"], row["label"]) == ("no", "")
    assert say("Ann", "agree", seen=back["review"]["reviewed_at"]).json()["reviewed"]


def test_an_invalid_query_or_unknown_case_is_a_readable_problem(worklist):
    problems = {f"/cases/{'0' * 32}{rest}": (404, "GET /cases") for rest in ("", "/image")}
    for name, value in {"limit": "501", "class": "%00", "cursor": "0" * 32}.items():
        problems[f"/cases?{name}={value}"] = (422, name)
    for path, (status, says) in problems.items():
        answer = worklist.get(path).json()
        assert (answer["status"], says in answer["detail"]) == (status, True), path


def test_all_reviews_are_kept_but_for_those_that_miss_the_last_one(client):
    case = sent(client, picture(0.9))
    url = f"/cases/{case['id']}"
    early = client.post(f"{url}/review", json={"verdict": "agree", "seen": "2026-01-01T00:00:00Z"})
    assert (early.status_code, early.json()["review"]) == (409, None)
    last = None
    for body in (
        {"verdict": "unsure", "seen": None},
        {"verdict": "override", "class": "dark"},
        {"verdict": "agree", "note": "on second thoughts", "reviewer": "A. B."},
    ):
        if last:
            conflict = client.post(f"{url}/review", json={"verdict": "agree", "seen": None})
            assert (conflict.status_code, conflict.json()["review"]) == (409, last)
            body["seen"] = last["reviewed_at"]
        last = client.post(f"{url}/review", json=body).json()["review"]
    assert (last["note"], last["reviewer"]) == ("on second thoughts", "A. B.")
    assert last["reviewed_at"] >= case["received"]
    reviewed = client.get(url).json()
    assert [(row["verdict"], row["final_class"]) for row in reviewed["reviews"]] == [
        ("unsure", None),
        ("override", "dark"),
        ("agree", "light"),
    ]
    assert reviewed["review"] == reviewed["reviews"][-1] == last
    assert reviewed["predicted_class"] == "light"
    sent(client, picture(0.1))
    answer = client.get("/cases?reviewed=true").json()
    assert (answer["total"], answer["reviewed"], answer["cases"][0]["review"]) == (1, 1, last)


def test_a_long_history_comes_in_pages_from_its_end(client):
    id = sent(client, picture(0.9))["id"]
    for number in range(7):
        client.post(f"/cases/{id}/review", json={"verdict": "unsure", "note": str(number)})
    pages, cursor = [], {}
    for _ in range(3):
        page = client.get(f"/cases/{id}", params={"limit": 3} | cursor).json()
        pages.append("".join(review["note"] for review in page["reviews"]))
        cursor = page["cursor"] and {"cursor": page["cursor"]}
    assert (pages, cursor) == (["456", "123", "0"], None)
    assert client.get(f"/cases/{id}?limit=7").json()["cursor"] is None


def test_a_reader_has_a_limit_of_reviews_on_a_case(client, monkeypatch):
    monkeypatch.setattr("misgiving.serve.case.MAX_NOTES", 2)
    one, other = (sent(client, picture(level))["id"] for level in (0.9, 0.8))
    said = [(one, "Ann"), (one, "Ben"), (one, "ann "), (one, "Ann"), (other, "Ann"), (one, "Ben")]
    answers = [
        client.post(f"/cases/{id}/review", json={"verdict": "unsure", "reviewer": reader})
        for id, reader in said
    ]
    assert [each.status_code for each in answers] == [200, 200, 200, 422, 200, 200]
    assert "2 times, which is the most" in answers[3].json()["detail"]


def test_no_text_in_the_csv_is_a_formula(client):
    case = sent(client, name="a;=1+1;.png")
    body = {"verdict": "agree", "note": "=HYPERLINK(1)\n=1", "reviewer": "\t@SUM(1)"}
    client.post(f"/cases/{case['id']}/review", json=body)
    answer = client.get("/cases.csv")
    assert '","a;\'=1+1;.png","light",' in answer.text  # quoted: no separator ends a cell
    (row,) = rows_of(answer)
    assert (row["note"], row["reviewer"]) == ("'=HYPERLINK(1)\n'=1", "'\t@SUM(1)")
    assert float(row["ood_score"]) == -128


def test_a_thumbnail_is_what_the_model_saw_for_a_while_and_no_image_is_kept_by_default(
    serving, tmp_path
):
    client = serving(recent_bytes=3 * 16 * 16 * 3)
    url = f"/cases/{sent(client)['id']}"
    thumbnail = np.asarray(Image.open(io.BytesIO(client.get(f"{url}/thumbnail").content)))
    assert thumbnail.shape == (16, 16, 3)
    assert abs(thumbnail.astype(int) - 128).max() <= 2
    assert client.get(f"{url}/image").status_code == 404
    assert {path.suffix for path in tmp_path.iterdir()} <= {".sqlite", ".sqlite-wal", ".sqlite-shm"}
    cases = [sent(client, picture(level / 10)) for level in range(4)]
    statuses = [client.get(f"/cases/{case['id']}/thumbnail").status_code for case in cases]
    assert statuses == [404, 200, 200, 200]


def test_a_group_lists_its_cases_but_no_blind_one(serving, sqlite_place):
    store = Store.open(sqlite_place)
    blind = {"blind": True, "audited": True, "position": 0.5}
    store.add([case(1, group="a"), case(2, group="b"), case(3, group="a", **blind)])
    listed = serving(store=store).get("/cases?group=a&reader=Ann").json()["cases"]
    assert [row["id"] for row in listed] == [case(1).id]


def test_kept_images_are_private_and_survive_a_restart(serving, tmp_path, sqlite_place):
    case = sent(serving(keep_images=tmp_path / "kept"))
    options = {"store": Store.open(sqlite_place), "keep_images": tmp_path / "kept"}
    again, url = serving(**options), f"/cases/{case['id']}"
    image = again.get(f"{url}/image")
    assert (image.content, image.headers["content-type"]) == (picture(), "image/png")
    assert again.get(f"{url}/thumbnail").status_code == 200
    options["store"] = Store.open(sqlite_place)
    refused = serving(**options, max_pixels=9).get(f"{url}/thumbnail")
    assert (refused.status_code, "more than 9 pixels" in refused.json()["detail"]) == (422, True)
    kept = [tmp_path / "kept", *(tmp_path / "kept").rglob("*")]
    modes = {(path.is_dir(), path.stat().st_mode & 0o777) for path in kept}
    assert modes == {(True, 0o700), (False, 0o600)}
    (tmp_path / "kept" / case["sha256"][:2] / case["sha256"]).unlink()
    assert again.get(f"{url}/image").status_code == 404


def test_the_media_type_follows_from_the_content_and_another_models_view_is_not_cached(
    serving, tmp_path
):
    options = {"keep_images": tmp_path / "kept", "formats": ("PNG", "GIF")}
    client = serving(**options, recent_bytes=0)  # on disk only
    case = sent(client, picture(kind="GIF") + b"<script>alert(1)</script>", "page.html")
    thumbnail, image = (f"/cases/{case['id']}/{part}" for part in ("thumbnail", "image"))
    whole = client.get(image, headers={"Range": "bytes=9-1"})  # of which others answer in text
    assert (whole.status_code, whole.headers["content-type"]) == (200, "image/png")  # the copy
    for path in (thumbnail, image):
        assert client.get(path).headers["cache-control"] == "private, max-age=86400"
    client.app.state.service.model.fingerprint = "e" * 64
    assert client.get(thumbnail).headers["cache-control"] == "no-store"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux tells what was forced")
def test_file_and_folders_are_durable_before_the_response(tmp_path, monkeypatch):
    forced = []

    def fsync(handle):
        path = Path(f"/proc/self/fd/{handle}").readlink()
        names = [entry.name for entry in path.iterdir()] if path.is_dir() else None
        forced.append((path, names))

    monkeypatch.setattr(os, "fsync", fsync)
    kept = tmp_path / "kept"
    KeptImages(kept).write("ab12", b"content")
    assert (tmp_path, ["kept"]) in forced
    assert (kept, ["ab"]) in forced
    assert [path for path, names in forced if names is None and path.suffix == ".partial"]
    assert forced[-1] == (kept / "ab", ["ab12"])
