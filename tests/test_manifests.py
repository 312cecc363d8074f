import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from misgiving.errors import DataError
from misgiving.files import (
    seal,
    sha256_of_chunks,
    sha256_of_file,
    sha256_of_json,
    sha256_of_lines,
    verify,
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "weights").write_bytes(b"1234")
    (tmp_path / "notes").write_text("hello")
    return tmp_path


def check_refused(folder, *names, file):
    """The message names the file and the remedy."""
    with pytest.raises(DataError) as refused:
        verify(folder, names or None, remedy="train again")
    assert str(refused.value).startswith(f"{folder / file}: ")
    assert str(refused.value).endswith("train again")
    assert "\n" not in str(refused.value)


def test_checksums_are_plain_sha_256_in_the_order_of_names(folder):
    seal(folder)
    written = json.loads((folder / "checksums.json").read_text())
    assert list(written) == ["notes", "weights"]
    assert written["weights"] == hashlib.sha256(b"1234").hexdigest()


@pytest.mark.parametrize("names", [(), ("weights",), ("weights", "notes")])
def test_a_changed_or_missing_file_is_refused_with_its_name_and_the_remedy(folder, names):
    seal(folder, names or None)
    verify(folder, names or None, remedy="train again")
    (folder / "weights").write_bytes(b"1235")
    check_refused(folder, *names, file="weights")
    (folder / "weights").unlink()
    check_refused(folder, *names, file="weights")


def test_only_a_folder_sealed_as_a_whole_refuses_further_files(folder):
    seal(folder)
    (folder / "extra").write_text("")
    check_refused(folder, file="extra")
    verify(folder, ["notes", "weights"], remedy="train again")
    check_refused(folder, "extra", file="extra")  # it was never sealed


@pytest.mark.parametrize("content", [None, "[]", '{"notes": 3}'])
def test_damaged_checksums_are_refused(folder, content):
    if content is not None:
        (folder / "checksums.json").write_text(content)
    check_refused(folder, "notes", file="notes" if "notes" in (content or "") else "checksums.json")


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
