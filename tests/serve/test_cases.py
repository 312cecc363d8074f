import csv
import io
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image
from standin import picture

from misgiving.serve.schemas import zulu
from misgiving.serve.store import Store


def sent(client, level=0.5, name="lesion.png", **options):
    files = [("files", (name, picture(level, **options)))]
    return client.post("/decisions", files=files).json()["results"][0]["case"]


@pytest.fixture
def worklist(client):
    """Errors 0.1, 0.4, 0 and out-of-distribution."""
    for level in (0.1, 0.6, 1.0):
        sent(client, level, f"{level}.png")
    sent(client, name="green.png", colour=(0, 200, 100))
    return client


def names(response):
    return [case["name"] for case in response.json()["cases"]]


def test_the_worklist_starts_with_the_cases_that_are_most_likely_wrong(worklist):
    errors = [case["error_probability"] for case in worklist.get("/cases").json()["cases"]]
    assert errors == sorted(errors, reverse=True)
    assert len(errors) == 4


def test_the_worklist_can_start_with_the_newest_cases(worklist):
    response = worklist.get("/cases?order=newest")
    assert names(response) == ["green.png", "1.0.png", "0.6.png", "0.1.png"]


def test_a_cursor_leads_through_the_whole_list(worklist):
    found, query = [], "/cases?order=newest&limit=3"
    response = worklist.get(query).json()
    found += response["cases"]
    assert response["total"] == 4
    response = worklist.get(f"{query}&cursor={response['cursor']}").json()
    assert response["cursor"] is None
    found += response["cases"]
    assert [case["name"] for case in found] == ["green.png", "1.0.png", "0.6.png", "0.1.png"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("decision=ood", {"green.png"}),
        ("decision=accept&decision=ood", {"0.1.png", "1.0.png", "green.png"}),
        ("class=light", {"0.6.png", "1.0.png"}),
        ("class=light' OR '1'='1", set()),
        ("name=GREEN", {"green.png"}),
        ("name=0.6", {"0.6.png"}),
        ("name=%25", set()),
        ("name=_", set()),
        ("reviewed=true", set()),
        ("reviewed=false&decision=defer", {"0.6.png"}),
    ],
)
def test_filters_select_cases(worklist, query, expected):
    assert set(names(worklist.get(f"/cases?{query}"))) == expected


@pytest.mark.parametrize("part", ["läsion", "LÄSION", "Läs"])
def test_a_part_of_a_name_is_found_in_upper_and_lower_case_of_any_alphabet(client, part):
    sent(client, name="LÄSION.png")
    sent(client, name="lasion.png")
    assert names(client.get("/cases", params={"name": part})) == ["LÄSION.png"]


def test_all_cases_are_counted_by_decision_whatever_the_filter(worklist):
    found = worklist.get("/cases?decision=ood&limit=1").json()
    assert (found["total"], found["counts"]) == (1, {"accept": 2, "defer": 1, "ood": 1})


def test_the_reviewed_cases_of_a_filter_are_counted(worklist):
    first = worklist.get("/cases?class=light").json()["cases"][0]
    worklist.post(f"/cases/{first['id']}/review", json={"verdict": "unsure"})
    for query, wanted in {"": (4, 1), "class=light": (2, 1), "class=dark": (2, 0)}.items():
        found = worklist.get(f"/cases?limit=1&{query}").json()
        assert (found["total"], found["reviewed"]) == wanted


def test_a_file_that_is_sent_again_is_its_earlier_case(client):
    pictures = [("files", (name, picture(0.9))) for name in ("a.png", "b.png")]
    first, second = client.post("/decisions", files=pictures).json()["results"]
    assert {first["known"], second["known"]} == {True, False}
    assert first["case"] == second["case"]
    assert second["name"] == "b.png"
    assert client.get("/cases").json()["total"] == 1


