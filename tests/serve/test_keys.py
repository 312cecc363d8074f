"""Keys with roles: what each opens, whose name a reading carries, sessions, and the log."""

import json
from datetime import datetime, timedelta

import pytest
from standin import Calibrated, picture, rows_of, sent, with_key
from waiting import until

from misgiving.errors import UsageError
from misgiving.serve.case import zulu
from misgiving.serve.keys import Keys
from misgiving.serve.store import Store

ROLES = ("send", "read", "operate", "metrics")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch, request):
    """Remember no key, so that a change holds at the next request."""
    if "without_a_restart" not in request.node.name:
        monkeypatch.setattr("misgiving.serve.keys.VALID_SECONDS", 0.0)


def number_of(place, name):
    store = Store.open(place)
    number = next(row.number for row in Keys(store).all() if row.name == name)
    store.close()
    return number


def test_each_role_opens_what_it_needs_and_nothing_else(serving, sqlite_place):
    client = serving(Calibrated(), audit_share=1.0)
    id = sent(client, picture(0.02))["id"]
    answer = {"verdict": "override", "class": "dark"}
    requests = {
        ("GET", "/cases"): ("read", "operate"),
        ("GET", "/cases.csv"): ("read", "operate"),
        ("GET", f"/cases/{id}"): ("read", "operate"),  # not sent with a key
        ("GET", f"/cases/{id}/thumbnail"): ("read", "operate"),
        ("GET", "/"): ("read", "operate"),
        ("GET", "/calibration"): ("read", "operate"),
        ("GET", "/audit"): ("read", "operate"),
        ("GET", "/model"): ("send", "read", "operate"),
        ("GET", "/openapi.json"): ROLES,
        ("GET", "/health"): ROLES,
        ("GET", "/metrics"): ("operate", "metrics"),
        ("GET", "/drift"): ("operate",),
        ("GET", "/audit.csv"): ("operate",),
        ("GET", "/found-wrong"): ("operate",),
        ("GET", "/found-wrong.csv"): ("operate",),
        ("POST", f"/cases/{id}/told"): ("operate",),
        ("POST", "/decisions"): ("send", "operate"),
        ("POST", f"/cases/{id}/review"): ("read",),
    }
    keys = {role: with_key(sqlite_place, role, f"one who {role}s") for role in ROLES}
    opened = {
        request: tuple(
            role
            for role in ROLES
            if client.request(*request, json=answer, headers=keys[role]).status_code
            not in (401, 403, 404)
        )
        for request in requests
    }
    assert opened == requests


def test_once_there_are_keys_a_reading_carries_the_name_of_a_key_to_read(serving, sqlite_place):
    client = serving(Calibrated(), audit_share=1.0)
    id = sent(client, picture(0.02))["id"]
    ann, ben = (with_key(sqlite_place, "read", name) for name in ("Ann", "Ben"))
    operator = with_key(sqlite_place, "operate", "Olga")
    body = {"verdict": "override", "class": "light", "reviewer": "Ben"}
    for forger in (operator, with_key(sqlite_place, "send", "Sam"), {}):
        response = client.post(f"/cases/{id}/review", json=body, headers=forger)
        assert response.status_code in (401, 403)
    told = client.post(f"/cases/{id}/review", json=body, headers=ann).json()
    assert told["review"]["reviewer"] == "Ann"
    for path in (f"/cases/{id}?reader=Ann", "/cases?reader=Ann"):
        shown = client.get(path, headers=ben).text.replace('["dark","light"]', "")
        assert not any(word in shown for word in ("light", 'accept",', "Ann"))
    numbers = ("audited", "wrong", "unconfirmed", "later", "estimate", "upper", "e_value")
    assert {client.get("/audit", headers=ben).json()[name] for name in numbers} == {None}
    client.headers = operator  # who sees what any reader has answered
    assert client.get("/audit").json()["unconfirmed"] == 1
    assert client.get("/found-wrong").json()["counts"]["open"] == 1
    assert client.get(f"/cases/{id}").json()["decision"] == "accept"
    assert rows_of(client.get("/cases.csv"))[0]["standing"] == "unconfirmed"
    note = {"note": "by telephone", "state": "open", "told_by": "somebody else"}
    (told,) = client.post(f"/cases/{id}/told", json=note).json()["told"]
    assert told["told_by"] == "Olga"


def test_a_key_to_send_reads_the_decisions_that_it_sent_and_no_reviews(serving, sqlite_place):
    client = serving(Calibrated(), audit_share=1.0)
    sam, other = (with_key(sqlite_place, "send", name) for name in ("Sam", "Sue"))
    client.headers = sam
    id = sent(client, picture(0.02))["id"]
    client.headers = {}
    body = {"verdict": "override", "class": "light"}
    client.post(f"/cases/{id}/review", json=body, headers=with_key(sqlite_place, "read", "Ann"))
    case = client.get(f"/cases/{id}", headers=sam).json()
    assert (case["decision"], case["reviews"], case["review"]) == ("accept", [], None)
    assert not case["reviewed"]  # most that are read are blind
    operator = with_key(sqlite_place, "operate", "Olga")
    client.post(f"/cases/{id}/review", json=body, headers=with_key(sqlite_place, "read", "Ben"))
    assert client.get(f"/cases/{id}", headers=operator).json()["reviewed"]
    client.headers = sam
    again = sent(client, picture(0.02))
    assert (again["id"], again["reviewed"], again["review"]) == (id, False, None)
    assert client.get(f"/cases/{id}?reader=Ann").json() == case
    assert client.get(f"/cases/{id}", headers=other).status_code == 404


