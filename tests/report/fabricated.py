"""Reproductions with made-up numbers, as their report reads them."""

from collections import namedtuple
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from misgiving.data.preprocessing import AugmentationSettings, Preprocessing
from misgiving.metrics.ood import ood_metrics
from misgiving.metrics.trials import t_interval
from misgiving.report.reproduction.run import Run
from misgiving.reproduction.tables import SCHEMAS
from misgiving.training.config import ModelConfig, TrainingConfig, recorded

FILES = {
    "Result": "results.csv",
    "Interval": "intervals.csv",
    "Epoch": "histories.csv",
    "Confusion": "confusions.csv",
    "Bin": "reliability.csv",
    "RiskPoint": "risk_coverage.csv",
}
ROWS = {name: namedtuple(name, SCHEMAS[file]) for name, file in FILES.items()}
Result, Interval, Epoch, Confusion, Bin, RiskPoint = ROWS.values()
Interval.__new__.__defaults__ = (None, None, None)


def frame(file, rows):
    """A table of a file's columns and types."""
    columns = SCHEMAS[file]
    types = {name: "object" if kind == "str" else kind for name, kind in columns.items()}
    return pd.DataFrame(list(rows), columns=list(columns)).astype(types)


def where(rows, **wanted):
    """The rows whose fields hold these values."""
    return [row for row in rows if all(getattr(row, name) == wanted[name] for name in wanted)]


def run_of(results=(), intervals=(), histories=(), *, settings=None, datasets=None, **others):
    """A run with these rows; `others` are rows of other tables, or pictures."""
    tables = {"confusions": (), "reliability": (), "risk_coverage": ()} | others
    pictures = tables.pop("pictures", {})
    return Run(
        results=frame("results.csv", results),
        intervals=frame("intervals.csv", intervals),
        histories=frame("histories.csv", histories),
        **{name: frame(f"{name}.csv", rows) for name, rows in tables.items()},
        settings=SETTINGS if settings is None else settings,
        datasets={name: facts_of() for name in SETS} if datasets is None else datasets,
        pictures=pictures,
    )


ALWAYS = ("figure-2", "figure-3", "figure-4", "figure-5", "table-1")
BLANK = dict.fromkeys(ALWAYS, Figure(figsize=(1, 1)))
CLASSES = ["MEL", "NV", "BCC", "AK", "DF"]
MODELS = {"vanilla": 0.0, "mse": -0.01, "detached": 0.0, "proposed": 0.05}
DETECTORS = {
    "odin": 0.02,
    "odin_default": 0.0,
    "msp": -0.01,
    "energy": 0.01,
    "predicted_loss": 0.03,
}
OOD_SETS = {"histology": 0.88, "photographs": 0.74, "boxes": 0.66, "clinical_skin": 0.8}
UNSEEN_SETS = {"unseen_classes": 0.62, "unseen/BKL": 0.58, "unseen/VASC": 0.76}
OOD_METRICS = tuple(ood_metrics(np.ones(1), np.zeros(1)))
TRIALS = range(3)
TRAINING = TrainingConfig(epochs=12, batch_size=64, learning_rate=1e-4)
SETTINGS = dict(
    data="isic2019-mini",
    images=230,
    in_distribution_images=230,
    classes=tuple(CLASSES),
    in_distribution=tuple(CLASSES),
    unseen=("BKL", "VASC"),
    class_counts={},
    split="grouped",
    validation_share=0.1,
    monitored_set="validation",
    tuning_set="validation",
    measured_set="validation",
    sizes=[
        {"experiment": name, "images": 230, "trained": 150, "measured": 80}
        for name in ("generalization", "ood_detection")
    ],
    odin={
        "tuning_set": "histology",
        "temperatures": [1.0, 2.0, 5.0, 10.0, 100.0, 1000.0],
        "epsilons": [0.0, 0.001, 0.002, 0.004],
        "criterion": "auroc",
    },
    models=tuple(MODELS),
    trials=3,
    seed=0,
    learning_rates=(1e-4,),
    model=recorded(ModelConfig()),
    training=recorded(TRAINING),
    preprocessing=Preprocessing(image_size=96).to_dict(),
    augmentation=AugmentationSettings().to_dict(),
    compares_with_paper=False,
    versions={"misgiving": "0.1.0", "torch": "2.9.0", "timm": "1.0.31"},
    fingerprint="4f1c8e90b2a7",
    leakage=(),
    missing_units=(),
    skipped=(),
    unit_seconds=1234.5,
    unit_threads=(1,),
    notes=("The sets histology, photographs & boxes stand in for the paper's.",),
)
SETS = ["validation", "validation (in-distribution classes)", *OOD_SETS, *UNSEEN_SETS]


