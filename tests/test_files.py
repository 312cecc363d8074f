import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from misgiving.csv_tables import csv_lines, csv_rows, escape_formulas, unescape_formulas, write_csv
from misgiving.errors import DataError, UsageError
from misgiving.files import (
    clear_abandoned,
    default_cache,
    read_json,
    seal,
    sha256_of_json,
    sha256_of_lines,
    verify,
    whole_file,
    whole_folder,
    write_json,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def content(path):
    return (path / "model" if path.is_dir() else path).read_text()


@pytest.fixture(params=["file", "folder"])
def target(request, tmp_path):
    """A file or folder that exists, and a function that writes a new one, up to a failure."""
    path = tmp_path / "target"
    if request.param == "folder":
        path.mkdir()
        (path / "stale").touch()
        (path / "model").write_text("old")
    else:
        path.write_text("old")

    def write(text, failure=None):
        with (whole_folder if path.is_dir() else whole_file)(path) as partial:
            (partial / "model" if path.is_dir() else partial).write_text(text)
            if failure:
                raise failure

    return path, write


def test_what_fails_half_way_leaves_the_old_one_and_nothing_else(target):
    path, write = target
    for failure in (TypeError, KeyboardInterrupt):
        with pytest.raises(failure):
            write("half", failure)
    assert content(path) == "old"
    assert names(path.parent) == ["target"]
    write("new")
    assert content(path) == "new"
    assert names(path.parent) == ["target"]
    assert not (path / "stale").exists()


def test_an_interrupt_between_two_renames_leaves_the_old_folder(tmp_path, monkeypatch):
    target, replaced = tmp_path / "run", Path.replace
    target.mkdir()
    (target / "model").write_text("old")

    def interrupted(path, to):
        if (path / "new").exists():
            monkeypatch.undo()
            raise KeyboardInterrupt
        return replaced(path, to)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), whole_folder(target) as partial:
        (partial / "new").touch()
    assert (target / "model").read_text() == "old"
    assert names(tmp_path) == ["run"]


def test_json_is_written_below_new_folders_for_others_to_read(tmp_path):
    path = tmp_path / "new" / "config.json"
    write_json(path, {"format": 2, "a": [1]})
    assert json.loads(path.read_text()) == read_json(path, version=2, remedy="")
    assert path.stat().st_mode & 0o044 == 0o044
    with pytest.raises(ValueError, match="JSON"):
        write_json(path.parent / "other.json", {"loss": float("nan")})
    assert names(path.parent) == ["config.json"]


DAMAGED = [None, "", "{", "[1]", "3", "[" * 100_000, "\udcff", '{"format": 3}', "{}"]


@pytest.mark.parametrize("text", DAMAGED)
def test_json_that_is_damaged_or_of_another_format_is_refused(tmp_path, text):
    path = tmp_path / "facts.json"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"facts\.json: .*; make it again$"):
        read_json(path, version=2, remedy="make it again")


CELLS = st.text(st.sampled_from("='; \t\r\n-+@1e.,\"a\uff1d\ufe66\u200b\x0b"), max_size=6)


def begins_formula(text):
    """True for what a spreadsheet computes, other than a number: cell by cell, sign by sign."""
    if text[:1] in ("\t", "\r"):
        return True
    visible = "".join(letter for letter in text if letter not in "\u200b\ufeff").strip()
    if not visible.startswith(("=", "+", "-", "@", "\uff1d", "\ufe62", "\ufe66")):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return not text.isascii() or text != text.strip()


@given(CELLS, CELLS)
@example("'=1", "=1")
@example("a;=1", "\n=1")
@example("-7", "+.5e-7")
@example("\ufeff\ufe62", "\u200b=")
def test_a_table_holds_no_formula_and_is_read_as_it_was_written(first, second):
    lines = csv_lines((first, "b"), [(second, 1), (first, -0.5)])
    text = "".join(lines)
    assert [cells for _, cells in csv_rows(io.StringIO(text, newline=""))] == [
        [first, "b"],
        [second, "1"],
        [first, "-0.5"],
    ]
    written = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
    parts = [part for cell in written for part in re.split("[;\n\r]", cell)]
    assert not any(map(begins_formula, [*written, *parts]))


@pytest.mark.parametrize("part", ["\n'", "\n ' ", ";'", "';\t"])
def test_a_cell_of_many_possible_formulas_takes_no_longer_than_others(part):
    begun, cell = time.process_time(), part * 60_000
    assert unescape_formulas(escape_formulas(cell)) == cell
    assert time.process_time() - begun < 5


def test_a_table_has_unix_line_ends_on_every_system(tmp_path):
    write_csv(tmp_path / "t.csv", ("a", "b"), [(1, "x,y")])
    assert (tmp_path / "t.csv").read_bytes() == b'a,b\n1,"x,y"\n'


def test_only_an_ordinary_file_in_a_folder_is_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    for place in ("pipe", ".", "file/x.json"):
        with pytest.raises(UsageError, match=re.escape(f"{tmp_path / place}: ")):
            write_json(tmp_path / place, 1)
    assert (tmp_path / "pipe").is_fifo()


WRITER = """
import sys
from pathlib import Path
from misgiving import files

with getattr(files, sys.argv[1])(Path(sys.argv[2])):
    print("writing", flush=True)
    sys.stdin.read()  # until it is killed
"""


@pytest.mark.parametrize("write", [whole_file, whole_folder])
def test_only_what_a_dead_process_left_is_removed_or_replaced(tmp_path, write):
    target, partial = tmp_path / "target", tmp_path / ".target.partial"
    command = [sys.executable, "-c", WRITER, write.__name__, str(target)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    for place, left in (("other", ["other"]), ("target", ["other", "target"])):
        with subprocess.Popen(command, **pipes) as process:
            assert process.stdout.readline() == "writing\n"
            clear_abandoned([target, tmp_path / "other"])
            assert partial.exists()
            process.kill()
        with write(tmp_path / place):  # in another place it leaves that of the target alone
            assert partial.exists()
        clear_abandoned([target])
        assert names(tmp_path) == left


def test_writers_of_one_file_at_the_same_time_leave_it_whole(tmp_path):
    def write(letter):
        for _ in range(20):
            with whole_file(tmp_path / "target") as partial, partial.open("w") as file:
                for _ in range(5):
                    file.write(letter)
                    file.flush()
            assert len(set((tmp_path / "target").read_text())) == 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))
    assert names(tmp_path) == ["target"]


def test_the_default_cache_is_where_caches_belong(monkeypatch):
    monkeypatch.setenv("HOME", "/h")
    for variable, expected in (("/x/y", "/x/y/misgiving"), ("", "/h/.cache/misgiving")):
        monkeypatch.setenv("XDG_CACHE_HOME", variable)
        assert default_cache() == Path(expected)


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


def test_lines_are_hashed_with_their_ends_and_json_regardless_of_the_order_of_keys():
    assert sha256_of_lines(["a", "b"]) == hashlib.sha256(b"a\nb\n").hexdigest()
    assert sha256_of_lines(["ab", ""]) != sha256_of_lines(["a", "b"])
    assert sha256_of_json({"a": 1, "b": [2]}) == sha256_of_json({"b": [2], "a": 1})
    assert sha256_of_json({"a": 1}) != sha256_of_json({"a": 2})
    with pytest.raises(ValueError, match="JSON"):
        sha256_of_json(float("nan"))
