"""Folders as reproductions leave them, with made-up numbers."""

from dataclasses import replace
from itertools import product

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from misgiving.data.preprocessing import AugmentationSettings, Preprocessing
from misgiving.metrics.trials import t_interval
from misgiving.results.formats import write_document, write_table
from misgiving.results.schema import (
    Confusion,
    HistoryRow,
    OdinGrid,
    ReliabilityRow,
    Result,
    ResultInterval,
    RiskPoint,
    SetFacts,
    Settings,
    SplitLeakage,
    SplitSize,
    Unit,
)
from misgiving.training.config import ModelConfig, TrainingConfig

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
OOD_METRICS = (
    "fpr_at_tpr95",
    "detection_error",
    "auroc",
    "aupr_in",
    "aupr_out",
    "average_precision_in",
    "average_precision_out",
)
TRIALS = range(3)
TRAINING = TrainingConfig(epochs=12, batch_size=64, learning_rate=1e-4)
SETTINGS = Settings(
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
    sizes=(
        SplitSize("generalization", 230, 150, 80),
        SplitSize("ood_detection", 230, 150, 80),
    ),
    odin=OdinGrid(
        tuning_set="histology",
        temperatures=(1.0, 2.0, 5.0, 10.0, 100.0, 1000.0),
        epsilons=(0.0, 0.001, 0.002, 0.004),
    ),
    models=tuple(MODELS),
    trials=3,
    seed=0,
    learning_rates=(1e-4,),
    model=ModelConfig().to_dict(),
    training=TRAINING.to_dict(),
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


def facts_of(**changes):
    known = {"contents": "Images that stand for this set", "images": 230, "groups": 41}
    known |= {
        "checksum": "c0ffee",
        "paper_set": "",
        "paper_images": None,
        "left_out": 0,
        "origin": "",
    }
    return SetFacts(**(known | changes))


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
            yield ResultInterval(
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
            yield HistoryRow(
                "generalization", trial, model, epoch, part, float(falling),
                None if model == "vanilla" else float(auxiliary),
                float(accuracy + rng.normal(0, 0.01)), float(accuracy - 0.05), *estimates,
            )  # fmt: skip


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
DERMOSCOPY_SETTINGS = replace(
    SETTINGS,
    data="ham10000:images",
    learning_rates=(1e-4, *RATES),
    measured_set="test",
    classes=tuple(DERMOSCOPY_CLASSES),
    odin=replace(SETTINGS.odin, tuning_set="colon"),
    preprocessing=Preprocessing(image_size=112).to_dict(),
    class_counts={
        name: {"train": 4 * n, "validation": n, "test": n}
        for name, n in zip(DERMOSCOPY_CLASSES, (180, 1100, 85, 54, 180, 19, 24, 40), strict=True)
    },
    leakage=(SplitLeakage("generalization", 0, 0, 0, 1682, separate=True),),
    compares_with_paper=True,
    unit_seconds=54321.0,
    missing_units=(Unit("generalization", 2, "mse"),),
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
            yield replace(
                row,
                experiment=f"learning_rate/{rate:g}",
                epoch=row.epoch // 2,
                balanced_accuracy=row.balanced_accuracy + shift,
            )


def dermoscopy_confusions():
    rng = np.random.default_rng(4)
    for trial, model, true in product(TRIALS, MODELS, DERMOSCOPY_CLASSES):
        share = 0.08 * rng.random(len(DERMOSCOPY_CLASSES))
        share[DERMOSCOPY_CLASSES.index(true)] = 0.7
        images = DERMOSCOPY_SETTINGS.class_counts[true]["test"]
        for predicted, part in zip(DERMOSCOPY_CLASSES, share / share.sum(), strict=True):
            if count := round(images * part):
                yield Confusion("generalization", trial, model, true, predicted, count)


def write_dermoscopy(folder):
    """A folder as a reproduction on dermoscopy leaves it."""
    results = dermoscopy_results()
    intervals = [row._replace(tuned=row.dataset == "colon") for row in synthetic_intervals(results)]
    write_reproduction(folder, results, intervals, dermoscopy_histories(), examples=6)
    write_table(folder / "confusions.csv", Confusion, dermoscopy_confusions())
    write_document(folder / "settings.json", DERMOSCOPY_SETTINGS)
    account = {
        name: facts_of(contents="Images held out", images=1720, groups=1400)
        for name in ("test", "test (in-distribution classes)")
    }
    for name, (_, known) in reversed(DERMOSCOPY_SETS.items()):
        row = {"paper_set": name, **known}
        paper = PAPER_IMAGES.get(row["paper_set"])
        origin = "made here" if name == row["paper_set"] else "given"
        account[name] = facts_of(images=300, groups=300, paper_images=paper, origin=origin, **row)
    account |= {
        name: facts_of(contents="Unseen", images=99, groups=90) for name in DERMOSCOPY_UNSEEN
    }
    write_document(folder / "datasets.json", account)
    _write_examples(folder / "examples", account, number=6)
    return folder


def write_reproduction(folder, results, intervals, histories, *, examples=2):
    """A folder as a reproduction leaves it, filled with the given rows."""
    write_table(folder / "results.csv", Result, results)
    write_table(folder / "intervals.csv", ResultInterval, intervals)
    write_table(folder / "histories.csv", HistoryRow, histories)
    write_table(folder / "confusions.csv", Confusion, [])
    write_table(folder / "reliability.csv", ReliabilityRow, [])
    write_table(folder / "risk_coverage.csv", RiskPoint, [])
    write_document(folder / "settings.json", SETTINGS)
    sets = ["validation", "validation (in-distribution classes)", *OOD_SETS, *UNSEEN_SETS]
    write_document(folder / "datasets.json", {name: facts_of() for name in sets})
    _write_examples(folder / "examples", sets, number=examples)
    return folder


def _write_examples(folder, sets, *, number):
    rng = np.random.default_rng(2)
    for name, k in product(sets, range(number)):
        path = folder / name.replace("/", "-") / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        colours = rng.integers(60, 230, (3, 3, 3), dtype=np.uint8)
        Image.fromarray(colours).resize((96, 96), Image.Resampling.BICUBIC).save(path)
