import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from misgiving.manifests import (
    seal,
    sha256_of_chunks,
    sha256_of_file,
    sha256_of_json,
    sha256_of_lines,
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "weights").write_bytes(b"1234")
    (tmp_path / "notes").write_text("hello")
    return tmp_path


def test_checksums_are_plain_sha_256_in_the_order_of_names(folder):
    seal(folder)
    written = json.loads((folder / "checksums.json").read_text())
    assert list(written) == ["notes", "weights"]
    assert written["weights"] == hashlib.sha256(b"1234").hexdigest()


@given(st.lists(st.binary()))
def test_digests_do_not_depend_on_the_chunks(tmp_path_factory, chunks):
    path = tmp_path_factory.mktemp("digests") / "file"
    path.write_bytes(data := b"".join(chunks))
    assert sha256_of_chunks(chunks) == sha256_of_file(path) == hashlib.sha256(data).hexdigest()


def test_lines_are_hashed_with_their_ends_and_json_regardless_of_the_order_of_keys():
    assert sha256_of_lines(["a", "b"]) == hashlib.sha256(b"a\nb\n").hexdigest()
    assert sha256_of_lines(["ab", ""]) != sha256_of_lines(["a", "b"])
    assert sha256_of_json({"a": 1, "b": [2]}) == sha256_of_json({"b": [2], "a": 1})
    assert sha256_of_json({"a": 1}) != sha256_of_json({"a": 2})
    with pytest.raises(ValueError, match="JSON"):
        sha256_of_json(float("nan"))
