"""What was run, for the report: settings, open choices, and what a reader must know."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from misgiving.checkpoint import versions
from misgiving.errors import visible
from misgiving.experiments.bench import Bench
from misgiving.experiments.protocol import DERMOSCOPY, Protocol, Unit, units


def settings(bench: Bench, finished: Sequence[Unit], out: Path) -> dict[str, Any]:
    """The content of `settings.json`."""
    protocol, training = bench.protocol, bench.protocol.training
    first = bench.run(Unit("generalization", 0, protocol.models[0]))
    return {
        "title": "Loss Estimators Improve Model Generalization: a reproduction",
        "data": protocol.data,
        "images": len(bench.images),
        "in_distribution_images": len(bench.inliers),
        "backbone": protocol.model.backbone,
        "pretrained": _pretrained(protocol),
        "image_size": bench.preprocessing.image_size,
        "epochs": training.epochs,
        "batch_size": training.batch_size,
        "learning_rate": training.learning_rate,
        "learning_rates": sorted({training.learning_rate, *protocol.learning_rates}),
        "trials": protocol.trials,
        "models": list(protocol.models),
        "seed": protocol.seed,
        "split": protocol.split,
        "validation_share": protocol.validation_share,
        "measured_part": bench.roles.measured,
        "classes": list(bench.images.classes),
        "class_counts": _class_counts(bench),
        "in_distribution": list(protocol.in_distribution),
        "unseen": list(protocol.unseen),
        "tuning_set": protocol.search.tuning_set,
        "odin_temperatures": list(protocol.search.temperatures),
        "odin_epsilons": list(protocol.search.epsilons),
        "compares_with_paper": set(protocol.in_distribution) == set(DERMOSCOPY.in_distribution),
        "open_choices": _open_choices(protocol),
        "training": _training_settings(bench),
        "versions": versions(),
        "fingerprint": first.images.fingerprint,
        "leakage": bench.leakage(),
        "missing_units": [str(unit) for unit in units(protocol) if unit not in finished],
        "skipped": [
            {"set": name, **one._asdict()} for name, bad in bench.skipped().items() for one in bad
        ],
        "unit_seconds": sum(timing(out / unit.folder)["seconds"] for unit in finished),
        "unit_threads": sorted({int(timing(out / unit.folder)["threads"]) for unit in finished}),
        "notes": [*protocol.notes, *_notes(bench)],
    }


def _pretrained(protocol: Protocol) -> str:
    if protocol.model.weights:
        return protocol.model.weights.name
    return "ImageNet weights of timm" if protocol.model.pretrained else "no"


def timing(folder: Path) -> dict[str, float]:
    """How long a unit took, and with how many threads."""
    return dict(json.loads((folder / "timing.json").read_text(encoding="utf-8")))


def _class_counts(bench: Bench) -> dict[str, dict[str, int]]:
    """Images of each class in each part, in 4.1's first trial."""
    run = bench.run(Unit("generalization", 0, bench.protocol.models[0]))
    return {
        name: {
            str(part): int(np.sum((run.images.labels == label) & (run.parts == part)))
            for part in np.unique(run.parts)
        }
        for label, name in enumerate(run.images.classes)
    }


def _open_choices(protocol: Protocol) -> dict[str, str]:
    """What the paper does not say, and what this run does."""
    training = protocol.training
    return {
        "margin of Eq. 1": f"{training.margin:g}",
        "pairs of Eq. 1": {"all": "all ordered pairs of the batch", "halves": "halves"}[
            training.pairs
        ],
        "reduction of Eq. 1": training.reduction,
        "ties of true losses": "count as -1, as Eq. 1 says",
        "gradient of the estimator into the backbone": "always; never in detached"
        if training.joint_epochs is None
        else f"in {training.joint_epochs} epochs; never in detached",
        "target of the estimator": f"the {training.target} loss",
        "mean of the weighted cross-entropy": training.primary_mean,
        "class weights of the loss": training.class_weights,
        "class weights of the sampler": training.sampling,
        "estimator's learning rate": f"{training.estimator_rate:g} x the classifier's",
        "pooling before the 128-unit layers": "global average",
        "checkpoint": f"{training.keep} epoch",
        "ODIN's perturbed image": "not clipped to [0, 1]",
        "AUPR": "count-based precision, trapezoid; average precision beside it in results.csv",
    }


def _training_settings(bench: Bench) -> dict[str, str]:
    training = bench.protocol.training
    crop, constancy = bench.preprocessing.crop, bench.preprocessing.color_constancy
    return {
        "optimiser": f"Adam, beta1 {training.beta1:g}, weight decay {training.weight_decay:g}",
        "learning rate": f"{training.learning_rate:g}, times {training.decay_factor:g} "
        f"every {training.decay_every} epochs",
        "epochs": str(training.epochs),
        "batch size": str(training.batch_size),
        "dropout": f"{bench.protocol.model.dropout:g}",
        "auxiliary weight (Eq. 2)": f"{training.auxiliary_weight:g}",
        "split": _split(bench.protocol),
        "crop": f"{crop:g}",
        "colour constancy": constancy,
        "augmentation": ", ".join(
            f"{name} {value}" for name, value in bench.augmentation.to_dict().items()
        ),
        "device and precision": f"{training.device}, {training.precision}",
    }


def _split(protocol: Protocol) -> str:
    if protocol.split == "grouped":
        return "grouped: by lesion and near duplicate into train, tune, calibrate, test"
    return f"paper: by image, {protocol.validation_share:.0%} validation"


def _notes(bench: Bench) -> list[str]:
    """Facts of this run that a reader must know."""
    return [
        _tuning_note(bench),
        "odin_id_only takes the highest temperature of the grid, and the epsilon with the highest "
        "mean confidence on in-distribution images alone (Hsu et al., 2020).",
        "Intervals resample groups of images that trials share together, and trials with "
        "replacement; with few trials the variation between trials is drawn too small.",
        *_sizes(bench),
        *(
            f"left out of {name}, as unreadable: {', '.join(visible(one.image) for one in bad)}"
            for name, bad in bench.skipped().items()
        ),
    ]


def _tuning_note(bench: Bench) -> str:
    if bench.roles.tunes_apart:
        return (
            f"ODIN is tuned on the part {bench.roles.tuning} and the tuning set; the part "
            f"{bench.roles.measured}, on which nothing was chosen, is the in-distribution side of "
            "every row. histories.csv calls the part that is watched while training validation."
        )
    return (
        "ODIN is tuned on the held-out in-distribution images and the tuning set, as in the paper. "
        "The same held-out images are the in-distribution side of every other row, so that these "
        "are a little optimistic too; odin_default is not tuned at all."
    )


def _sizes(bench: Bench) -> list[str]:
    notes = []
    for sections, experiment in (("4.1", "generalization"), ("4.2 and 4.3", "ood_detection")):
        run = bench.run(Unit(experiment, 0, bench.protocol.models[0]))
        trained, measured = len(run.part("train")), len(run.part(run.roles.measured))
        notes.append(
            f"{sections}: {trained} of {len(run.images)} images are trained on and {measured} are "
            "measured in each trial."
        )
    return notes
