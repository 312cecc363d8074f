"""The key, the loopback address without one, and requests of other sites."""

import base64

import pytest
from standin import KEY, picture

from misgiving.errors import UsageError
from misgiving.serve.settings import Settings

EVERYTHING = ["/", "/cases", "/cases.csv", "/model", "/metrics", "/openapi.json", "/nowhere"]


def basic(password):
    return "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()


@pytest.fixture(scope="module")
def keyed(module_serving):
    return module_serving(api_key=KEY)


@pytest.mark.parametrize("path", EVERYTHING)
def test_nothing_but_health_is_available_without_the_key(keyed, path):
    response = keyed.get(path)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Basic")
    assert keyed.post("/decisions", files={"files": ("a.png", picture())}).status_code == 401
    assert keyed.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {KEY}", 200),
        (f"bearer {KEY}", 200),
        (basic(KEY), 200),
        (f"Bearer {KEY}x", 401),
        (f"Bearer {KEY[:-1]}", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        (f"Digest {KEY}", 401),
        (KEY, 401),
        (basic(""), 401),
        (basic(KEY + "x"), 401),
        ("Basic ???", 401),
        ("Basic", 401),
        ("Bearer \xff", 401),
    ],
)
def test_only_the_right_key_is_accepted(keyed, authorization, status):
    response = keyed.get("/cases", headers={"Authorization": authorization.encode("latin-1")})
    assert response.status_code == status


def test_many_wrong_keys_are_refused_for_a_while_and_the_right_one_never(serving, monkeypatch):
    keyed, clock = serving(api_key=KEY), [100.0]
    monkeypatch.setattr("misgiving.serve.authentication.time.monotonic", lambda: clock[0])

    def ask(key):
        return keyed.get("/model", headers={"Authorization": f"Bearer {key}"} if key else {})

    assert [ask(f"wrong-{n}").status_code for n in range(22)] == [401] * 20 + [429] * 2
    assert ask("wrong").headers["retry-after"] == "60"
    assert [ask("").status_code, ask(KEY).status_code] == [401, 200]
    clock[0] += 60
    assert ask("wrong").status_code == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
        ("192.168.0.1:80", 403),
        ("localhost:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("127.0.0.1", 200),
    ],
)
def test_without_a_key_only_names_of_this_machine_are_answered(shared, host, status):
    assert shared.get("/cases", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1"}, 403),
    ],
)
def test_only_the_services_own_page_can_send(client, headers, status):
    files = {"files": ("a.png", picture())}
    assert client.post("/decisions", files=files, headers=headers).status_code == status
    assert client.get("/cases").json()["total"] == (status == 200)


def test_a_short_key_is_refused_and_no_key_is_shown():
    with pytest.raises(UsageError, match="shorter than 16 characters"):
        Settings(api_key="secret")
    assert KEY not in repr(Settings(api_key=KEY))


@pytest.mark.parametrize("path", ["/", "/cases", "/nowhere", "/health"])
def test_every_response_forbids_scripts_from_elsewhere(shared, path):
    headers = shared.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
