"""Reproductions with made-up numbers."""

from collections import namedtuple
from dataclasses import asdict
from itertools import product

import numpy as np
from matplotlib.figure import Figure

from misgiving.data.preprocessing import AugmentationSettings, Preprocessing
from misgiving.metrics.uncertainty import t_interval
from misgiving.reproduction.published import METRICS
from misgiving.reproduction.report.run import Run
from misgiving.reproduction.tables import SCHEMAS, table_of
from misgiving.training.config import ModelConfig, TrainingConfig, recorded

ROW_NAMES = ("Result", "Interval", "Epoch", "Confusion", "Bin", "RiskPoint")
FILES = ("results", "intervals", "histories", "confusions", "reliability", "risk_coverage")
Result, Interval, Epoch, Confusion, Bin, RiskPoint = (
    namedtuple(name, SCHEMAS[f"{file}.csv"]) for name, file in zip(ROW_NAMES, FILES, strict=True)
)
Interval.__new__.__defaults__ = (None, None, None)

ALWAYS = ("figure-2", "figure-3", "figure-4", "figure-5", "table-1")
SOMETIMES = ("confusions", "risk-coverage", "reliability")
EMPTY = Figure(figsize=(1, 1))
BLANK = dict.fromkeys(ALWAYS, EMPTY)
GAINS = {"vanilla": 0.0, "mse": -0.01, "detached": 0.0, "proposed": 0.05}
MODELS = tuple(GAINS)
TRIALS = range(3)
CLASSES = ("MEL", "NV", "BCC", "AK", "DF")
DETECTORS = ("odin", "odin_default", "msp", "energy", "predicted_loss")
SCORES = ("msp", "entropy", "predicted_loss", "calibrated")
OOD_SETS = ("histology", "photographs", "boxes", "clinical_skin")
UNSEEN_SETS = ("unseen_classes", "unseen/BKL", "unseen/VASC")
PLAIN_SETS = ("validation", "validation (in-distribution classes)", *OOD_SETS, *UNSEEN_SETS)
SETTINGS = dict(
    data="isic2019-mini",
    images=230,
    in_distribution_images=230,
    classes=CLASSES,
    in_distribution=CLASSES,
    unseen=("BKL", "VASC"),
    class_counts={},
    split="grouped",
    validation_share=0.1,
    tuning_set="validation",
    measured_set="validation",
    sizes=[
        {"experiment": name, "images": 230, "trained": 150, "measured": 80}
        for name in ("generalization", "ood_detection")
    ],
    odin={
        "tuning_set": "histology",
        "temperatures": [1.0, 1000.0],
        "epsilons": [0.0, 0.004],
        "criterion": "auroc",
    },
    models=MODELS,
    trials=3,
    seed=0,
    learning_rates=(1e-4,),
    model=recorded(ModelConfig()),
    training=recorded(TrainingConfig(epochs=12, batch_size=64, learning_rate=1e-4)),
    preprocessing=asdict(Preprocessing(image_size=96)),
    augmentation=asdict(AugmentationSettings()),
    compares_with_paper=False,
    versions={"misgiving": "0.1.0", "torch": "2.9.0"},
    fingerprint="4f1c8e90b2a7",
    leakage=(),
    missing_units=(),
    skipped=(),
    unit_seconds=1234.5,
    unit_threads=(1,),
    notes=("The sets histology, photographs & boxes stand in for the paper's.",),
)


def where(rows, **columns):
    """The rows whose fields hold these values."""
    return [row for row in rows if all(getattr(row, name) == columns[name] for name in columns)]


def facts_of(**changes):
    facts = {"contents": "Images that stand for this set", "images": 230, "groups": 41}
    facts |= {"checksum": "c0ffee", "paper_set": "", "paper_images": None, "left_out": 0}
    return facts | {"origin": ""} | changes


def run_of(results=(), intervals=(), histories=(), *, settings=SETTINGS, datasets=None, **others):
    """A run with these rows; `others` are rows of other tables, or pictures."""
    pictures = others.pop("pictures", {})
    tables = dict(zip(FILES, (results, intervals, histories, (), (), ()), strict=True)) | others
    return Run(
        **{name: table_of(rows, f"{name}.csv") for name, rows in tables.items()},
        settings=settings,
        datasets=datasets or {name: facts_of() for name in PLAIN_SETS},
        pictures=pictures,
    )


def measured(experiment, datasets, detectors, metrics, *, level=0.7):
    """Values that differ by model, and a little by trial; vanilla predicts no loss."""
    random = np.random.default_rng(len(datasets) + len(detectors))
    places = product(TRIALS, MODELS, datasets, detectors, metrics)
    for trial, model, dataset, detector, metric in places:
        if (model, detector) != ("vanilla", "predicted_loss"):
            value = level + GAINS[model] + random.normal(0, 0.03)
            yield Result(experiment, trial, model, dataset, detector, metric, value)


