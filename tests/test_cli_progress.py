import io
import re

import pytest
from rich.console import Console

from misgiving.cli import progress
from misgiving.cli.progress import Bar, Steps, list_bad_images, progress_bars, say, show_table
from misgiving.data.decoding import BadImage
from misgiving.training.loop import Step

HEADER = ("check", "count", "remark")
ROWS = [("near duplicates", 12, "dissimilarities between photographs [red]")]


@pytest.fixture
def log(monkeypatch):
    """What is printed on standard error."""
    file = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=file, width=80))
    return lambda: file.getvalue().splitlines()


def test_a_log_says_after_ten_seconds_and_then_each_minute_how_far_the_work_is(log):
    now = 100.0
    with progress_bars() as bars:
        bars.get_time = lambda: now
    bar = Bar(bars, "preparing images")
    for second in range(1, 200):  # an image a second
        now += 1
        bar.at(second, 600)
    assert log() == [
        f"preparing images  {60 * minute + 10}/600 (0:0{minute}:10 elapsed, about "
        f"0:0{9 - minute}:50 left)"
        for minute in (0, 1, 2, 3)
    ]


def test_a_terminal_shows_bars_and_no_lines(monkeypatch):
    file = io.StringIO()
    terminal = Console(file=file, force_terminal=True, width=80, _environ={"TERM": "xterm"})
    monkeypatch.setattr(progress, "console", terminal)
    with progress_bars() as bars:
        Steps(bars, "training").show(Step(1, 2, 5, 5, 0.5, 0.25))
    assert "elapsed" not in file.getvalue()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_only_the_first_process_of_a_command_says_something(monkeypatch, capsys, rank):
    monkeypatch.setattr(progress.console, "quiet", False)
    monkeypatch.setenv("SLURM_PROCID", rank)
    progress.silence_all_but_first_process()
    progress.say("a message")
    show_table(HEADER, ROWS)
    printed, said = capsys.readouterr()
    assert (bool(printed), bool(said)) == (rank == "0", rank == "0")


@pytest.mark.parametrize("width", [100, 30])
def test_a_table_fits_the_terminal_and_loses_nothing(monkeypatch, capsys, width):
    monkeypatch.setenv("COLUMNS", str(width))
    show_table(HEADER, ROWS)
    printed, _ = capsys.readouterr()
    assert max(map(len, printed.splitlines())) <= width
    cells = [re.split("[│┃]", line)[1:-1] for line in printed.splitlines() if "│" in line]
    for column, expected in zip(zip(*cells, strict=True), ROWS[0], strict=True):
        assert "".join("".join(column).split()) == "".join(str(expected).split())


def test_codes_for_the_terminal_in_names_are_printed_harmlessly(log, capsys):
    name = "\x1b[2Ja.png"
    say(f"left out: {name}\nb.png")
    show_table(("image",), [(name,)])
    list_bad_images([BadImage("b", f"{name} is no image")])
    said = capsys.readouterr()
    assert log() == [r"left out: \x1b[2Ja.png", "b.png"]
    assert r"\x1b[2Ja.png" in said.out
    assert "\x1b" not in said.out + said.err
