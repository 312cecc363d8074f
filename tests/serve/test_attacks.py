"""Hostile input: nothing breaks or is executed, nobody gets in, nothing malformed is stored."""

import base64
import re

from standin import picture, sent, with_key

HOSTILE = [
    "../../../../etc/cron.d/evil",
    '"><img src=x onerror=alert(1)>',
    "a\r\nSet-Cookie: evil=1",
    "\u202egnp.exe",
    "a\0b\x85",
    "x" * 3000,
]
OUTSIDE = [
    "/../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/page/../app.py",
    "/page/..%2fapp.py",
    "/cases/%2e%2e%2f%2e%2e%2fetc%2fpasswd/image",
    "/cases/%00",
]
MALFORMED = [
    b'{"verdict": "agree", "note": "\\ud800"}',
    b'{"verdict": "unsure", "class": "dark"}',
    b'{"verdict": "override", "class": "grey"}',
    b'{"verdict": "agree", "reviewer": "a\\u0000b"}',
    b'{"verdict": "agree", "note": "' + b"x" * 2001 + b'"}',
    b'{"verdict": "agree", "seen": "0001-01-01T00:00:00"}',
    b"[" * 100_000,
    b'{"verdict": "agree", "note": 1e999}',
    b"\xff\xfe",
]


def test_a_hostile_name_is_only_ever_text(serving, tmp_path):
    client = serving(keep_images=tmp_path / "kept")
    hashes = set()
    for number, name in enumerate(HOSTILE):
        quoted = name.replace('"', '\\"')
        head = f'Content-Disposition: form-data; name="f"; filename="{quoted}"\r\n\r\n'
        body = b"--b\r\n" + head.encode() + picture() + b"%d\r\n--b--\r\n" % number
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        answer = client.post("/decisions", content=body, headers=kind).json()
        case = answer["results"][0]["case"]
        expected = name.partition("\r\n")[0][:255]
        assert case["name"].endswith(re.sub(r"[\0\x85]", "\ufffd", expected))
        assert "set-cookie" not in client.get(f"/cases/{case['id']}").headers
        hashes.add(case["sha256"])
    kept = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert {name for name in kept if "sqlite" not in name} == hashes


def test_a_name_that_cannot_be_encoded_is_no_failure(shared):
    head = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a\\ud800.png"\r\n\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=b; charset=unicode_escape"}
    body = head + picture() + b"\r\n--b--\r\n"
    answer = shared.post("/decisions", content=body, headers=kind)
    assert answer.json()["results"][0]["name"] == "a\ufffd.png"


def test_a_forged_cursor_is_refused(shared):
    for number in ("9" * 5000, "9" * 400, "\u0663", "1." + "1" * 6000):
        for order in ("expected_error", "listed"):
            query = {"cursor": f"{number}_{'0' * 32}", "order": order}
            assert shared.get("/cases", params=query).status_code == 422, query


def test_no_path_leads_out_of_the_service(shared):
    for path in OUTSIDE:
        response = shared.get(path)
        assert response.status_code in (404, 422), path
        assert not re.search("root:|import", response.text)


def test_a_malformed_or_endless_review_is_refused(shared):
    url, kind = f"/cases/{sent(shared)['id']}", {"Content-Type": "application/json"}
    for body in MALFORMED:
        response = shared.post(f"{url}/review", content=body, headers=kind)
        assert response.status_code in (400, 422), body[:50]
        assert response.headers["content-type"] == "application/problem+json"
    endless = (b"x" * 65536 for _ in range(1000))
    assert shared.post(f"{url}/review", content=endless, headers=kind).status_code == 413
    assert not shared.get(url).json()["reviewed"]


def test_everything_but_health_and_signing_in_needs_the_right_key(serving, sqlite_place):
    client, key = serving(), with_key(sqlite_place, "operate")["Authorization"][7:]
    for path in ("/openapi.json", "/nowhere"):  # and every operation
        response = client.get(path)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
    for page in ("/", "/monitor"):
        assert client.get(page, follow_redirects=False).headers["location"] == "sign-in"
    assert client.get("/health").json()["status"] in ("ok", "busy")
    for authorization, status in {
        f"bearer {key}": 200,
        f"Bearer {key}x": 401,
        "Bearer ": 401,
        "Basic " + base64.b64encode(f"anyone:{key}".encode()).decode(): 401,
        f"Digest {key}": 401,
        "Bearer \xff": 401,
    }.items():
        response = client.get("/cases", headers={"Authorization": authorization.encode("latin-1")})
        assert response.status_code == status, authorization


def test_no_cookie_of_others_is_parsed(serving, sqlite_place, monkeypatch):
    """Some versions of Python take a second for 15 kB of quoted backslashes."""
    client, key = serving(), with_key(sqlite_place, "operate")
    parsed = []
    monkeypatch.setattr("http.cookies._unquote", lambda value: parsed.append(value) or value)
    slow = {"Cookie": 'misgiving="' + r"\"" * 5000 + '"; other="' + r"\"" * 2000 + '"'}
    assert client.get("/cases", headers=slow).status_code == 401
    assert client.get("/cases", headers=slow | key).status_code == 200
    assert max(map(len, parsed)) < 100


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
