import base64

from standin import KEY, picture

from misgiving.serve.settings import ServiceSettings


def basic(password):
    return "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()


def test_everything_but_health_needs_the_right_key(serving):
    client = serving(api_key=KEY)
    assert KEY not in repr(ServiceSettings(api_key=KEY))
    for path in ("/", "/page/main.js", "/openapi.json", "/nowhere"):  # and every operation
        response = client.get(path)
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Basic")
    assert client.get("/health").json() == {"status": "ok"}
    for authorization, status in {
        f"bearer {KEY}": 200,
        basic(KEY): 200,
        f"Bearer {KEY}x": 401,
        "Bearer ": 401,
        f"Digest {KEY}": 401,
        "Basic ???": 401,
        "Bearer \xff": 401,
    }.items():
        response = client.get("/cases", headers={"Authorization": authorization.encode("latin-1")})
        assert response.status_code == status, authorization


def test_without_a_key_only_this_machine_and_the_page_itself_are_answered(client):
    for host, status in {
        "127.0.0.1.evil.example": 403,
        "": 403,
        "[": 403,
        "localhost:8000": 200,
        "[::1]:8000": 200,
    }.items():
        assert client.get("/cases", headers={"Host": host}).status_code == status, host
    files = {"files": ("a.png", picture())}
    for headers, status in (
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1"}, 403),
        ({"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}, 200),
    ):
        assert client.get("/cases").json()["total"] == 0
        assert client.post("/decisions", files=files, headers=headers).status_code == status


def test_every_response_forbids_scripts_from_elsewhere(shared):
    for path in ("/", "/cases", "/nowhere"):
        headers = shared.get(path).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == policy["style-src"] == "'self'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