@pytest.mark.parametrize(
    "query",
    [
        "decision=perhaps",
        "order=doubt; DROP TABLE cases",
        "limit=0",
        "limit=501",
        "limit=many",
        "reviewed=maybe",
        "cursor=rubbish",
        "cursor=WyJuZXdlc3QiLCAiJyJd",
        "cursor=%00",
        "class=%00",
        "received_since=yesterday",
        "reviewed_since=2026-01-01T00:00:00",
        "reviewed_since=0001-01-01T00:00:00%2B23:00",
    ],
)
def test_an_invalid_query_is_a_readable_problem(worklist, query):
    response = worklist.get(f"/cases?{query}")
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert query.partition("=")[0] in response.json()["detail"]
    assert worklist.get("/cases").json()["total"] == 4


def test_a_cursor_whose_case_was_deleted_is_refused(worklist):
    refused = worklist.get(f"/cases?cursor={'0' * 32}")
    assert refused.status_code == 422
    assert "cursor" in refused.json()["detail"]


def test_agreeing_keeps_the_models_class(client):
    case = sent(client, 0.9)
    body = {"verdict": "agree", "note": "typical", "reviewer": "A. B."}
    reviewed = client.post(f"/cases/{case['id']}/review", json=body).json()
    assert reviewed["reviewed"]
    assert reviewed["review"]["final_class"] == "light"
    assert (reviewed["review"]["note"], reviewed["review"]["reviewer"]) == ("typical", "A. B.")
    assert reviewed["review"]["reviewed_at"] >= case["received"]


def test_overriding_names_another_class_and_history_is_kept(client):
    case = sent(client, 0.9)
    url = f"/cases/{case['id']}/review"
    client.post(url, json={"verdict": "override", "class": "dark"})
    client.post(url, json={"verdict": "agree", "note": "on second thoughts"})
    found = client.get(f"/cases/{case['id']}").json()
    assert [one["verdict"] for one in found["reviews"]] == ["override", "agree"]
    assert [one["final_class"] for one in found["reviews"]] == ["dark", "light"]
    assert found["review"] == found["reviews"][-1]
    assert found["predicted_class"] == "light"
    (listed,) = client.get("/cases?reviewed=true").json()["cases"]
    assert listed["review"]["note"] == "on second thoughts"


@pytest.mark.parametrize("verdict", ["none", "ungradable", "unsure"])
def test_a_review_may_name_no_class(client, verdict):
    case = sent(client, 0.9)
    url = f"/cases/{case['id']}/review"
    last = client.post(url, json={"verdict": verdict, "reviewer": "B. C."}).json()["review"]
    assert (last["verdict"], last["final_class"]) == (verdict, None)
    (row,) = csv.DictReader(io.StringIO(client.get("/cases.csv").text))
    assert (row["reviewed"], row["verdict"], row["final_class"]) == ("yes", verdict, "")
    refused = client.post(url, json={"verdict": "agree", "seen": None})
    assert f"as {verdict}" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"verdict": "unsure", "class": "dark"}, "class"),
        ({"verdict": "override", "class": "grey"}, "choose from dark, light"),
        ({"verdict": "override"}, "class"),
        ({"verdict": "agree", "class": "dark"}, "class"),
        ({"verdict": "doubt"}, "verdict"),
        ({"verdict": "agree", "note": "x" * 2001}, "note"),
        ({"verdict": "agree", "reviewer": "a\0b"}, "reviewer"),
        ([], "body"),
    ],
)
def test_an_invalid_review_is_refused(client, body, reason):
    case = sent(client)
    response = client.post(f"/cases/{case['id']}/review", json=body)
    assert response.status_code == 422
    assert reason in response.json()["detail"]
    assert not client.get(f"/cases/{case['id']}").json()["reviewed"]


def test_a_review_that_misses_the_last_one_is_a_conflict_and_is_not_stored(client):
    case = sent(client, 0.9)
    url = f"/cases/{case['id']}/review"
    other = {"verdict": "override", "class": "dark", "reviewer": "B. C.", "seen": None}
    last = client.post(url, json=other).json()["review"]
    refused = client.post(url, json={"verdict": "agree", "seen": None})
    assert refused.status_code == 409
    assert {"B.", "C.", "dark;"} <= set(refused.json()["detail"].split())
    assert refused.json()["review"] == last
    assert len(client.get(f"/cases/{case['id']}").json()["reviews"]) == 1
    knowing = client.post(url, json={"verdict": "agree", "seen": last["reviewed_at"]}).json()
    assert [one["final_class"] for one in knowing["reviews"]] == ["dark", "light"]


