from argparse import Namespace
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import study_paper_folds
import study_results
from pooled import half_width, pooled_mean, pseudo_values
from study_hypotheses import Result, Rows, read_results

import study
from misgiving.reproduction.protocol import DIGITS
from misgiving.reproduction.tables import table_of, write_table
from misgiving.training.config import DataConfig

CLASSES = ("AK", "BCC", "DF", "NV")
MODELS = ("vanilla", "proposed")
EXPERIMENTS = ("generalization", "best_epoch")


def rows_of(folds, *, seed=0):
    """Rows as the units of the part give them, of four classes."""
    random = np.random.default_rng(seed)
    rows, images = [], {name: random.integers(2, 40, (folds, 4)) for name in ("train", "test")}
    for fold, model, experiment in product(range(folds), MODELS, EXPERIMENTS):
        unit = experiment, fold, model
        rows.append(Result(*unit, "", "", "split_ratio", 0.125))
        for dataset, detector, metric in study_paper_folds.MEASURED.values():
            rows.append(Result(*unit, dataset, detector, metric, random.random()))
        rows.append(Result(*unit, "test", "error_estimator", "aurc", random.random()))
        for dataset, counts in images.items():
            rows.append(Result(*unit, dataset, "", "images", float(counts[fold].sum())))
            for name, count in zip(CLASSES, counts[fold], strict=True):
                right = float(random.integers(0, count + 1))
                sums = {"images": float(count), "right_answers": right}
                sums["loss_sum"] = count * random.random()
                rows += [Result(*unit, dataset, name, *each) for each in sums.items()]
    return rows


def curves_of(folds, *, changes):
    """Histories whose balanced accuracy jumps after epoch 40 by the change of each fold."""
    rows = []
    for model, fold, epoch in product(MODELS, range(folds), range(1, 51)):
        for name in ("train", "tune"):
            balanced = 0.4 + (changes[fold] if epoch > 40 else 0.0)
            rows.append(("generalization", fold, model, epoch, name, 1.0, 0.1, 0.5, balanced))
    return table_of([(*row, np.nan, np.nan, np.nan) for row in rows], "histories.csv")


@pytest.mark.parametrize(
    ("name", "sums", "classes"),
    [
        ("gap in loss", {("test", "loss_sum"): 1, ("train", "loss_sum"): -1}, CLASSES),
        ("test loss", {("test", "loss_sum"): 1}, CLASSES),
        (
            "gap in balanced",
            {("train", "right_answers"): 1, ("test", "right_answers"): -1},
            CLASSES,
        ),
        ("mean sensitivity", {("test", "right_answers"): 1}, CLASSES[:3]),
    ],
)
def test_measures_of_pooled_sums_have_pseudo_values(name, sums, classes):
    rows = rows_of(10)

    def gain(folds):
        return sum(
            sign * model_sign * pooled_mean(rows, model, *place, classes, folds)
            for place, sign in sums.items()
            for model, model_sign in (("proposed", 1), ("vanilla", -1))
        )

    expected = pseudo_values(gain)
    measures = study_paper_folds.secondary(Rows(rows), "generalization")
    (measure,) = [each for each in measures if each.name.startswith(name)]
    assert [measure.values[fold] for fold in range(10)] == pytest.approx(expected)
    upper = np.mean(expected) + half_width(expected, 0.125)
    assert measure.interval().upper == pytest.approx(upper)


def test_trainings_converged_folds_whose_last_ten_epochs_change_nothing():
    curves = curves_of(3, changes=[0.009, 0.011, -0.02])
    rows = Rows(study_paper_folds.curve_results(curves))
    changes = study_paper_folds.changes(rows, "proposed")
    assert changes == pytest.approx({0: 0.009, 1: 0.011, 2: -0.02})
    assert study_paper_folds.converged_folds(rows, "proposed") == {0}


