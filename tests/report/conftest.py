import json
from itertools import product

import numpy as np
import pytest
from PIL import Image

from misgiving.files import write_csv, write_json
from misgiving.report.tables import Epoch, Interval, Result

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
SETTINGS = {
    "title": "Loss estimators on dermoscopic images",
    "data": "isic2019-mini",
    "backbone": "vgg16",
    "image_size": 96,
    "epochs": 12,
    "trials": 3,
    "models": [*MODELS],
    "seed": 0,
    "classes": CLASSES,
    "in_distribution": CLASSES,
    "unseen": ["BKL", "VASC"],
    "tuning_set": "histology",
    "odin_temperatures": [1, 2, 5, 10, 100, 1000],
    "odin_epsilons": [0.0, 0.001, 0.002, 0.004],
    "open_choices": {
        "margin": 1.0,
        "pairs": "all ordered pairs, mean",
        "estimator target": "class-weighted cross-entropy",
        "class weights": "N / (K n_k)",
        "checkpoint": "last epoch",
        "split": "grouped by lesion",
        "ODIN tuning": "highest AUROC on the tuning set",
        "AUPR": "trapezoid",
    },
    "training": {"optimizer": "Adam", "learning rate": 1e-4, "batch size": 64, "dropout": 0.4},
    "versions": {"misgiving": "0.1.0", "torch": "2.9.0", "timm": "1.0.31"},
    "fingerprint": "4f1c8e90b2a7",
    "notes": ["The sets histology, photographs & boxes stand in for the paper's."],
    "run_seconds": 1234.5,
}


def _odds(level, rng, sd=0.01):
    return float(np.clip(level + rng.normal(0, sd), 0, 1))


def _classification(experiment, dataset, rng):
    for trial, (model, gain) in product(TRIALS, MODELS.items()):
        values = {f"sensitivity/{name}": 0.85 - 0.06 * i for i, name in enumerate(CLASSES)}
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


def _detection(experiment, sets, rng):
    for trial, (model, gain), (dataset, level) in product(TRIALS, MODELS.items(), sets.items()):
        for detector, bonus in DETECTORS.items():
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
    """Plausible ones: the mean over trials, give or take; none for a set cut from one picture."""
    cells = {}
    for row in results:
        if row.metric not in ("temperature", "epsilon"):
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
            yield Interval(
                experiment, model, baseline, dataset, detector, metric, estimate,
                *((None, None) if dataset == "clinical_skin" else bounds),
                n=230, trials=3, tuned=dataset == "histology",
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


def _cells(row):
    values = ("" if value is None else value for value in row)
    return ["tuned" * value if isinstance(value, bool) else value for value in values]


def write_reproduction(folder, results, intervals, histories, *, examples=2):
    """A folder as a reproduction leaves it, filled with the given rows."""
    write_csv(folder / "results.csv", Result._fields, map(_cells, results))
    write_csv(folder / "intervals.csv", Interval._fields, map(_cells, intervals))
    write_csv(folder / "histories.csv", Epoch._fields, map(_cells, histories))
    write_json(folder / "settings.json", SETTINGS)
    sets = ["validation", "validation (in-distribution classes)", *OOD_SETS, *UNSEEN_SETS]
    facts = {"contents": "Images that stand for this set", "images": 230, "sources": 41}
    write_json(folder / "datasets.json", {name: facts for name in sets})
    rng = np.random.default_rng(2)
    for name, k in product(sets, range(examples)):
        path = folder / "examples" / name.replace("/", "-") / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        colours = rng.integers(60, 230, (3, 3, 3), dtype=np.uint8)
        Image.fromarray(colours).resize((96, 96), Image.Resampling.BICUBIC).save(path)
    return folder


@pytest.fixture(scope="session")
def results():
    return synthetic_results()


@pytest.fixture(scope="session")
def intervals(results):
    return list(synthetic_intervals(results))


@pytest.fixture(scope="session")
def histories():
    return list(synthetic_histories())


@pytest.fixture(scope="session")
def finished(tmp_path_factory, results, intervals, histories):
    """A folder that no test changes."""
    return write_reproduction(tmp_path_factory.mktemp("run"), results, intervals, histories)


@pytest.fixture
def folder(tmp_path, results, intervals, histories):
    return write_reproduction(tmp_path, results, intervals, histories)


@pytest.fixture
def rewrite(folder, results, intervals, histories):
    """Write the folder again with the rows that a test keeps."""

    def write(results=results, intervals=intervals, histories=histories):
        return write_reproduction(folder, results, intervals, histories)

    return write


@pytest.fixture
def change_settings(folder):
    def change(**values):
        path = folder / "settings.json"
        write_json(path, json.loads(path.read_text()) | values)

    return change