def test_a_first_review_cannot_refer_to_an_earlier_one(client):
    case = sent(client)
    body = {"verdict": "agree", "seen": "2026-01-01T00:00:00Z"}
    refused = client.post(f"/cases/{case['id']}/review", json=body)
    assert (refused.status_code, refused.json()["review"]) == (409, None)
    assert not client.get(f"/cases/{case['id']}").json()["reviewed"]


def test_cases_can_be_filtered_by_time_of_arrival_and_of_review(client):
    old = sent(client, 0.1, "old.png")
    moment = zulu(datetime.now(UTC))
    sent(client, 0.2, "new.png")
    client.post(f"/cases/{old['id']}/review", json={"verdict": "agree"})
    assert names(client.get(f"/cases?received_since={moment}")) == ["new.png"]
    assert names(client.get(f"/cases?reviewed_since={moment}")) == ["old.png"]
    later = zulu(datetime.now(UTC))
    assert names(client.get(f"/cases?reviewed_since={later}")) == []


def test_what_has_come_since_an_earlier_response_is_found_by_its_numbers(client):
    old = sent(client, 0.1, "old.png")
    first = client.get("/cases?limit=1").json()
    sent(client, 0.2, "new.png")
    client.post(f"/cases/{old['id']}/review", json={"verdict": "agree"})
    assert names(client.get(f"/cases?arrived_after={first['last_arrival']}")) == ["new.png"]
    since = client.get(f"/cases?reviewed_after={first['last_review']}")
    assert names(since) == ["old.png"]
    assert names(client.get(f"/cases?reviewed_after={since.json()['last_review']}")) == []


@pytest.mark.parametrize("rest", ["", "/image", "/thumbnail"])
def test_an_unknown_case_is_not_found(client, rest):
    response = client.get(f"/cases/{'0' * 32}{rest}")
    assert response.status_code == 404
    assert "GET /cases" in response.json()["detail"]


def test_the_thumbnail_is_what_the_model_saw(client):
    case = sent(client, 0.5)
    response = client.get(f"/cases/{case['id']}/thumbnail")
    shown = np.asarray(Image.open(io.BytesIO(response.content)))
    assert response.headers["content-type"] == "image/jpeg"
    assert shown.shape == (16, 16, 3)
    assert abs(shown.astype(int) - 128).max() <= 2


def test_thumbnails_of_older_cases_are_forgotten(serving):
    client = serving(recent_bytes=3 * 16 * 16 * 3)
    cases = [sent(client, level / 10) for level in range(5)]
    statuses = [client.get(f"/cases/{case['id']}/thumbnail").status_code for case in cases]
    assert statuses == [404, 404, 200, 200, 200]


def test_kept_images_survive_a_restart(serving, tmp_path, sqlite_place):
    client = serving(keep_images=tmp_path / "kept")
    case = sent(client, 0.5, name="../../../etc/passwd")
    again = serving(store=Store.open(sqlite_place), keep_images=tmp_path / "kept")
    assert again.get(f"/cases/{case['id']}/image").content == picture(0.5)
    assert again.get(f"/cases/{case['id']}/image").headers["content-type"] == "image/png"
    assert again.get(f"/cases/{case['id']}/thumbnail").status_code == 200
    assert [path.name for path in (tmp_path / "kept").rglob("*") if path.is_file()] == [
        case["sha256"]
    ]


def test_what_this_model_sees_of_another_models_case_is_not_cached(serving, tmp_path):
    client = serving(keep_images=tmp_path / "kept", recent_bytes=0)
    case = sent(client)

    def caching(what):
        answer = client.get(f"/cases/{case['id']}/{what}")
        return answer.status_code, answer.headers["cache-control"]

    cached = "private, max-age=86400"
    assert [caching("thumbnail"), caching("image")] == [(200, cached)] * 2
    client.app.state.service.model.fingerprint = "e" * 64
    assert [caching("thumbnail"), caching("image")] == [(200, "no-store"), (200, cached)]


