import math
import re

from scipy.stats import beta


def percent(share):
    return f"{math.ceil(1000 * share) / 10:g} %"


def cells_of(output, start):
    """Cells of the table row that starts with these words."""
    (row,) = (line for line in output.splitlines() if start in line)
    return [cell.strip() for cell in re.split("[│┃]", row)[1:-1]]


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
