import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from misgiving.reproduction.tables import Result

sys.path.insert(0, str(Path(__file__).parents[2] / "study"))
import study_format
import study_hypotheses
import study_results

import study

OOD = ("boxes", "colon", "histology")


def rows_of(trials, *, seed=0):
    """Measurements as units give them, of two models."""
    random = np.random.default_rng(seed)

    def value():
        return float(random.random())

    measures = [
        *(("generalization", "test", "", name) for name in ("accuracy", "balanced_accuracy")),
        *(("generalization", "test", score, "aurc") for score in study_results.SCORES),
        *(("ood_detection", name, "odin", "auroc") for name in OOD),
        ("new_classes", "unseen_classes", "odin", "auroc"),
    ]
    rows = []
    for trial, model in product(range(trials), ("vanilla", "proposed")):
        rows += [
            Result("generalization", trial, model, "", "", "split_ratio", 0.2),
            Result("ood_detection", trial, model, "", "", "split_ratio", 0.25),
            *(Result(experiment, trial, model, *names, value()) for experiment, *names in measures),
        ]
    return rows


def value_of(rows, trial, model, **expected):
    (row,) = [
        row
        for row in rows
        if (row.trial, row.model) == (trial, model)
        and all(getattr(row, name) == value for name, value in expected.items())
    ]
    return row.value


def test_the_hypotheses_are_those_that_were_registered():
    rows = rows_of(5)
    measured = study_hypotheses.hypotheses(study_hypotheses.Rows(rows))
    for trial in range(5):
        by_hand = {
            "a": value_of(rows, trial, "proposed", metric="balanced_accuracy")
            - value_of(rows, trial, "vanilla", metric="balanced_accuracy"),
            "b": np.mean([value_of(rows, trial, "proposed", dataset=name) for name in OOD[:2]])
            - np.mean([value_of(rows, trial, "vanilla", dataset=name) for name in OOD[:2]]),
            "c": value_of(rows, trial, "proposed", dataset="unseen_classes")
            - value_of(rows, trial, "vanilla", dataset="unseen_classes"),
            "d": value_of(rows, trial, "proposed", detector="predicted_loss")
            - value_of(rows, trial, "proposed", detector="msp"),
            "e": value_of(rows, trial, "vanilla", detector="error_estimator")
            - value_of(rows, trial, "vanilla", detector="calibrated"),
        }
        found = {hypothesis.name: hypothesis.values[trial] for hypothesis in measured}
        assert found == pytest.approx(by_hand)
    registered = [
        Result("generalization", trial, "vanilla", "test", study_hypotheses.REGISTERED, "aurc", 0.1)
        for trial in range(5)
    ]
    *_, tested = study_hypotheses.hypotheses(study_hypotheses.Rows([*rows, *registered]))
    calibrated = [value_of(rows, t, "vanilla", detector="calibrated") for t in range(5)]
    assert list(tested.values.values()) == pytest.approx([0.1 - value for value in calibrated])
    assert [hypothesis.ratio for hypothesis in measured] == [0.2, 0.25, 0.25, 0.2, 0.2]
    assert [hypothesis.sign for hypothesis in measured] == [1, 1, 1, -1, -1]


def test_a_verdict_needs_five_trials_and_the_stated_direction():
    clear, unclear = [-0.010, -0.011, -0.012, -0.010, -0.011], [-0.01, 0.02, 0.01, -0.02, 0.0]
    cases = [(clear, -1), (clear, 1), (unclear, -1), (clear[:4], -1), ([], -1)]
    judged = study_hypotheses.verdicts(
        [
            study_hypotheses.Hypothesis("a", "", dict(enumerate(values)), 0.2, sign)
            for values, sign in cases
        ]
    )
    expected = ["supported", "contradicted", "inconclusive", "open", "open"]
    assert [verdict for _, verdict in judged] == expected
    error = np.std(clear, ddof=1) * np.sqrt(1 / 5 + 0.2)  # Nadeau and Bengio
    p_value = 2 * stats.t.sf(abs(np.mean(clear)) / error, 4)
    assert judged[0][0] == pytest.approx(5 * p_value)  # Holm over all five, open ones too
    assert judged[3][0] is None


@pytest.mark.parametrize("part", study.PARTS)
def test_every_setting_of_a_part_can_be_run(part):
    ood, chosen = Path("ood"), study.PARTS[part]
    for setting in chosen.settings.values():
        protocol = study.protocol_of(chosen, setting, "isic2019:x", Path("w"), ood)
        units = study.in_order(chosen, protocol)
        assert {unit.trial for unit in units} == set(range(chosen.trials))
    if part != "paper":
        assert protocol.training.optimizer == "adamw"


def test_a_unit_that_is_measured_again_replaces_its_rows_and_no_others(tmp_path):
    table = tmp_path / "modern.csv"
    rows = rows_of(2)
    study.add_rows(table, rows)
    again = [row._replace(value=9.0) for row in rows_of(1) if row.experiment == "new_classes"]
    again = [row for row in again if row.model == "vanilla"]
    study.add_rows(table, again)
    remaining = study_hypotheses.read_results(table)
    of_unit = [row for row in remaining if study.unit_of(row) == ("ood_detection", 0, "vanilla")]
    assert of_unit == again
    assert len(remaining) == len(rows) - (1 + len(OOD) + 1) + 1


def test_the_confirmation_needs_all_its_trials(tmp_path):
    values = [-0.004, -0.006, -0.005, -0.007, -0.003, -0.005, -0.006, -0.004, -0.005, -0.005]
    rows = []
    for trial, value in enumerate(values, start=5):
        for score, area in (("calibrated", 0.08), ("error_estimator", 0.08 + value), ("msp", 0.1)):
            rows.append(Result("generalization", trial, "vanilla", "unseen", score, "aurc", area))
        rows.append(Result("generalization", trial, "vanilla", "unseen", "", "split_ratio", 0.36))
    error = np.std(values, ddof=1) * np.sqrt(1 / 10 + 0.36)  # Nadeau and Bengio
    p_value = 2 * stats.t.sf(5 * 1e-3 / error, 9)
    for trials, verdict in ((9, "open"), (10, "supported")):
        study.add_rows(tmp_path / "confirmation.csv", rows[: 4 * trials])
        study_results.write_page(tmp_path)
        page = (tmp_path / "results.md").read_text()
        assert f"**{verdict}**" in page
        assert (f"| {p_value:.2g} |" in page) == (trials == 10)


def test_differences_have_an_interval_from_five_trials_on():
    values = np.random.default_rng(0).normal(size=5)
    half = np.std(values, ddof=1) * np.sqrt(1 / 5 + 0.2) * stats.t.ppf(0.975, 4)
    numbers = [values.mean(), values.mean() - half, values.mean() + half]
    mean, lower, upper = (study_format.number(value, signed=True) for value in numbers)
    by_trial = dict(enumerate(values))
    assert study_format.with_interval(by_trial, 0.2) == f"{mean} ({lower} to {upper})"
    del by_trial[2]
    assert study_format.with_interval(by_trial, 0.2) == study_format.by_trial(by_trial)
