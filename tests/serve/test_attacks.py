"""Hostile input: nothing breaks, nothing is executed, nothing malformed is stored."""

import re

from standin import picture, sent

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
