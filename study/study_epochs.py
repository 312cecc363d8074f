"""Measurements of trainings to the end: of the last epoch and of the best, and their curves."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from study_folds import LOSS_SUM, class_sums
from torch import Tensor

from misgiving.checkpoint import Checkpoint
from misgiving.evaluation.measures import (
    Measurement,
    measure_calibration,
    measure_classification,
    measure_failures,
    measurements_of,
)
from misgiving.predictions.inference import predictions_of
from misgiving.reproduction.config import Unit
from misgiving.reproduction.generalization import measure_generalization
from misgiving.reproduction.tables import predictions_path, read_table, table_of, write_table
from misgiving.reproduction.trial_data import TrainedUnit
from misgiving.scores.detectors import all_scores
from misgiving.training.resume import resume_path

BEST_EPOCH = "best_epoch"  # the experiment of its rows; those of the last are of Section 4.1
LAST_WEIGHTS = "last_epoch.safetensors"
SETS = ("train", "test")
CURVES = "_curves.csv"  # ends the name of the table beside that of a part
HISTORIES = "histories.csv"  # its schema
DIGITS = 5  # of the curves


def measure_epochs(trained: TrainedUnit) -> dict[str, list[Measurement]]:
    """Measure a model after its last epoch, and that of the best epoch where it was kept.

    The epoch is the one with the best balanced accuracy on the tuning set. Its weights are those of
    the run; those of the last epoch are put beside them.
    """
    if trained.setup.training.keep != "best":
        return measure_generalization(trained)
    best, path = trained.checkpoint, trained.folder / "run" / LAST_WEIGHTS
    if not path.exists():  # else the model is only measured again
        save_file(last_weights(trained.folder.with_name(trained.unit.model)), path)
    model = best.architecture.build()
    model.load_state_dict(load_file(path))
    last = replace(best, model=model.eval())
    predictions = predictions_of(last, trained.setup.images_of(trained.measured))
    predictions.write(predictions_path(trained.folder, trained.measured))
    of_last = trained._replace(checkpoint=last, predictions=predictions)
    rows = measure_generalization(of_last)["generalization"]
    return {
        "generalization": list(dict.fromkeys([*rows, *measured_sets(of_last)])),
        BEST_EPOCH: list(measured_sets(trained)),
    }


def last_weights(folder: Path) -> dict[str, Tensor]:
    """Weights of the last epoch, in the state from which the training of a unit would resume."""
    prefix = "model."
    with safe_open(resume_path(folder), framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        return {name.removeprefix(prefix): file.get_tensor(name) for name in names}


def measured_sets(trained: TrainedUnit) -> Iterator[Measurement]:
    """Measurements of the training and the test images, all of them and without augmentation."""
    checkpoint: Checkpoint = trained.checkpoint
    for name in SETS:
        predictions = predictions_of(checkpoint, trained.setup.images_of(name))
        losses = predictions.true_losses()
        weights = np.array(checkpoint.class_weights)[predictions.labels]
        values = {"loss": losses.mean(), "weighted_loss": np.average(losses, weights=weights)}
        yield from measurements_of(name, "", values)
        yield from measure_classification(predictions, name)
        yield from measure_calibration(predictions.probabilities, predictions, name, "msp")
        yield from measure_failures(predictions, all_scores(predictions), name)
        yield from class_sums(predictions, name)
        for position, each in enumerate(predictions.classes):
            total = losses[predictions.labels == position].sum()
            yield Measurement(name, each, LOSS_SUM, float(total))


def add_curves(table: Path, folder: Path, unit: Unit) -> None:
    """Put the history of a unit's training into a table, in place of an older one."""
    rows = []
    if table.exists():
        earlier = read_table(table, schema=HISTORIES).itertuples(index=False, name=None)
        rows = [row for row in earlier if Unit(*row[:3]) != unit]
    history = read_table(folder / unit.folder / "run" / "history.csv").round(DIGITS)
    rows += [(*unit, *row) for row in history.itertuples(index=False, name=None)]
    write_table(table, table_of(sorted(rows, key=order_of), HISTORIES))


def order_of(row: Sequence[object]) -> Sequence[object]:
    """Unit, epoch and set of a row."""
    return row[:5]