def test_a_sender_of_a_known_file_is_told_nothing_that_its_first_sender_said(serving, sqlite_place):
    client, file = serving(Calibrated()), {"files": ("doe.png", picture())}
    sam, other = (with_key(sqlite_place, "send", name) for name in ("Sam", "Sue"))
    query = {"group": "patient 7", "metadata": '{"age": 61}'}
    for sender, told in ((sam, ("doe.png", "patient 7", {"age": 61})), (other, ("", None, None))):
        answer = client.post("/decisions", params=query, files=file, headers=sender).json()
        case = answer["results"][0]["case"]
        assert (case["name"], case["group"], case["metadata"]) == told
        query = {}


def test_a_key_holds_and_ends_without_a_restart(serving, sqlite_place):
    client = serving()
    assert client.get("/cases").status_code == 200
    key = with_key(sqlite_place, "operate", "Olga")
    until(lambda: client.get("/cases").status_code == 401)
    assert client.get("/cases", headers=key).status_code == 200
    store = Store.open(sqlite_place)
    Keys(store).revoke(number_of(sqlite_place, "Olga"))
    until(lambda: client.get("/cases", headers=key).status_code == 401)
    assert client.get("/cases").status_code == 401  # no key left is not: no keys
    with pytest.raises(UsageError, match="no key 1 to revoke"):
        Keys(store).revoke(1)
    store.close()


def test_the_store_has_hashes_alone(store):
    key, _ = Keys(store).add("Ann", "read")
    token = Keys(store).sign_in(Keys(store).find(key))
    with store.begin() as connection:
        rows = [
            str(list(connection.exec_driver_sql(f"SELECT * FROM {table}")))
            for table in ("keys", "sessions")
        ]
    assert not any(secret in row for secret in (key, token) for row in rows)
    assert len({Keys(store).add("Ann", "read")[0] for _ in range(3)}) == 3


def test_nothing_is_read_for_a_request_within_a_second_of_the_last_like_it(store, monkeypatch):
    monkeypatch.setattr("misgiving.serve.keys.VALID_SECONDS", 3600.0)
    keys = Keys(store)
    assert not keys.is_recalled("", is_session=False)
    assert not keys.exist()
    assert keys.is_recalled("", is_session=False)
    keys = Keys(store)
    key, _ = keys.add("Ann", "read")
    keys.exist()
    assert not keys.is_recalled(key, is_session=False)
    keys.find(key)
    keys.find("a guess")
    assert keys.is_recalled(key, is_session=False)
    assert not keys.is_recalled("a guess", is_session=False)


def test_an_upload_without_a_key_is_not_looked_up_again_within_a_second(serving, monkeypatch):
    monkeypatch.setattr("misgiving.serve.keys.VALID_SECONDS", 3600.0)
    client = serving()
    assert client.get("/model").status_code == 200
    monkeypatch.setattr("misgiving.serve.authentication.to_thread.run_sync", None)
    assert sent(client, picture(0.02))["id"]


def test_a_key_is_no_token_and_a_token_no_key_also_within_a_second(
    serving, sqlite_place, monkeypatch
):
    monkeypatch.setattr("misgiving.serve.keys.VALID_SECONDS", 3600.0)
    client, key = serving(), with_key(sqlite_place, "read", "Ann")
    sign_in(client, key)
    token = client.cookies["misgiving"]
    assert client.get("/model").status_code == 200
    client.cookies.clear()
    swapped = {"Authorization": f"Bearer {token}"}
    assert client.get("/model", headers=swapped).status_code == 401
    assert client.get("/model", headers=key).status_code == 200
    client.cookies.set("misgiving", key["Authorization"].removeprefix("Bearer "))
    assert client.get("/model").status_code == 401


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        (["read", "send"], ["read"]),
        (["operate", "read"], ["operate"]),
        (["send", "operate", "read"], ["send", "operate"]),
        (["send", "operate"], []),
        (["metrics", "read"], []),
        (["read", "metrics"], []),
    ],
)
def test_who_reads_and_sees_decisions_elsewhere_is_warned_of(store, roles, expected):
    keys = Keys(store)
    for role in roles[:-1]:
        keys.add(" Ann  B", role)
        keys.add("Ben", role)
    assert [other.role for other in keys.add("ann b", roles[-1])[1]] == expected