def facts_of(**changes):
    known = {"contents": "Images that stand for this set", "images": 230, "groups": 41}
    known |= {
        "checksum": "c0ffee",
        "paper_set": "",
        "paper_images": None,
        "left_out": 0,
        "origin": "",
    }
    return known | changes


def _odds(level, rng, sd=0.01):
    return float(np.clip(level + rng.normal(0, sd), 0, 1))


def _classification(experiment, dataset, rng, classes=CLASSES):
    for trial, (model, gain) in product(TRIALS, MODELS.items()):
        values = {f"sensitivity/{name}": 0.85 - 0.06 * i for i, name in enumerate(classes)}
        values |= {"accuracy": 0.76, "balanced_accuracy": 0.72, "auroc": 0.9}
        for metric, value in values.items():
            yield Result(experiment, trial, model, dataset, "", metric, _odds(value + gain, rng))
        yield Result(experiment, trial, model, dataset, "", "errors", float(rng.integers(90, 120)))


def _estimation(rng):
    levels = {"spearman": 0.3, "order_agreement": 0.64, "error_auroc": 0.66, "aurc": 0.12}
    levels |= {"spearman_plain": 0.33, "order_agreement_plain": 0.66}
    for trial, model, detector in product(TRIALS, MODELS, ("predicted_loss", "msp")):
        if (model, detector) == ("vanilla", "predicted_loss"):
            continue
        gain = 0.2 * (model == "proposed") + 0.25 * (detector == "msp")
        for metric, level in levels.items():
            value = level + gain * (0.4 if metric != "aurc" else -0.1) * (
                1 + ("spearman" in metric)
            )
            yield Result(
                "generalization", trial, model, "validation", detector, metric, _odds(value, rng)
            )


def _detection(experiment, sets, rng, detectors=DETECTORS):
    for trial, (model, gain), (dataset, level) in product(TRIALS, MODELS.items(), sets.items()):
        for detector, bonus in detectors.items():
            if (model, detector) == ("vanilla", "predicted_loss"):
                continue
            auroc = _odds(level + gain + bonus, rng)
            values = (1.3 * (1 - auroc), 0.8 * (1 - auroc), auroc, auroc - 0.03, auroc - 0.1)
            values = (*values, auroc - 0.02, auroc - 0.11)
            for metric, value in zip(OOD_METRICS, values, strict=True):
                yield Result(experiment, trial, model, dataset, detector, metric, value)


def _tuning():
    for trial, model in product(TRIALS, MODELS):
        chosen = {"temperature": 1000.0 if model == "proposed" else 10.0, "epsilon": 0.0014}
        for metric, value in chosen.items():
            yield Result("ood_detection", trial, model, "histology", "odin", metric, value)
        # what was chosen without OOD images must not be taken for it
        for metric, value in {"temperature": 777.0, "epsilon": 0.0777}.items():
            yield Result("ood_detection", trial, model, "histology", "odin_id_only", metric, value)


def synthetic_results():
    rng = np.random.default_rng(0)
    return [
        *_classification("generalization", "validation", rng),
        *_estimation(rng),
        *_classification("ood_detection", "validation", rng),
        *_detection("ood_detection", OOD_SETS, rng),
        *_tuning(),
        *_detection("new_classes", UNSEEN_SETS, rng),
    ]


