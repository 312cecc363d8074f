"""What was run, for the report: settings, open choices, and what a reader must know."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from misgiving.checkpoint import versions
from misgiving.errors import visible
from misgiving.reproduction.protocol import DERMOSCOPY, Protocol, Unit, units
from misgiving.reproduction.trial_data import TrialData


def settings(trial_data: TrialData, finished: Sequence[Unit], out: Path) -> dict[str, Any]:
    """The content of `settings.json`."""
    protocol, training = trial_data.protocol, trial_data.protocol.training
    first = trial_data.run(Unit("generalization", 0, protocol.models[0]))
    return {
        "title": "Loss Estimators Improve Model Generalization: a reproduction",
        "data": protocol.data,
        "images": len(trial_data.images),
        "in_distribution_images": len(trial_data.inliers),
        "backbone": protocol.model.backbone,
        "pretrained": _pretrained(protocol),
        "image_size": trial_data.preprocessing.image_size,
        "epochs": training.epochs,
        "batch_size": training.batch_size,
        "learning_rate": training.learning_rate,
        "learning_rates": sorted({training.learning_rate, *protocol.learning_rates}),
        "trials": protocol.trials,
        "models": list(protocol.models),
        "seed": protocol.seed,
        "split": protocol.split,
        "validation_share": protocol.validation_share,
        "measured_set": trial_data.roles.measured,
        "classes": list(trial_data.images.classes),
        "class_counts": _class_counts(trial_data),
        "in_distribution": list(protocol.in_distribution),
        "unseen": list(protocol.unseen),
        "tuning_set": protocol.search.tuning_set,
        "odin_temperatures": list(protocol.search.temperatures),
        "odin_epsilons": list(protocol.search.epsilons),
        "compares_with_paper": set(protocol.in_distribution) == set(DERMOSCOPY.in_distribution),
        "open_choices": _open_choices(protocol),
        "training": _training_settings(trial_data),
        "versions": versions(),
        "fingerprint": first.images.fingerprint,
        "leakage": trial_data.leakage(),
        "missing_units": [str(unit) for unit in units(protocol) if unit not in finished],
        "skipped": [
            {"set": name, **one._asdict()}
            for name, bad in trial_data.skipped().items()
            for one in bad
        ],
        "unit_seconds": sum(timing(out / unit.folder)["seconds"] for unit in finished),
        "unit_threads": sorted({int(timing(out / unit.folder)["threads"]) for unit in finished}),
        "notes": [*protocol.notes, *_notes(trial_data)],
    }


def _pretrained(protocol: Protocol) -> str:
    if protocol.model.weights:
        return protocol.model.weights.name
    return "ImageNet weights of timm" if protocol.model.pretrained else "no"


def timing(folder: Path) -> dict[str, float]:
    """How long a unit took, and with how many threads."""
    return dict(json.loads((folder / "timing.json").read_text(encoding="utf-8")))


def _class_counts(trial_data: TrialData) -> dict[str, dict[str, int]]:
    """Images of each class in each part, in 4.1's first trial."""
    run = trial_data.run(Unit("generalization", 0, trial_data.protocol.models[0]))
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


def _training_settings(trial_data: TrialData) -> dict[str, str]:
    training = trial_data.protocol.training
    crop, constancy = trial_data.preprocessing.crop, trial_data.preprocessing.color_constancy
    return {
        "optimiser": f"Adam, beta1 {training.beta1:g}, weight decay {training.weight_decay:g}",
        "learning rate": f"{training.learning_rate:g}, times {training.decay_factor:g} "
        f"every {training.decay_every} epochs",
        "epochs": str(training.epochs),
        "batch size": str(training.batch_size),
        "dropout": f"{trial_data.protocol.model.dropout:g}",
        "auxiliary weight (Eq. 2)": f"{training.auxiliary_weight:g}",
        "split": _split(trial_data.protocol),
        "crop": f"{crop:g}",
        "colour constancy": constancy,
        "augmentation": ", ".join(
            f"{name} {value}" for name, value in trial_data.augmentation.to_dict().items()
        ),
        "device and precision": f"{training.device}, {training.precision}",
    }


def _split(protocol: Protocol) -> str:
    if protocol.split == "grouped":
        return "grouped: by lesion and near duplicate into train, tune, calibrate, test"
    return f"paper: by image, {protocol.validation_share:.0%} validation"


def _notes(trial_data: TrialData) -> list[str]:
    """Facts of this run that a reader must know."""
    return [
        _tuning_note(trial_data),
        "odin_id_only takes the highest temperature of the grid, and the epsilon with the highest "
        "mean confidence on in-distribution images alone (Hsu et al., 2020).",
        "Intervals resample groups of images that trials share together, and trials with "
        "replacement; with few trials the variation between trials is drawn too small.",
        *_sizes(trial_data),
        *(
            f"left out of {name}, as unreadable: {', '.join(visible(one.image) for one in bad)}"
            for name, bad in trial_data.skipped().items()
        ),
    ]


def _tuning_note(trial_data: TrialData) -> str:
    if trial_data.roles.tunes_apart:
        return (
            f"ODIN is tuned on the part {trial_data.roles.tuning} and the tuning set; the part "
            f"{trial_data.roles.measured}, untouched by any choice, is the in-distribution side of "
            "every row. histories.csv calls the part that is watched while training validation."
        )
    return (
        "ODIN is tuned on the held-out in-distribution images and the tuning set, as in the paper. "
        "The same held-out images are the in-distribution side of every other row, so that these "
        "are a little optimistic too; odin_default is not tuned at all."
    )


def _sizes(trial_data: TrialData) -> list[str]:
    notes = []
    for sections, experiment in (("4.1", "generalization"), ("4.2 and 4.3", "ood_detection")):
        run = trial_data.run(Unit(experiment, 0, trial_data.protocol.models[0]))
        trained, measured = len(run.part("train")), len(run.part(run.roles.measured))
        notes.append(
            f"{sections}: {trained} of {len(run.images)} images are trained on and {measured} are "
            "measured in each trial."
        )
    return notes
