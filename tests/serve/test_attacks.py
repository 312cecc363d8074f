"""Hostile input: nothing breaks, nothing is executed, nothing malformed is stored."""

import re

import corpus
import pytest
from standin import picture, sent

from misgiving.serve.uploads import clean_name

HOSTILE = [
    "../../../../etc/cron.d/evil",
    "/etc/passwd",
    "..\\..\\windows\\system32",
    "C:\\evil.png",
    "file:///etc/passwd",
    "<script>alert(1)</script>.png",
    '"><img src=x onerror=alert(1)>',
    "'; DROP TABLE cases; --",
    "{{7*7}}${7*7}%s%n",
    "a\r\nSet-Cookie: evil=1",
    "\u202egnp.exe",
    "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16") + ".png",
    " ",
    ".",
    "=cmd|' /C calc'!A0",
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Bad and unusual image files, with the expected result of each."""
    folder = tmp_path_factory.mktemp("corpus") / "files"
    cases = corpus.build(folder)
    ordinary = [
        case for case in cases if (folder / case.name).is_file() and case.name != "device.png"
    ]
    return [(case, (folder / case.name).read_bytes()) for case in ordinary]


def test_unusual_files_become_cases_and_bad_ones_problems_with_a_remedy(client, files):
    parts = [("files", (f"{number}.png", data)) for number, (_, data) in enumerate(files)]
    results = []
    for start in range(0, len(parts), 100):
        response = client.post("/decisions", files=parts[start : start + 100])
        assert response.status_code in (200, 422)
        results += response.json()["results"]
    for (case, _), result in zip(files, results, strict=True):
        assert (result["case"] is None) == (case.refused is not None), case.name
        if case.refused is not None:
            assert re.search(case.refused, result["problem"]["detail"])
            assert ";" in result["problem"]["detail"]
    readable = {data for case, data in files if case.refused is None}  # equal files are one case
    assert client.get("/cases").json()["total"] == len(readable) > 40


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_only_ever_text(serving, tmp_path, name):
    client = serving(keep_images=tmp_path / "kept")
    data = picture()
    head = f'Content-Disposition: form-data; name="f"; filename="{_quoted(name)}"\r\n\r\n'
    body = b"--b\r\n" + head.encode() + data + b"\r\n--b--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    response = client.post("/decisions", content=body, headers=kind)
    case = response.json()["results"][0]["case"]
    assert case["name"].endswith(re.split(r"\\", name.partition("\r\n")[0])[-1])
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and "sqlite" not in path.name]
    assert [path.name for path in kept] == [case["sha256"]]
    assert set(client.get(f"/cases/{case['id']}").headers) & {"set-cookie"} == set()


def test_names_are_cut_and_freed_of_control_characters():
    assert clean_name("a\0b\r\nc") == "a\ufffdb\ufffd\ufffdc"
    assert (len(clean_name("x" * 3000)), clean_name("")) == (255, "image")


def _quoted(name):
    return name.replace("\\", "\\\\").replace('"', '\\"')


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/page.css/../settings.py",
        "/settings.py",
        "/cases/../../etc/passwd",
        "/cases/%2e%2e%2f%2e%2e%2fetc%2fpasswd/image",
        "/cases/' OR 1=1 --",
        "/cases/%00",
    ],
)
def test_no_path_leads_out_of_the_service(shared, path):
    response = shared.get(path)
    assert response.status_code in (404, 422)
    assert "root:" not in response.text
    assert "dataclass" not in response.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b'{"verdict": "agree", "note": "\\ud800"}',
        b'{"verdict": "agree", "note": {"$ne": 1}}',
        b'{"verdict": ["agree"]}',
        b"[" * 100_000,
        b'{"verdict": "agree", "note": 1e999}',
        b"\xff\xfe",
    ],
)
def test_a_malformed_review_is_refused(shared, body):
    url = f"/cases/{sent(shared)['id']}"
    kind = {"Content-Type": "application/json"}
    assert shared.post(f"{url}/review", content=body, headers=kind).status_code in (400, 422)
    assert not shared.get(url).json()["reviewed"]


def test_an_endless_review_is_cut_off(client):
    url = f"/cases/{sent(client)['id']}"
    pieces = (b"x" * 65536 for _ in range(1000))
    kind = {"Content-Type": "application/json"}
    assert client.post(f"{url}/review", content=pieces, headers=kind).status_code == 413
