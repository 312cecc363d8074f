import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from misgiving.errors import DataError, UsageError
from misgiving.files import (
    clear_abandoned,
    csv_lines,
    csv_rows,
    default_cache,
    read_json,
    whole_file,
    whole_folder,
    write_csv,
    write_json,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_that_fails_half_way_leaves_the_old_one_and_nothing_else(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(TypeError), whole_file(target) as partial:
        partial.write_text(partial.write_text("half"))
    assert target.read_text() == "old"
    assert names(tmp_path) == ["table.csv"]


def test_a_folder_that_fails_half_way_leaves_the_old_one_and_nothing_else(tmp_path):
    target = tmp_path / "run"
    target.mkdir()
    (target / "model").write_text("old")
    with pytest.raises(TypeError), whole_folder(target) as partial:
        (partial / "model").write_text((partial / "model").write_text("half"))
    assert (target / "model").read_text() == "old"
    assert names(tmp_path) == ["run"]


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


def test_a_finished_folder_replaces_the_old_one_whole(tmp_path):
    target = tmp_path / "run"
    target.mkdir()
    (target / "stale").write_text("old")
    with whole_folder(target) as partial:
        (partial / "model").write_text("new")
    assert names(target) == ["model"]
    assert names(tmp_path) == ["run"]


def test_a_finished_file_can_be_read_by_others(tmp_path):
    write_json(tmp_path / "config.json", {"a": 1})
    assert (tmp_path / "config.json").stat().st_mode & 0o044 == 0o044


def test_parent_folders_are_made(tmp_path):
    write_json(tmp_path / "a" / "b.json", [1])
    assert json.loads((tmp_path / "a" / "b.json").read_text()) == [1]


def test_json_refuses_not_a_number(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "config.json", {"loss": float("nan")})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "damaged"),
        ("{", "damaged"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "damaged"),
        ('{"format": 3}', "format 3"),
        ("{}", "format None"),
    ],
)
def test_json_that_is_damaged_or_of_another_format_is_refused(tmp_path, text, message):
    path = tmp_path / "facts.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=rf"facts\.json: .*{message}"):
        read_json(path, version=2, remedy="make it again")


def test_json_of_the_wanted_format_is_read(tmp_path):
    write_json(tmp_path / "facts.json", {"format": 2, "a": [1]})
    assert read_json(tmp_path / "facts.json", version=2, remedy="")["a"] == [1]


def test_a_table_has_unix_line_ends_on_every_system(tmp_path):
    write_csv(tmp_path / "t.csv", ("a", "b"), [(1, "x,y")])
    assert (tmp_path / "t.csv").read_bytes() == b'a,b\n1,"x,y"\n'


CELLS = st.text(st.sampled_from("='; \t\r\n-+@1e.,\"a\uff1d\x0b"), max_size=6)


def begins_formula(text):
    """True for what a spreadsheet computes, other than a number: cell by cell, sign by sign."""
    if text[:1] in ("\t", "\r"):
        return True
    if not text.strip().startswith(("=", "+", "-", "@", "\uff1d")):
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


def test_only_an_ordinary_file_is_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="not an ordinary file"):
        write_json(tmp_path / "pipe", 1)
    assert (tmp_path / "pipe").is_fifo()


def test_a_place_below_a_file_is_explained(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"x\.json: cannot be written"):
        write_json(tmp_path / "file" / "x.json", 1)


WRITER = """
import sys
from pathlib import Path
from misgiving import files

with getattr(files, sys.argv[1])(Path(sys.argv[2])) as partial:
    print(partial.name, flush=True)
    sys.stdin.read()  # until it is killed
"""


def writer(kind, path):
    """A process that is in the middle of writing."""
    command = [sys.executable, "-c", WRITER, kind, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


@pytest.mark.parametrize(
    ("kind", "write"), [("whole_file", whole_file), ("whole_folder", whole_folder)]
)
def test_what_a_killed_process_left_is_removed_at_once_and_a_living_ones_is_not(
    tmp_path, kind, write
):
    killed, left = writer(kind, tmp_path / "target")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert (tmp_path / left).exists()
    living, kept = writer(kind, tmp_path / "target")
    try:
        assert kept in names(tmp_path)
        with write(tmp_path / "target") as partial:
            assert [name for name in names(tmp_path) if "partial" in name] == sorted(
                [kept, partial.name]
            )
    finally:
        living.kill()
        living.communicate()


def test_unfinished_folders_of_others_are_left_alone(tmp_path):
    killed, left = writer("whole_folder", tmp_path / "unit")
    killed.kill()
    killed.communicate()
    with whole_folder(tmp_path / "other") as partial:
        clear_abandoned([tmp_path / "unit", tmp_path / "other"])
        assert partial.is_dir()
    assert left
    assert names(tmp_path) == ["other"]


@pytest.mark.parametrize(
    ("variable", "expected"), [("/x/y", "/x/y/misgiving"), ("", "/h/.cache/misgiving")]
)
def test_the_default_cache_is_where_caches_belong(monkeypatch, variable, expected):
    monkeypatch.setenv("XDG_CACHE_HOME", variable)
    monkeypatch.setenv("HOME", "/h")
    assert default_cache() == Path(expected)
