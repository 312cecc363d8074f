import pytest
from standin import picture, rows_of, sent


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
    monkeypatch.setattr("misgiving.serve.routes.cases.CSV_ROWS", 3)
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
    for query, expected in {
        "decision=accept&decision=ood&reviewed=false": {"0.1.png", "1.0.png", "GRÜN.png"},
        "name=grün": {"GRÜN.png"},  # in any alphabet
    }.items():
        answer = worklist.get(f"/cases?limit=1&{query}").json()
        assert (answer["total"], answer["reviewed"]) == (len(expected), 0)
        assert {row["name"] for row in rows_of(worklist.get(f"/cases.csv?{query}"))} == expected
    assert answer["counts"] == {"accept": 2, "defer": 1, "ood": 1}


def test_an_invalid_query_or_unknown_case_is_a_readable_problem(worklist):
    for query in ("decision=perhaps", "limit=501", "class=%00", f"cursor={'0' * 32}"):
        response = worklist.get(f"/cases?{query}")
        assert response.status_code == 422, query
        assert response.headers["content-type"] == "application/problem+json"
        assert query.partition("=")[0] in response.json()["detail"]
    for rest in ("", "/image", "/thumbnail", "/saliency"):
        response = worklist.get(f"/cases/{'0' * 32}{rest}")
        assert (response.status_code, "GET /cases" in response.json()["detail"]) == (404, True)


def test_reviews_agree_or_override_and_all_are_kept(client):
    case = sent(client, picture(0.9))
    url = f"/cases/{case['id']}"
    last_words = {"note": "on second thoughts", "reviewer": "A. B."}
    for body in (
        {"verdict": "unsure"},
        {"verdict": "override", "class": "dark"},
        {"verdict": "agree", **last_words},
    ):
        last = client.post(f"{url}/review", json=body).json()["review"]
    assert last.items() >= last_words.items()
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


def test_a_review_that_misses_the_last_one_is_a_conflict_and_is_not_stored(client):
    url = f"/cases/{sent(client, picture(0.9))['id']}"
    early = client.post(f"{url}/review", json={"verdict": "agree", "seen": "2026-01-01T00:00:00Z"})
    assert (early.status_code, early.json()["review"]) == (409, None)
    other = {"verdict": "override", "class": "dark", "reviewer": "B. C.", "seen": None}
    last = client.post(f"{url}/review", json=other).json()["review"]
    conflict = client.post(f"{url}/review", json={"verdict": "agree", "seen": None})
    assert (conflict.status_code, conflict.json()["review"]) == (409, last)
    assert client.get(url).json()["reviews"] == [last]
    knowing = {"verdict": "agree", "seen": last["reviewed_at"]}
    reviews = client.post(f"{url}/review", json=knowing).json()["reviews"]
    assert [review["final_class"] for review in reviews] == ["dark", "light"]


def test_no_text_in_the_csv_is_a_formula(client):
    case = sent(client, name="a;=1+1;.png")
    body = {"verdict": "agree", "note": "=HYPERLINK(1)\n=1", "reviewer": "\t@SUM(1)"}
    client.post(f"/cases/{case['id']}/review", json=body)
    answer = client.get("/cases.csv")
    assert '","a;\'=1+1;.png","light",' in answer.text  # quoted: no separator ends a cell
    (row,) = rows_of(answer)
    assert (row["note"], row["reviewer"]) == ("'=HYPERLINK(1)\n'=1", "'\t@SUM(1)")
    assert float(row["ood_score"]) == -128
