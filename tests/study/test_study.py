from itertools import product
from pathlib import Path

import numpy as np
import pytest
import study_folds
import study_format
import study_hypotheses
import study_results
from pooled import half_width, pooled_mean, pseudo_values
from scipy import stats
from study_hypotheses import Result

import study
from misgiving.reproduction.config import Unit
from misgiving.reproduction.tables import save_scores

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
    assert protocol.training.optimizer == ("adam" if part.startswith("paper") else "adamw")


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
    half = half_width(values, 0.2)
    numbers = [values.mean(), values.mean() - half, values.mean() + half]
    mean, lower, upper = (study_format.number(value, signed=True) for value in numbers)
    by_trial = dict(enumerate(values))
    assert study_format.with_interval(by_trial, 0.2) == f"{mean} ({lower} to {upper})"
    del by_trial[2]
    assert study_format.with_interval(by_trial, 0.2) == study_format.by_trial(by_trial)


def rows_of_folds(folds, *, seed=0):
    """Rows as the units of the part in folds give them, of three models and three classes."""
    random = np.random.default_rng(seed)
    rows, images = [], random.integers(2, 40, (folds, 3))
    for fold, model in product(range(folds), ("vanilla", "proposed", "proposed_sum")):
        measures = [
            ("generalization", "test", "msp", "aurc"),
            ("generalization", "test", "error_estimator", "aurc"),
            ("generalization", "test", "predicted_loss", "aurc"),
            *(("ood_detection", name, "odin", "auroc") for name in (*OOD, "clinical_skin")),
            ("new_classes", "unseen_classes", "odin", "auroc"),
        ]
        rows += [Result(x, fold, model, *place, random.random()) for x, *place in measures]
        for experiment in ("generalization", "ood_detection"):
            rows.append(Result(experiment, fold, model, "", "", "split_ratio", 0.125))
            rows.append(
                Result(experiment, fold, model, "test", "", "images", float(images[fold].sum()))
            )
            for name, count in zip("abc", images[fold], strict=True):
                right = int(random.integers(0, count + 1))
                place = experiment, fold, model, "test", name
                rows.append(Result(*place, "images", float(count)))
                rows.append(Result(*place, "right_answers", float(right)))
    if folds == study_folds.FOLDS:
        for name in ("colon", "clinical_skin"):
            place = "ood_detection", study_folds.ALL_FOLDS, "proposed", name, "odin"
            rows.append(Result(*place, study_folds.VARIANCE, 4e-4))
    return rows


def test_balanced_accuracy_of_folds_is_that_of_pooled_counts_with_pseudo_values():
    rows = rows_of_folds(10)
    a, b, c = study_folds.primary_measures(study_hypotheses.Rows(rows), "proposed")

    def gain(folds):
        proposed, vanilla = (
            pooled_mean(rows, model, "test", "right_answers", "abc", folds)
            for model in ("proposed", "vanilla")
        )
        return proposed - vanilla

    pseudo = pseudo_values(gain)
    assert [a.values[fold] for fold in range(10)] == pytest.approx(pseudo)
    assert a.interval().upper == pytest.approx(np.mean(pseudo) + half_width(pseudo, 0.125))
    values = [
        np.mean([value_of(rows, fold, "proposed", dataset=name) for name in kept])
        - np.mean([value_of(rows, fold, "vanilla", dataset=name) for name in kept])
        for kept in [("boxes", "colon", "clinical_skin")]
        for fold in range(10)
    ]
    error = np.sqrt(np.var(values, ddof=1) * (1 / 10 + 0.125) + 2 * 4e-4 / 3**2)
    assert b.interval().lower == pytest.approx(np.mean(values) - stats.t.ppf(0.975, 9) * error)
    of_losses = [
        value_of(rows, fold, "proposed", detector="predicted_loss")
        - value_of(rows, fold, "proposed", detector="msp")
        for fold in range(10)
    ]
    assert [c.values[fold] for fold in range(10)] == pytest.approx(of_losses)
    assert all(
        each.verdict(0.01) == "open"
        for each in study_folds.primary_measures(
            study_hypotheses.Rows(rows_of_folds(9)), "proposed"
        )
    )


@pytest.mark.parametrize(
    ("middle", "spread", "sign", "expected"),
    [
        (0.06, 0.01, 1, "gain"),
        (0.03, 0.01, 1, "gain, smaller than the paper's"),
        (0.005, 0.01, 1, "smaller than the paper's, equivalent"),
        (0.0, 0.2, 1, "inconclusive"),
        (-0.06, 0.01, 1, "loss, smaller than the paper's"),
        (0.06, 0.01, -1, "loss"),
    ],
)
def test_verdicts_of_folds(middle, spread, sign, expected):
    values = middle + spread * stats.norm.ppf((np.arange(10) + 0.5) / 10)
    gain = 0.048 if sign > 0 else None
    measure = study_folds.Measure("", dict(enumerate(values)), 0.125, gain, sign)
    assert measure.verdict(measure.interval().p_value) == expected


def test_joint_draws_take_the_same_sources_in_all_folds_and_models(tmp_path):
    """With one image of each source, the variance is that of a mean over sources."""
    random = np.random.default_rng(0)
    sources, gains = [f"source {number}" for number in range(40)], np.zeros(40)
    for fold, (model, sign) in product(range(10), (("vanilla", -1), ("proposed", 1))):
        inliers, outliers = random.normal(size=30), random.normal(size=40)
        unit = Unit("ood_detection", fold, model)
        folder = tmp_path / unit.folder
        save_scores(folder, "test", {"odin": inliers}, ["x"] * 30)
        for name in (*study_folds.SAME_IN_ALL, study_folds.UNSEEN_CLASSES):
            save_scores(folder, name, {"odin": outliers}, sources)
        gains += sign * (inliers[:, None] > outliers).mean(axis=0) / 10
        areas = study_folds.with_areas(tmp_path / "areas.csv", tmp_path, unit)
    drawn = study_folds.joint_draws(areas.loc["colon"], "proposed")
    assert drawn.mean() == pytest.approx(gains.mean(), abs=4 * gains.std() / np.sqrt(40 * 2000))
    assert drawn.std() == pytest.approx(gains.std() / np.sqrt(40), rel=0.1)