def tuning(tuning_set):
    """Tuned points of ODIN, beside others that were chosen without OOD images."""
    chosen = {"odin": (10.0, 0.0014), "odin_id_only": (777.0, 0.0777)}
    for trial, model, (detector, values) in product(TRIALS, MODELS, chosen.items()):
        for metric, value in zip(("temperature", "epsilon"), values, strict=True):
            yield Result("ood_detection", trial, model, tuning_set, detector, metric, value)


def plain_results(on="validation", classes=CLASSES, sets=OOD_SETS, detectors=DETECTORS):
    """Results on a set, and on OOD sets, on the first of which ODIN is tuned."""
    estimation = ("spearman", "spearman_plain", "order_agreement", "error_auroc", "aurc")
    classified = ("accuracy", "balanced_accuracy")
    sensitivities = [f"sensitivity/{name}" for name in classes]
    return [
        *measured("generalization", [on], [""], [*sensitivities, *classified]),
        *measured("generalization", [on], ["predicted_loss", "msp"], estimation),
        *measured("generalization", [on], [""], ["errors"], level=97.0),
        *measured("ood_detection", [on], [""], classified),
        *measured("ood_detection", sets, detectors, METRICS),
        *tuning(sets[0]),
        *measured("new_classes", UNSEEN_SETS, detectors, METRICS),
    ]


def paired_intervals(results, tuning_set="histology"):
    """The mean over trials, give or take; over trials the real one. None for `clinical_skin`."""
    keys = ["experiment", "dataset", "detector", "metric"]
    rows = table_of(results, "results.csv")
    rows = rows.query("metric not in ('temperature', 'epsilon', 'chosen')")
    values = rows.pivot_table("value", [*keys, "trial"], "model", sort=False)
    pairs = {(model, ""): values[model] for model in values} | {
        ("proposed", baseline): values["proposed"] - values[baseline]
        for baseline in ("vanilla", "mse", "detached")
    }
    for (model, baseline), column in pairs.items():
        for key, trials in column.dropna().groupby(keys, sort=False):
            mean = trials.mean()
            ends = (None, None) if "clinical_skin" in key else (mean - 0.025, mean + 0.025)
            over_trials = t_interval(trials.to_numpy(), split_ratio=80 / 150)[1:]
            yield Interval(
                key[0], model, baseline, *key[1:], mean, *ends, 230, 3, tuning_set in key,
                *over_trials,
            )  # fmt: skip


def plain_histories(experiment="generalization", models=MODELS):
    random = np.random.default_rng(1)
    for trial, model, epoch, part in product(TRIALS, models, range(1, 13), ("train", "validation")):
        loss = None if model == "vanilla" else 2 / epoch + random.normal(0, 0.03)
        accuracy = 0.8 - 0.4 * np.exp(-epoch / 3) + GAINS[model]
        estimates = (None,) * 3 if model == "vanilla" else (0.3, 0.05 + 0.01 * trial, 0.02)
        yield Epoch(
            experiment, trial, model, epoch, part, 1.0, loss, accuracy, accuracy - 0.05, *estimates
        )


def policy(trial, model="proposed", target=0.1, *, error=0.04, smallest=None):
    """The rows of one policy; one that has a smallest error could not certify its target."""
    attained = smallest is None
    values = {"attained": float(attained), "coverage": 0.3 * attained, "ood_share": 0.03}
    values |= {"calibration_cases": 200.0}
    values |= {"error_among_accepted": error} if attained and error is not None else {}
    values |= {} if attained else {"smallest_certifiable_error": smallest}
    place = ("generalization", trial, model, "policy_test", f"policy/{target:g}")
    return [Result(*place, metric, value) for metric, value in values.items()]


def policies():
    for trial, model, target in product(TRIALS, MODELS, (0.05, 0.1, 0.2)):
        yield from policy(trial, model, target)


def interval(detector, metric, *bounds, model="proposed", baseline="", **place):
    """An interval about its middle; without bounds none can be given."""
    lower, upper = bounds or (None, None)
    middle = 0.0 if lower is None else (lower + upper) / 2
    place = {"experiment": "generalization", "dataset": "policy_test", "tuned": False, **place}
    return Interval(
        **place, model=model, baseline=baseline, detector=detector, metric=metric,
        estimate=middle, lower=lower, upper=upper, n=100, trials=3,
    )  # fmt: skip