def test_the_page_has_verdicts_when_all_pairs_are_finished(tmp_path):
    rows = [row for row in rows_of(10) if (row.trial, row.model) != (9, "proposed")]
    write_table(tmp_path / "paper_folds_curves.csv", curves_of(10, changes=[0.0] * 10))
    study.add_rows(tmp_path / "paper_folds.csv", rows)
    study_results.write_page(tmp_path)
    page = (tmp_path / "results.md").read_text()
    primary = page.split("### Secondary")[0]
    assert primary.count("**open**") == 2
    study.add_rows(tmp_path / "paper_folds.csv", rows_of(10))
    study_results.write_page(tmp_path)
    page = (tmp_path / "results.md").read_text()
    assert "**open**" not in page
    assert "`mse`" not in page  # it has no rows
    assert "Converged: 20 of 20" in page
    further = [row._replace(model="mse") for row in rows_of(10, seed=1) if row.model == "proposed"]
    study.add_rows(tmp_path / "paper_folds.csv", further)
    study_results.write_page(tmp_path)
    assert "A: balanced accuracy, 8 classes, mse - vanilla" in (tmp_path / "results.md").read_text()
    assert (tmp_path / study_paper_folds.FIGURE).stat().st_size > 10_000


def test_further_models_run_after_all_pairs():
    part = study.PARTS["paper_folds"]
    protocol = study.protocol_of(part, study.Setting(), "isic2019:x", Path("w"), Path("ood"))
    units = study.in_order(part, protocol)
    order = [(unit.trial, unit.model) for unit in units if unit.experiment == "generalization"]
    pairs, further = product(range(10), MODELS), ("proposed_0.1", "mse", "proposed_sum")
    assert order == [*pairs, *((fold, model) for model in further for fold in range(10))]


def run(tables, part_name, **training):
    """Rows of the second of two trainings of digits, whose tables this folder gets."""
    experiments = frozenset({"generalization"})
    part = study.Part((), {}, {}, {}, trials=2, experiments=experiments)
    protocol = replace(
        DIGITS,
        trials=part.trials,
        models=("proposed",),
        images=DataConfig(split="folds"),
        training=replace(DIGITS.training, **training),
    )
    tables.mkdir()
    options = Namespace(
        part=part_name, out=tables / "runs", tables=tables, cache=tables.parent / "cache",
        trial=1, again=False, collect=False, ray=None, jobs=1,
    )  # fmt: skip
    study.run_setting(part, protocol, "", options)
    return read_results(tables / f"{part_name}.csv")


@pytest.mark.soak  # three trainings; the study is registered, and its script no longer changes
def test_the_last_and_the_best_epoch_are_those_of_trainings_that_end_there(tmp_path):
    training = {"learning_rate": 0.01, "decay_every": 50, "batch_size": 64}
    both = run(tmp_path / "both", "paper_folds", keep="best", epochs=5, **training)
    curves = study_paper_folds.read_curves(tmp_path / "both")
    of_tuning = curves[curves["set"] == "tune"].set_index("epoch")["balanced_accuracy"]
    best = int(of_tuning.idxmax())
    assert best < 5  # else both would be the same
    for experiment, epochs in (("generalization", 5), ("best_epoch", best)):
        alone = run(tmp_path / experiment, "folds", keep="last", epochs=epochs, **training)
        found = {row[3:6]: row.value for row in both if row.experiment == experiment}
        expected = {row[3:6]: row.value for row in alone if row[3:6] in found}
        assert len(expected) > 20
        assert {place: found[place] for place in expected} == pytest.approx(expected)
        rows, of_unit = Rows(alone), ("generalization", "proposed")
        right, images = (
            sum(rows(*of_unit, "test", str(digit), metric)[1] for digit in range(10))
            for metric in ("right_answers", "images")
        )
        assert rows(*of_unit, "test", "", "accuracy")[1] == pytest.approx(right / images)
        assert rows.ratio("generalization") == pytest.approx(1 / 8, abs=0.02)
        assert "Primary" in (tmp_path / experiment / "results.md").read_text()