def synthetic_intervals(results):
    """Plausible ones: the mean over trials, give or take; none for a set cut from one picture.

    Those over trials are of the differences of these rows.
    """
    cells = {}
    for row in results:
        if row.metric not in ("temperature", "epsilon", "errors"):  # as a reproduction has them
            key = (row.experiment, row.dataset, row.detector, row.metric)
            cells.setdefault(key, {}).setdefault(row.model, []).append(row.value)
    for (experiment, dataset, detector, metric), models in cells.items():
        means = {model: float(np.mean(values)) for model, values in models.items()}
        pairs = [(model, "") for model in means]
        pairs += [("proposed", b) for b in ("vanilla", "mse", "detached") if b in means]
        for model, baseline in pairs:
            estimate = means[model] - means.get(baseline, 0.0)
            half = 0.08 if dataset == "boxes" else 0.025
            bounds = (estimate - half, estimate + half)
            others = models.get(baseline, [0.0] * len(models[model]))
            if len(others) != len(models[model]):  # a trial of one diverged
                continue
            values = np.array(models[model]) - others
            over_trials = t_interval(values, split_ratio=80 / 150)[1:]
            yield Interval(
                experiment, model, baseline, dataset, detector, metric, estimate,
                *((None, None) if dataset == "clinical_skin" else bounds),
                230, 3, dataset == "histology", *over_trials,
            )  # fmt: skip


def synthetic_histories():
    rng = np.random.default_rng(1)
    for trial, model, epoch in product(TRIALS, MODELS, range(1, 13)):
        for part in ("train", "validation"):
            fresh = part == "validation"
            falling = 1.6 * np.exp(-epoch / (4 if model == "mse" else 6)) + 0.5 * fresh
            auxiliary = falling * (1.8 if fresh and model == "mse" else 1) + rng.normal(0, 0.03)
            accuracy = 0.8 + 0.05 * (model == "proposed") - 0.4 * np.exp(-epoch / 3)
            ranks = (0.3, 0.05 + 0.01 * trial, 0.02) if model == "mse" else (0.5, 0.9, 0.2)
            estimates = (None,) * 3 if model == "vanilla" else ranks
            yield Epoch(
                "generalization", trial, model, epoch, part, float(falling),
                None if model == "vanilla" else float(auxiliary),
                float(accuracy + rng.normal(0, 0.01)), float(accuracy - 0.05), *estimates,
            )  # fmt: skip


def leakage_of(experiment, trial, shared=0):
    return {
        **{"experiment": experiment, "trial": trial, "shared_groups": shared},
        **{"leaking_images": shared, "measured_images": 1682, "separate": not shared},
    }


DERMOSCOPY_CLASSES = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC"]
DERMOSCOPY_SETS = {  # each with the AUROC of vanilla
    "colon": (0.88, {"paper_set": "nct", "contents": "Microscopy of the colon"}),
    "b_box": (0.66, {"contents": "Lesions under a black box"}),
    "b_box_70": (3.0, {"contents": "Lesions under a larger black box"}),
    "b_box_70_image": (0.9, {"contents": "Images under a box of 70 % of their area"}),
    "photographs": (0.74, {"paper_set": "imagenet", "contents": "Photographs of things"}),
    "derm_skin": (0.7, {"contents": "Skin beside the lesions", "left_out": 14}),
}
PAPER_IMAGES = {"nct": 1350, "b_box": 2025, "b_box_70": 2454, "imagenet": 3000, "derm_skin": 1565}
DERMOSCOPY_UNSEEN = {"unseen_classes": 0.62, "unseen/BKL": 0.58, "unseen/VASC": 0.76}
RATES = {0.0003: 0.02, 0.001: -0.3}  # and by how much vanilla then does better
DERMOSCOPY_SETTINGS = SETTINGS | dict(
    data="ham10000:images",
    learning_rates=(1e-4, *RATES),
    measured_set="test",
    classes=tuple(DERMOSCOPY_CLASSES),
    odin=SETTINGS["odin"] | {"tuning_set": "colon"},
    preprocessing=Preprocessing(image_size=112).to_dict(),
    class_counts={
        name: {"train": 4 * n, "validation": n, "test": n}
        for name, n in zip(DERMOSCOPY_CLASSES, (180, 1100, 85, 54, 180, 19, 24, 40), strict=True)
    },
    leakage=[leakage_of("generalization", 0)],
    compares_with_paper=True,
    unit_seconds=54321.0,
    missing_units=[{"experiment": "generalization", "trial": 2, "model": "mse"}],
)