OOD_SHARES = {"validation": 0.03, "histology": 0.9, "photographs": 0.4, "boxes": 0.1}


def ood(shares=OOD_SHARES):
    for trial, model, (name, share) in product(TRIALS, MODELS, shares.items()):
        yield Result("ood_detection", trial, model, name, "ood_rule", "ood_share", share)


def bins():
    for trial, model, step in product(TRIALS, MODELS, range(1, 6)):
        for quantity in ("error_probability", "expected_loss")[: 1 + (model != "vanilla")]:
            yield Bin("generalization", trial, model, quantity, 0.1 * step, 0.25, 20)


def risk_points():
    for model, name, step in product(MODELS, SCORES, range(1, 21)):
        if (model, name) != ("vanilla", "predicted_loss"):
            risk = 0.01 * step
            yield RiskPoint(model, name, step / 20, risk, 0.8 * risk, 1.2 * risk)


def examples(sets):
    return {name: [np.full((8, 8, 3), 90, np.uint8)] * 2 for name in sets}


ALL_CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
PAPER_SETS = {  # in the reverse of the paper's order; `clin_skin` is missing
    "derm_skin": {"contents": "Skin beside the lesions", "left_out": 14, "paper_images": 1565},
    "photographs": {"contents": "Photographs of things", "paper_set": "imagenet"},
    "b_box_70_image": {
        "contents": "Images under a box of 70 % of their area",
        "paper_set": "b_box_70",
    },
    "b_box_70": {"contents": "Lesions under a larger black box", "paper_images": 2454},
    "b_box": {"contents": "Lesions under a black box", "paper_images": 2025},
    "colon": {"contents": "Microscopy of the colon", "paper_set": "nct", "paper_images": 1350},
}
COMPLETE_SETTINGS = SETTINGS | dict(
    data="ham10000:images",
    measured_set="test",
    classes=ALL_CLASSES,
    odin=SETTINGS["odin"] | {"tuning_set": "colon"},
    preprocessing=asdict(Preprocessing(image_size=112)),
    class_counts={name: {"train": 40, "validation": 10, "test": 10} for name in ALL_CLASSES},
    leakage=[
        {"experiment": "generalization", "trial": 0, "shared_groups": 0, "leaking_images": 0}
        | {"measured_images": 1682, "separate": True}
    ],
    compares_with_paper=True,
    unit_seconds=54321.0,
    missing_units=[{"experiment": "generalization", "trial": 2, "model": "mse"}],
)


def complete_results():
    sets, where = [*PAPER_SETS][::-1], ("generalization", ["policy_test"])
    detectors = (*DETECTORS, "odin_id_only", "best_on_tuning", "knn")
    failures = ("augrc", "excess_aurc", "risk_at_coverage/0.8", "coverage_at_risk/0.1")
    yield from plain_results("test", ALL_CLASSES, sets, detectors)
    yield from measured("generalization", ["test"], SCORES, failures)
    yield from measured("generalization", ["test"], ["entropy", "calibrated"], ["aurc"])
    yield from policies()
    yield from measured(*where, ["msp"], ["acceptance_score"])
    yield from measured(*where, ["policy", "error_probability"], ["ece"])
    yield from ood({"test": 0.03, "colon": 0.9, "b_box": 0.1})
    for trial, model in product(TRIALS, MODELS):
        chosen = "vim" if trial else "knn"
        yield Result("ood_detection", trial, model, "colon", chosen, "chosen", 1.0)


def complete_run():
    """A run on dermoscopy with all tables, beside the paper."""
    results = list(complete_results())
    facts = {name: {"paper_set": name, "origin": "made here"} | PAPER_SETS[name]
             for name in PAPER_SETS}  # fmt: skip
    names = ("test", "test (in-distribution classes)", *UNSEEN_SETS)
    datasets = {name: facts_of(**facts.get(name, {})) for name in (*names[:2], *facts, *names[2:])}
    beside_msp = {"baseline": "msp", "dataset": "test"}
    return run_of(
        results,
        [
            *paired_intervals(results, "colon"),
            interval("calibrated", "aurc", -0.03, -0.01, **beside_msp),
            interval("policy/0.1", "coverage", 0.28, 0.32),
        ],
        [*plain_histories(), *plain_histories("learning_rate/0.001", ("vanilla", "proposed"))],
        settings=COMPLETE_SETTINGS,
        datasets=datasets,
        confusions=[
            Confusion("generalization", *place, 7 if place[2] == place[3] else 1)
            for place in product(TRIALS, MODELS, ALL_CLASSES, ALL_CLASSES)
        ],
        reliability=bins(),
        risk_coverage=risk_points(),
        pictures=examples(datasets),
    )
