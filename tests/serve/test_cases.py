"""The worklist, reviews and the CSV over HTTP."""

import csv
import io
from datetime import UTC, datetime

import pytest
from standin import picture, sent

from misgiving.serve.schemas import zulu


def filled(client):
    """A worklist with errors 0.1, 0.4, 0 and out-of-distribution."""
    for level in (0.1, 0.6, 1.0):
        sent(client, picture(level), f"{level}.png")
    sent(client, picture(colour=(0, 200, 100)), "green.png")
    return client


@pytest.fixture(scope="module")
def worklist(module_serving):
    """One that no test changes."""
    return filled(module_serving())


NEWEST_FIRST = ["green.png", "1.0.png", "0.6.png", "0.1.png"]


def names(response):
    return [case["name"] for case in response.json()["cases"]]


def test_a_cursor_leads_through_the_whole_list(worklist):
    query = "/cases?order=newest&limit=3"
    first = worklist.get(query)
    second = worklist.get(f"{query}&cursor={first.json()['cursor']}")
    assert (first.json()["total"], second.json()["cursor"]) == (4, None)
    assert names(first) + names(second) == NEWEST_FIRST
    unknown = worklist.get(f"/cases?cursor={'0' * 32}")
    assert (unknown.status_code, "cursor" in unknown.json()["detail"]) == (422, True)


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
    rows = csv.DictReader(io.StringIO(worklist.get(f"/cases.csv?{query}").text))
    assert {row["name"] for row in rows} == expected


def test_a_part_of_a_name_is_found_in_upper_and_lower_case_of_any_alphabet(client):
    sent(client, picture(0.1), name="LÄSION.png")
    sent(client, picture(0.2), name="lasion.png")
    for part in ("läsion", "LÄSION", "Läs"):
        assert names(client.get("/cases", params={"name": part})) == ["LÄSION.png"]


def test_cases_are_counted_by_decision_whatever_the_filter_and_reviewed_ones_within_it(client):
    worklist = filled(client)
    first = worklist.get("/cases?class=light").json()["cases"][0]
    worklist.post(f"/cases/{first['id']}/review", json={"verdict": "unsure"})
    for query, counted in {"": (4, 1), "class=light": (2, 1), "class=dark": (2, 0)}.items():
        answer = worklist.get(f"/cases?limit=1&{query}").json()
        assert (answer["total"], answer["reviewed"]) == counted
        assert answer["counts"] == {"accept": 2, "defer": 1, "ood": 1}


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


def test_reviews_agree_or_override_and_all_are_kept(client):
    case = sent(client, picture(0.9))
    url = f"/cases/{case['id']}"
    unsure = client.post(f"{url}/review", json={"verdict": "unsure"}).json()["review"]
    assert (unsure["verdict"], unsure["final_class"]) == ("unsure", None)
    client.post(f"{url}/review", json={"verdict": "override", "class": "dark"})
    body = {"verdict": "agree", "note": "on second thoughts", "reviewer": "A. B."}
    last = client.post(f"{url}/review", json=body).json()["review"]
    assert (last["note"], last["reviewer"]) == ("on second thoughts", "A. B.")
    assert last["reviewed_at"] >= case["received"]
    reviewed = client.get(url).json()
    assert [review["verdict"] for review in reviewed["reviews"][1:]] == ["override", "agree"]
    assert [review["final_class"] for review in reviewed["reviews"][1:]] == ["dark", "light"]
    assert reviewed["review"] == reviewed["reviews"][-1] == last
    assert reviewed["predicted_class"] == "light"
    (listed,) = client.get("/cases?reviewed=true").json()["cases"]
    assert listed["review"] == last


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "body.verdict: Field required"),
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
def test_an_invalid_review_is_refused(shared, body, reason):
    url = f"/cases/{sent(shared)['id']}"
    response = shared.post(f"{url}/review", json=body)
    assert response.status_code == 422
    assert reason in response.json()["detail"]
    assert not shared.get(url).json()["reviewed"]


def test_a_review_that_misses_the_last_one_is_a_conflict_and_is_not_stored(client):
    url = f"/cases/{sent(client, picture(0.9))['id']}"
    early = client.post(f"{url}/review", json={"verdict": "agree", "seen": "2026-01-01T00:00:00Z"})
    assert (early.status_code, early.json()["review"]) == (409, None)
    other = {"verdict": "override", "class": "dark", "reviewer": "B. C.", "seen": None}
    last = client.post(f"{url}/review", json=other).json()["review"]
    conflict = client.post(f"{url}/review", json={"verdict": "agree", "seen": None})
    assert (conflict.status_code, conflict.json()["review"]) == (409, last)
    assert {"B.", "C.", "dark;"} <= set(conflict.json()["detail"].split())
    assert client.get(url).json()["reviews"] == [last]
    knowing = {"verdict": "agree", "seen": last["reviewed_at"]}
    reviews = client.post(f"{url}/review", json=knowing).json()["reviews"]
    assert [review["final_class"] for review in reviews] == ["dark", "light"]


def test_cases_can_be_filtered_by_time_or_number_of_arrival_and_of_review(client):
    old = sent(client, picture(0.1), "old.png")
    moment, first = zulu(datetime.now(UTC)), client.get("/cases?limit=1").json()
    sent(client, picture(0.2), "new.png")
    client.post(f"/cases/{old['id']}/review", json={"verdict": "agree"})
    assert names(client.get(f"/cases?received_since={moment}")) == ["new.png"]
    assert names(client.get(f"/cases?reviewed_since={moment}")) == ["old.png"]
    assert names(client.get(f"/cases?reviewed_since={zulu(datetime.now(UTC))}")) == []
    assert names(client.get(f"/cases?arrived_after={first['last_arrival']}")) == ["new.png"]
    since = client.get(f"/cases?reviewed_after={first['last_review']}")
    assert names(since) == ["old.png"]
    assert names(client.get(f"/cases?reviewed_after={since.json()['last_review']}")) == []


@pytest.mark.parametrize("rest", ["", "/image", "/thumbnail"])
def test_an_unknown_case_is_not_found(shared, rest):
    response = shared.get(f"/cases/{'0' * 32}{rest}")
    assert response.status_code == 404
    assert "GET /cases" in response.json()["detail"]


def test_the_csv_has_the_worklist_in_its_order(worklist, monkeypatch):
    monkeypatch.setattr("misgiving.serve.routes.cases.CSV_ROWS", 3)
    listed = worklist.get("/cases").json()["cases"]
    errors = [case["error_probability"] for case in listed]
    assert errors == sorted(errors, reverse=True)
    rows = list(csv.DictReader(io.StringIO(worklist.get("/cases.csv").text)))
    assert [row["id"] for row in rows] == [case["id"] for case in listed]
    assert [float(row["error_probability"]) for row in rows] == errors
    assert [row["reviewed"] for row in rows] == ["no"] * 4


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", " =", "\n=", "\uff1d", "\x0b@"])
def test_no_text_in_the_csv_is_a_formula(client, start):
    formula = f"{start}HYPERLINK(1)"
    case = sent(client, name="a;=1+1;.png")
    body = {"verdict": "agree", "note": formula, "reviewer": formula}
    client.post(f"/cases/{case['id']}/review", json=body)
    text = client.get("/cases.csv").text
    assert '","a;\'=1+1;.png","defer","light",' in text  # quoted: no separator ends the cell
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    harmless = formula.replace("\n=", "\n'=")  # where a line begins, too
    assert row["note"] == row["reviewer"] == f"'{harmless}"
    assert float(row["ood_score"]) == -128