def test_images_are_not_kept_by_default(client, tmp_path):
    case = sent(client)
    assert client.get(f"/cases/{case['id']}/image").status_code == 404
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {
        ".sqlite",
        ".sqlite-wal",
        ".sqlite-shm",
    }
    assert picture(0.5) not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_the_media_type_of_a_file_follows_from_its_content(serving, tmp_path):
    client = serving(keep_images=tmp_path / "kept")
    page = picture(0.5, kind="GIF") + b"<script>alert(1)</script>"
    files = [("files", ("page.html", page, "text/html"))]
    case = client.post("/decisions", files=files).json()["results"][0]["case"]
    response = client.get(f"/cases/{case['id']}/image")
    assert response.headers["content-type"] == "image/gif"
    assert response.headers["x-content-type-options"] == "nosniff"


def table(response):
    return list(csv.DictReader(io.StringIO(response.text)))


def test_the_csv_has_the_worklist_in_its_order(worklist):
    listed = worklist.get("/cases").json()["cases"]
    rows = table(worklist.get("/cases.csv"))
    assert [row["id"] for row in rows] == [case["id"] for case in listed]
    assert [float(row["error_probability"]) for row in rows] == [
        case["error_probability"] for case in listed
    ]
    assert [row["reviewed"] for row in rows] == ["no"] * 4


def test_the_csv_takes_the_filters_of_the_list(worklist):
    rows = table(worklist.get("/cases.csv?decision=ood&order=newest"))
    assert [row["name"] for row in rows] == ["green.png"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", " =", "\n=", "\uff1d", "\x0b@"])
def test_no_text_in_the_csv_is_a_formula(client, start):
    formula = f"{start}HYPERLINK(1)"
    case = sent(client)
    body = {"verdict": "agree", "note": formula, "reviewer": formula}
    client.post(f"/cases/{case['id']}/review", json=body)
    (row,) = csv.DictReader(io.StringIO(client.get("/cases.csv").text, newline=""))
    harmless = formula.replace("\n=", "\n'=")  # where a line begins, too
    assert row["note"] == row["reviewer"] == f"'{harmless}"
    assert float(row["ood_score"]) == -128


def test_texts_in_the_csv_are_quoted_so_that_no_separator_within_one_begins_a_formula(client):
    sent(client, name="a;=1+1;.png")
    header, row = client.get("/cases.csv").text.splitlines()
    assert header.startswith('"id","received","name",')
    assert '","a;\'=1+1;.png","defer","light",' in row
    (read,) = csv.DictReader(io.StringIO(f"{header}\n{row}"))
    assert float(read["ood_score"]) == -128


def test_a_csv_of_many_pages_has_every_case_once(serving, sqlite_place):
    store = Store.open(sqlite_place)
    client = serving(store=store)
    first = store.case(sent(client)["id"])
    copies = [
        first.model_copy(update={"id": f"{number:032x}", "sha256": f"{number:064x}"})
        for number in range(1234)
    ]
    store.add(copies)
    ids = [row["id"] for row in table(client.get("/cases.csv"))]
    assert sorted(ids) == sorted([first.id, *(copy.id for copy in copies)])


def test_script_in_a_name_or_a_note_stays_text(client):
    evil = "<img src=x onerror=alert(1)>.png"
    case = sent(client, name=evil)
    assert case["name"] == evil
    response = client.get("/cases")
    assert response.headers["content-type"] == "application/json"
    assert names(response) == [evil]


def test_a_long_name_is_cut_and_a_nul_is_replaced(client):
    assert len(sent(client, name="x" * 3000 + ".png")["name"]) == 255
    response = client.post(
        "/decisions?name=a%00b", content=picture(), headers={"Content-Type": "image/png"}
    )
    assert response.json()["results"][0]["name"] == "a\ufffdb"


def test_a_review_without_a_verdict_is_explained(client):
    case = client.post("/decisions", content=picture(0.4), headers={"Content-Type": "image/png"})
    found = case.json()["results"][0]["case"]
    answer = client.post(f"/cases/{found['id']}/review", json={})
    assert answer.status_code == 422
    assert answer.json()["detail"] == "body.verdict: Field required"