def dermoscopy_results():
    rng = np.random.default_rng(3)
    sets = {name: level for name, (level, _) in DERMOSCOPY_SETS.items()}
    detectors = {**DETECTORS, "odin_id_only": 0.01}
    return [
        *_classification("generalization", "test", rng, DERMOSCOPY_CLASSES),
        *(row._replace(dataset="test") for row in _estimation(rng)),
        *_classification("ood_detection", "test", rng),
        *_detection("ood_detection", sets, rng, detectors),
        *(row._replace(dataset="colon") for row in _tuning()),
        *_detection("new_classes", DERMOSCOPY_UNSEEN, rng, detectors),
        *_sweep_results(),
    ]


def _sweep_results():
    """Vanilla diverges once, at the highest rate."""
    for (rate, bonus), trial, model in product(RATES.items(), TRIALS, ("vanilla", "proposed")):
        lost = (rate, trial, model) == (0.001, 1, "vanilla")
        where = (f"learning_rate/{rate:g}", trial, model, "test", "")
        if not lost:
            value = 0.72 + (bonus if model == "vanilla" else 0.03)
            yield Result(*where, "balanced_accuracy", value)
        yield Result(*where, "diverged", float(lost))


def dermoscopy_histories():
    """At a higher rate the same curve in half the time, shifted by what vanilla gains or loses."""
    histories = list(synthetic_histories())
    yield from histories
    for (rate, bonus), row in product(RATES.items(), histories):
        if row.model in ("vanilla", "proposed") and row.epoch % 2 == 0:
            shift = bonus if row.model == "vanilla" else 0.03
            yield row._replace(
                experiment=f"learning_rate/{rate:g}",
                epoch=row.epoch // 2,
                balanced_accuracy=row.balanced_accuracy + shift,
            )


def dermoscopy_confusions():
    rng = np.random.default_rng(4)
    for trial, model, true in product(TRIALS, MODELS, DERMOSCOPY_CLASSES):
        share = 0.08 * rng.random(len(DERMOSCOPY_CLASSES))
        share[DERMOSCOPY_CLASSES.index(true)] = 0.7
        images = DERMOSCOPY_SETTINGS["class_counts"][true]["test"]
        for predicted, part in zip(DERMOSCOPY_CLASSES, share / share.sum(), strict=True):
            if count := round(images * part):
                yield Confusion("generalization", trial, model, true, predicted, count)


def dermoscopy_run():
    """A run on dermoscopy."""
    results = dermoscopy_results()
    intervals = [row._replace(tuned=row.dataset == "colon") for row in synthetic_intervals(results)]
    datasets = {
        name: facts_of(contents="Images held out", images=1720, groups=1400)
        for name in ("test", "test (in-distribution classes)")
    }
    for name, (_, known) in reversed(DERMOSCOPY_SETS.items()):
        row = {"paper_set": name, **known}
        paper = PAPER_IMAGES.get(row["paper_set"])
        origin = "made here" if name == row["paper_set"] else "given"
        datasets[name] = facts_of(images=300, groups=300, paper_images=paper, origin=origin, **row)
    datasets |= {
        name: facts_of(contents="Unseen", images=99, groups=90) for name in DERMOSCOPY_UNSEEN
    }
    return run_of(
        results,
        intervals,
        dermoscopy_histories(),
        settings=DERMOSCOPY_SETTINGS,
        datasets=datasets,
        confusions=dermoscopy_confusions(),
        pictures=examples(datasets, number=6),
    )


def examples(sets, *, number):
    rng = np.random.default_rng(2)
    pictures = {}
    for name in sets:
        blocks = [rng.integers(60, 230, (3, 3, 3), dtype=np.uint8) for _ in range(number)]
        resized = (Image.fromarray(block).resize((96, 96)) for block in blocks)
        pictures[name] = [np.asarray(picture) for picture in resized]
    return pictures


TARGETS = (0.05, 0.1, 0.2)
SCORES = ("msp", "entropy", "predicted_loss", "combination")
FAILURE_METRICS = {
    "aurc": 0.1,
    "augrc": 0.08,
    "excess_aurc": 0.05,
    "balanced_aurc": 0.2,
    "error_auroc": 0.8,
    "risk_at_coverage/0.8": 0.15,
    "coverage_at_risk/0.1": 0.6,
}


