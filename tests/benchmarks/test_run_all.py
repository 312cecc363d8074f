import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COMPARES = """
from side_by_side import Comparison, Reading, Round
rounds = [Round(1.0, 5.0), Round(1.0, 3.0), Round(2.0, 8.0)]
fields = {"against": "theirs", "rounds": rounds}
faster = {**fields, "measure": "times as fast"}
Comparison(what="quick", bound=4, notes=("equal bytes",), **faster).report()
Comparison(what="slow", bound=4.5, **faster).report()
Comparison(what="dear", measure="times the time", bound=0.2, **fields).report()
Reading(what="start", bound=0.4, values=[0.5, 0.1, 0.3]).report()
"""


@pytest.fixture
def run_all(tmp_path):
    """Run all of some scripts; gives the exit status and the page, or None."""

    def run(**scripts):
        shutil.copy(BENCHMARKS / "side_by_side.py", tmp_path)
        for name, text in scripts.items():
            (tmp_path / f"{name}.py").write_text(text)
        out = tmp_path / "results.md"
        command = [sys.executable, BENCHMARKS / "run_all.py", "--scripts", tmp_path, "--out", out]
        environment = {**os.environ, "OMP_NUM_THREADS": "3"}
        done = subprocess.run(command, capture_output=True, env=environment, check=False)
        return done.returncode, out.read_text() if out.exists() else None

    return run


def rows(page):
    return [line for line in page.splitlines() if line.startswith("| ")][2:]


def test_every_line_that_a_script_reports_is_a_row(run_all):
    status, page = run_all(compares=COMPARES)
    assert rows(page) == [
        "| quick | theirs | at least 4 times as fast | 4.00 (3.00 to 5.00) | 3 | reached |",
        "| slow | theirs | at least 4.5 times as fast | 4.00 (3.00 to 5.00) | 3 | NOT reached |",
        "| dear | theirs | at most 0.2 times the time | 0.25 (0.20 to 0.33) | 3 | NOT reached |",
        "| start |  | at most 0.4 s | 0.30 (0.10 to 0.50) s | 3 | reached |",
    ]
    assert "- quick: median seconds: ours 1, theirs 5; equal bytes" in page
    assert status == 0


def test_a_script_that_fails_is_named_beside_what_it_and_others_have_found(run_all):
    fails = "from side_by_side import Reading\n"
    fails += "Reading(what='first', bound=1.0, values=[0.5]).report()\nraise SystemExit(3)\n"
    status, page = run_all(a_fails=fails, b_compares=COMPARES)
    assert rows(page)[0].startswith("| first | ")
    assert rows(page)[1] == "| a_fails.py |  |  |  |  | FAILED (exit status 3) |"
    assert len(rows(page)) == 6
    assert status == 1


def test_a_script_that_reports_nothing_has_failed(run_all):
    status, page = run_all(silent="from side_by_side import Reading\n")
    assert rows(page) == ["| silent.py |  |  |  |  | FAILED (reported nothing) |"]
    assert status == 1


def test_scripts_that_compare_no_speed_are_left_alone(run_all):
    status, page = run_all(guarantee="raise SystemExit(1)\n")
    assert rows(page) == []
    assert status == 0


def test_the_page_names_the_machine_by_its_processor_and_not_by_its_name(run_all, tmp_path):
    _, page = run_all(compares=COMPARES)
    assert re.search(r"^- .+, \d+ cores$", page, re.MULTILINE)
    assert "OMP_NUM_THREADS: 3" in page
    assert re.search(
        r"Python [\d.]+, torch [\w.+]+, numpy [\d.]+, Pillow [\d.]+$", page, re.MULTILINE
    )
    assert re.search(r"^- \d{4}-\d\d-\d\d$", page, re.MULTILINE)
    assert os.uname().nodename not in page.split()
    assert str(tmp_path) not in page


def test_every_comparison_of_speed_is_found():
    names = {
        script.name for script in BENCHMARKS.glob("*.py") if "Comparison(" in script.read_text()
    }
    command = [
        sys.executable,
        "-c",
        "import run_all; print(*[s.name for s in run_all.speed_scripts(run_all.HERE)])",
    ]
    run = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    assert names - {"side_by_side.py", "run_all.py"} <= set(run.stdout.split())
    assert "starting.py" in run.stdout.split()
