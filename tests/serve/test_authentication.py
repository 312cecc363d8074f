import base64

import pytest
from standin import KEY, picture

from misgiving.errors import UsageError
from misgiving.serve.settings import Settings

EVERYTHING = ["/", "/cases", "/cases.csv", "/model", "/metrics", "/openapi.json", "/nowhere"]


def basic(password):
    return "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()


@pytest.fixture
def keyed(serving):
    return serving(api_key=KEY)


@pytest.mark.parametrize("path", EVERYTHING)
def test_nothing_is_available_without_the_key(keyed, path):
    response = keyed.get(path)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Basic")
    assert "Authorization: Bearer KEY" in response.json()["detail"]


@pytest.mark.parametrize(
    "given",
    [
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        "Bearer",
        "Bearer ",
        f"Digest {KEY}",
        KEY,
        basic(""),
        basic(KEY + "x"),
        "Basic ???",
        "Basic",
        "Bearer \xff",
    ],
)
def test_a_wrong_key_is_refused(keyed, given):
    response = keyed.get("/cases", headers={"Authorization": given.encode("latin-1")})
    assert response.status_code == 401


def test_many_wrong_keys_are_refused_for_a_while_and_the_right_one_never(keyed, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("misgiving.serve.authentication.time.monotonic", lambda: clock[0])

    def ask(key):
        return keyed.get("/model", headers={"Authorization": f"Bearer {key}"} if key else {})

    assert [ask(f"wrong-{n}").status_code for n in range(22)] == [401] * 20 + [429] * 2
    assert ask("wrong").headers["retry-after"] == "60"
    assert [ask("").status_code, ask(KEY).status_code] == [401, 200]
    clock[0] += 60
    assert ask("wrong").status_code == 401


@pytest.mark.parametrize("given", [f"Bearer {KEY}", f"bearer {KEY}", basic(KEY)])
def test_the_service_accepts_the_key(keyed, given):
    assert keyed.get("/cases", headers={"Authorization": given}).status_code == 200


def test_health_needs_no_key(keyed):
    assert keyed.get("/health").json() == {"status": "ok"}


def test_an_image_without_the_key_is_refused(keyed):
    response = keyed.post("/decisions", files={"files": ("a.png", picture())})
    assert response.status_code == 401
    total = keyed.get("/cases", headers={"Authorization": f"Bearer {KEY}"}).json()["total"]
    assert total == 0


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "192.168.0.1:80"])
def test_dns_rebinding_fails_without_a_key(client, host):
    assert client.get("/cases", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "127.0.0.1"])
def test_every_name_of_this_machine_is_accepted(client, host):
    assert client.get("/cases", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1"},
    ],
)
def test_pages_of_other_sites_cannot_send_anything(client, headers):
    files = {"files": ("a.png", picture())}
    assert client.post("/decisions", files=files, headers=headers).status_code == 403
    assert client.get("/cases").json()["total"] == 0


def test_the_services_own_page_may_send(client):
    headers = {"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}
    files = {"files": ("a.png", picture())}
    assert client.post("/decisions", files=files, headers=headers).status_code == 200


def test_the_description_documents_the_key(keyed, client):
    found = keyed.get("/openapi.json", headers={"Authorization": f"Bearer {KEY}"}).json()
    assert found["security"] == [{"bearer": []}, {"basic": []}]
    assert "security" not in client.get("/openapi.json").json()


def test_a_short_key_is_refused():
    with pytest.raises(UsageError, match="shorter than 16 characters; make one with"):
        Settings(api_key="secret")


def test_the_key_is_not_shown():
    assert KEY not in repr(Settings(api_key=KEY))


@pytest.mark.parametrize("path", ["/", "/cases", "/nowhere", "/health"])
def test_every_response_forbids_scripts_from_elsewhere(client, path):
    headers = client.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