def sign_in(client, key, **options):
    form = {"key": key["Authorization"].removeprefix("Bearer ")}
    return client.post("/sign-in", data=form, follow_redirects=False, **options)


def test_a_session_opens_the_page_until_its_end_or_that_of_its_key(serving, sqlite_place):
    client, key = serving(), with_key(sqlite_place, "read", "Ann")
    assert "Your key" in client.get("/").text  # leads to the form
    assert sign_in(client, {"Authorization": "Bearer wrong"}).status_code == 401
    assert sign_in(client, with_key(sqlite_place, "send")).status_code == 401
    response = sign_in(client, key)
    cookie = response.headers["set-cookie"].lower()
    assert all(word in cookie for word in ("httponly", "samesite=strict")), cookie
    assert client.get("/model").json()["key"] == "Ann"
    assert client.post("/sign-out", headers={"Origin": "https://evil"}).status_code == 403
    kept = client.cookies.get("misgiving")
    client.post("/sign-out")
    client.cookies.set("misgiving", kept)
    assert client.get("/model").status_code == 401
    sign_in(client, key)
    store = Store.open(sqlite_place)
    Keys(store).revoke(number_of(sqlite_place, "Ann"))
    store.close()
    assert client.get("/model").status_code == 401


def test_a_cookie_behind_tls_is_never_sent_without_it(serving, sqlite_place):
    client, key = serving(), with_key(sqlite_place, "read")
    assert "secure" not in sign_in(client, key).headers["set-cookie"].lower()
    client.base_url = "https://127.0.0.1"
    assert "secure" in sign_in(client, key).headers["set-cookie"].lower()


def test_a_session_ends_where_only_the_page_asks_and_no_reader(serving, sqlite_place):
    client, key = serving(), with_key(sqlite_place, "read")
    sign_in(client, key)

    def minutes_pass(count):
        store = Store.open(sqlite_place)
        with store.begin(writing=True) as connection:
            (used,) = connection.exec_driver_sql("SELECT used_at FROM sessions").scalars()
            time = datetime.fromisoformat(used) - timedelta(minutes=count)
            connection.exec_driver_sql("UPDATE sessions SET used_at = ?", (zulu(time),))
        store.close()

    for _ in range(3):  # a reader at work opens cases
        minutes_pass(10)
        assert client.get(f"/cases/{'0' * 32}").status_code == 404
    for status in (200, 401):
        minutes_pass(10)
        assert client.get("/cases?reviewed_after=0").status_code == status


def test_the_log_names_key_and_case_of_each_request_and_no_content(serving, sqlite_place, logged):
    client, key = serving(), with_key(sqlite_place, "operate", "Olga")
    client.headers = key
    id = sent(client, picture(0.02), "Mrs Patient.png")["id"]
    client.get(f"/cases/{id}")
    client.get(f"/cases/{id}", headers={"Authorization": "Bearer guessed"})
    requests = [line for line in logged() if line["event"] == "request"]
    assert [(line.get("name"), line.get("case"), line["status"]) for line in requests] == [
        ("Olga", None, 200),
        ("Olga", id, 200),
        (None, None, 401),
    ]
    (case,) = [line for line in logged() if line["event"] == "case"]
    assert (case["case"], case["name"]) == (id, "Olga")
    (refused,) = [line for line in logged() if line["event"] == "refused"]
    assert (refused["request"], refused["client"]) == (f"GET /cases/{id}", "testclient")
    whole = json.dumps(logged())
    assert not any(word in whole for word in ("Patient", "guessed", key["Authorization"][7:]))


def test_the_command_adds_lists_and_revokes_keys(succeed, fail, tmp_path):
    place = tmp_path / "cases.sqlite"
    assert "no such store" in fail(1, "keys", "list", place)
    key = succeed("keys", "add", place, "--role", "read", "--name", "R. Viewer").out.strip()
    warned = succeed("keys", "add", place, "--role", "operate", "--name", "r. viewer").err
    assert "no blind reader" in warned
    listed = succeed("keys", "list", place).out
    assert ("R. Viewer" in listed, key in listed) == (True, False)
    succeed("keys", "revoke", place, "--number", "1")
    assert "no key 1 to revoke" in fail(2, "keys", "revoke", place, "--number", "1")
    assert "--role" in fail(2, "keys", "add", place, "--role", "admin", "--name", "x")


def test_a_form_to_sign_in_that_is_longer_than_a_key_is_not_parsed(shared):
    """It needs no key, and a thousand empty fields take 50 ms of all others."""
    for body, status in (("key=" + "&" * 1000, 413), ("key=" + "k" * 150, 401)):
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        assert shared.post("/sign-in", content=body, headers=headers).status_code == status


def test_a_long_request_with_a_wrong_key_is_logged_in_part(serving, sqlite_place, caplog):
    client = serving()
    with_key(sqlite_place, "read", "Ann")
    client.get("/" + "a" * 10_000, headers={"Authorization": "Bearer wrong"})
    (record,) = (each for each in caplog.records if each.message == "refused")
    assert len(record.fields["request"]) == 200