def policy(trial, model, target, *, coverage=0.3, error=0.04, smallest=None):
    """The rows of one policy; one that has a smallest promise could not give its own."""
    attained = smallest is None
    values = {
        "attained": float(attained),
        "coverage": coverage * attained,
        "ood_share": 0.03,
        "calibration_cases": 200.0,
    }
    values |= {"error_among_accepted": error} if attained and error is not None else {}
    values |= {} if attained else {"smallest_certifiable_error": smallest}
    where = ("generalization", trial, model, "policy_test", f"policy/{target:g}")
    return [Result(*where, metric, value) for metric, value in values.items()]


def interval(detector, metric, *bounds, model="proposed", baseline="", **where):
    """An interval about its middle; without bounds none can be given."""
    lower, upper = bounds or (None, None)
    middle = 0.0 if lower is None else (lower + upper) / 2
    place = {"experiment": "generalization", "dataset": "policy_test", "tuned": False, **where}
    return Interval(
        **place, model=model, baseline=baseline, detector=detector, metric=metric,
        estimate=middle, lower=lower, upper=upper, n=100, trials=3,
    )  # fmt: skip


def policies():
    for trial, model, target in product(TRIALS, MODELS, TARGETS):
        yield from policy(trial, model, target)
    for trial, model in product(TRIALS, MODELS):
        yield Result("generalization", trial, model, "policy_test", "msp", "acceptance_score", 1.0)


def calibrations():
    levels = {"softmax": 0.1, "scaled_softmax": 0.03, "error_probability": 0.02}
    for trial, model, (name, level) in product(TRIALS, MODELS, levels.items()):
        metrics = ("ece", "ece_width", "classwise_ece", "brier", "nll")
        for metric in metrics[:1] if name == "error_probability" else metrics:
            yield Result("generalization", trial, model, "policy_test", name, metric, level)


def failures():
    for trial, model, name in product(TRIALS, MODELS, SCORES):
        if (model, name) != ("vanilla", "predicted_loss"):
            for metric, level in FAILURE_METRICS.items():
                where = ("generalization", trial, model, "validation", name, metric)
                yield Result(*where, level)


def ood(experiment="ood_detection"):
    shares = {"validation": 0.03, "histology": 0.9, "photographs": 0.4, "boxes": 0.1}
    for trial, model, (name, share) in product(TRIALS, MODELS, shares.items()):
        yield Result(experiment, trial, model, name, "ood_rule", "ood_share", share)


def detectors():
    for trial, model in product(TRIALS, MODELS):
        chosen = "vim" if trial else "knn"
        yield Result("ood_detection", trial, model, "histology", chosen, "chosen", 1.0)
        for name, detector in product(
            list(OOD_SETS)[:3], ("best_on_tuning", "knn", "vim", "kl_matching")
        ):
            for metric in OOD_METRICS[:5]:
                yield Result("ood_detection", trial, model, name, detector, metric, 0.7)


def bins(*, observed=0.25):
    for trial, model, step in product(TRIALS, MODELS, range(1, 6)):
        quantities = ("error_probability", "expected_loss")
        for quantity in quantities[: 1 if model == "vanilla" else 2]:
            yield Bin("generalization", trial, model, quantity, 0.1 * step, observed, 20)


def risk_points():
    for model, name, step in product(MODELS, SCORES, range(1, 21)):
        if (model, name) != ("vanilla", "predicted_loss"):
            risk = 0.01 * step
            yield RiskPoint(model, name, step / 20, risk, 0.8 * risk, 1.2 * risk)


def run_with_policies(results, intervals, histories):
    """A run with policies, failure scores and all detectors."""
    rows = [*policies(), *calibrations(), *failures(), *ood(), *detectors()]
    kept = [row for row in results if row.dataset != "validation" or row.detector not in SCORES]
    paired = [
        interval("combination", "aurc", -0.03, -0.01, baseline="msp", dataset="validation"),
        interval("policy/0.1", "coverage", 0.28, 0.32),
    ]
    return run_of(
        [*kept, *rows],
        [*intervals, *paired],
        histories,
        reliability=bins(),
        risk_coverage=risk_points(),
        pictures=examples(SETS, number=2),
    )
