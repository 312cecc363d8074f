"""`misgiving plan`, through the command."""

import math
import re

from scipy.stats import beta


def percent(share):
    return f"{math.ceil(1000 * share) / 10:g} %"


def cells_of(output, start, *, below=0):
    """Cells of the table row that starts with these words, or of one so many rows below it."""
    lines = output.splitlines()
    (row,) = (row for row, line in enumerate(lines) if start in line)
    return [cell.strip() for cell in re.split("[│┃]", lines[row + below])[1:-1]]


def test_the_table_has_the_bounds_of_both_guarantees(succeed):
    _, output, error = succeed("plan", "digits", "--max-error", "0.05")
    shares = (0.0, 0.01, 0.03, 0.05)
    wrong = [math.ceil(share * 269 - 1e-9) for share in shares]
    for guarantee, expected in (
        ("confident", [beta.isf(0.5 * 0.05, k + 1, 269 - k) for k in wrong]),
        ("average", [(k + 1) / 270 for k in wrong]),
    ):
        name = f"error, all 269 cases accepted: {guarantee}"
        assert cells_of(output, name) == [name, *map(percent, expected)]
    assert cells_of(output, "if so many")[1:] == ["0 %", "1 %", "3 %", "5 %"]
    assert "needs no more cases if none is wrong, or if 1 % are wrong." in error


def test_each_target_needs_cases_of_its_own(misgiving):
    _, output, error = misgiving(
        "plan", "digits", "--max-error", "0.0301", "--class-max-miss", "3=0.1",
        "--max-ood-false-alarms", "0.01", "--each",
    )  # fmt: skip
    (row,) = (line for line in output.splitlines() if line.startswith("│ 3 "))
    _, images, cases = (cell.strip() for cell in row.split("│")[1:-1])
    assert images == cases
    needed = math.ceil(math.log(0.05) / math.log(0.9))  # without a miss: 0.9**n = 0.05
    assert f"10 % of 3 missed needs {needed - int(cases)} more cases" in error
    (_, more, *_) = cells_of(output, f"missed 3, {cases} cases: confident", below=1)
    assert more == str(needed - int(cases))
    needed = math.ceil(math.log(0.05) / math.log(0.99))
    assert f"a limit of 1 % false alarms needs {needed - 269} more cases" in error
    for accepted in ("all 269 cases", "134"):
        row = cells_of(output, f"error, {accepted} accepted: confident", below=1)
        assert row[3:] == ["> 100000", "impossible"]


def test_an_audit_costs_reviews_and_finds_a_doubled_error(misgiving):
    arguments = ("--audit", "0.1", "--cases-per-week", "200")
    _, output, _ = misgiving("plan", "digits", "--max-error", "0.1", *arguments)
    assert cells_of(output, "reviews each week")[1:] == ["", "20", "10"]
    assert cells_of(output, "(10 % wrong)")[1:] == ["", "2", "1"]
    _, answers, *weeks = cells_of(output, "20 % from the start: median")
    assert 80 < int(answers) < 130
    assert weeks == [f"{int(answers) / number:.1f} weeks" for number in (20, 10)]
    assert int(cells_of(output, "20 % after 500 audits: median")[1]) > int(answers)
    _, output, _ = misgiving("plan", "digits", "--max-silent-error", "0.1", *arguments)
    assert cells_of(output, "20 % from the start: median")[1:] == [answers, weeks[0], weeks[0]]
