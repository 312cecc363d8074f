import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PAGE = "# Current results\n\n## Growth\n\nSlow.\n\n## Speed\n\n| old |\n\n## More\n\nText.\n"
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
    """Run all of some scripts; gives the exit status and the page."""

    def run(**scripts):
        shutil.copy(BENCHMARKS / "side_by_side.py", tmp_path)
        for name, text in scripts.items():
            (tmp_path / f"{name}.py").write_text(text)
        out = tmp_path / "results.md"
        out.write_text(PAGE)
        command = [sys.executable, BENCHMARKS / "run_all.py", "--scripts", tmp_path, "--out", out]
        environment = {**os.environ, "OMP_NUM_THREADS": "3"}
        done = subprocess.run(command, capture_output=True, env=environment, check=False)
        return done.returncode, out.read_text()

    return run


def rows(page):
    return [line for line in page.splitlines() if line.startswith("| ")][2:]


def test_every_line_that_a_script_reports_is_a_row(run_all):
    status, page = run_all(compares=COMPARES)
    assert rows(page) == [
        "| quick | theirs | 4.00 (3.00 to 5.00) | at least 4 times as fast | yes |",
        "| slow | theirs | 4.00 (3.00 to 5.00) | at least 4.5 times as fast | NO |",
        "| dear | theirs | 0.25 (0.20 to 0.33) | at most 0.2 times the time | NO |",
        "| start |  | 0.30 (0.10 to 0.50) s | at most 0.4 s | yes |",
    ]
    before, after = PAGE.split("## Speed\n\n| old |\n\n")
    assert page.startswith(f"{before}## Speed\n\n`make bench`")
    assert page.endswith(after)
    assert "| old |" not in page
    assert status == 0


def test_a_script_that_fails_is_named_and_the_others_are_run(run_all):
    status, page = run_all(a_fails=f"{COMPARES}exit(3)", b_compares=COMPARES)
    assert "| a_fails.py |  |  |  | FAILED (exit status 3) |" in rows(page)
    assert len(rows(page)) == 9  # with what it reported before
    assert status == 1
