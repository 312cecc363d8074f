"""Predictions that a command works on: of a run for DATA, or those in a file."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from misgiving.cli.options import PREDICTIONS, is_prediction_file
from misgiving.cli.progress import Bar, progress_bars
from misgiving.errors import DataError, UsageError

if TYPE_CHECKING:
    from misgiving.deferral.deferral import Deferral
    from misgiving.predictions.predict import PredictedData
    from misgiving.predictions.record import Predictions


class Source(NamedTuple):
    """Predictions of a command.

    Attributes:
        predictions: Of the images.
        ood: Of out-of-distribution images, by name of the set.
        skipped: Set and id of each image that could not be read, and why.
        summary: Sentences on images that are left out.
        picture: Reads the image of this id as the model saw it; None: by the paths.
    """

    predictions: "Predictions"
    ood: "Mapping[str, Predictions]"
    skipped: "list[tuple[str, str, str]]"
    summary: list[str]
    picture: Callable[[str], Any] | None = None


def read_source(
    run: Path,
    data: str | None,
    settings: Mapping[str, Any],
    *,
    cache: Path,
    sets: Callable[[Collection[str]], Collection[str]] | None = None,
    training_data: str | None = None,
    needs_training: bool = False,
    ood: Mapping[str, Path] | None = None,
    check_classes: Callable[[tuple[str, ...]], None] = lambda _: None,
    deferral: "Deferral | None" = None,
) -> Source:
    """Predict DATA by a run, or read a file of predictions in place of both.

    Args:
        run: The run, or the file.
        data: DATA.
        settings: Values of the options on bad images and the device.
        cache: Folder for prepared images.
        sets: Chooses the sets to predict among those that the images are in; None: all.
        training_data: Data with the images that the run was trained on.
        needs_training: True where detectors are fitted on these.
        ood: Folders of out-of-distribution images, or files of their predictions, by name.
        check_classes: Called with those of a run before any image is read.
        deferral: The policy that predictions in files must be for, if they name a model.
    """
    ood = ood or {}
    if is_prediction_file(run):
        if data is not None:
            raise UsageError(f"{run} is a file of predictions; leave out DATA, here {data!r}")
        files = {name: read_file(path, deferral) for name, path in ood.items()}
        return Source(read_file(run, deferral), files, [], [])
    if data is None:
        others = ", ".join(PREDICTIONS)
        raise UsageError(f"{run}: a run needs DATA; or give a file of predictions ({others})")
    from misgiving.data.ood_sets import read_ood_folder
    from misgiving.predictions.predict import TrainedRun
    from misgiving.training.processes import device_named

    folders = {name: read_ood_folder(folder, name=name) for name, folder in ood.items()}
    with progress_bars() as progress:
        trained = TrainedRun(
            run,
            device=str(device_named(settings["device"])),
            cache=cache,
            on_image=Bar(progress, "preparing images").at,
            on_predicted=Bar(progress, "predicting").at,
            on_bad_image=settings["on_bad_image"],
        )
        check_classes(trained.checkpoint.classes)
        predicted = trained.predict(
            data,
            sets=sets,
            training_data=training_data,
            needs_training=needs_training,
            odin=bool(ood),
        )
        outliers = {name: trained.predict_outliers(folder) for name, folder in folders.items()}
    all_sets = {data: predicted, **outliers}
    return Source(
        predicted.predictions,
        {name: one_set.predictions for name, one_set in outliers.items()},
        [(name, *bad) for name, each in all_sets.items() for bad in each.skipped],
        [sentence for name, each in all_sets.items() for sentence in _left_out(name, each)],
        predicted.picture,
    )


def read_file(path: Path, deferral: "Deferral | None") -> "Predictions":
    """Predictions in a file, which is named where they are not those of the policy's model."""
    from misgiving.predictions.record import Predictions

    predictions = Predictions.read(path)
    if deferral is not None:
        try:
            deferral.check_predictions(predictions)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
    return predictions


def _left_out(name: str, predicted: "PredictedData") -> list[str]:
    """Sentences on the images of a set that were not predicted, and on what was not found."""
    from misgiving.data.decoding import skipped_sentences
    from misgiving.report.rendering import lines

    counts = predicted.counts
    used = {*(predicted.predictions.sets or ())}
    unused = {key: counts[key] for key in ("train", "test", "excluded") if key not in used}
    unused = {key: number for key, number in unused.items() if number}
    sentences = lines("policy.txt", "left_out", unused)
    if predicted.unknown:
        sentences.append(
            f"left out: {predicted.unknown} images of classes that the model does not know"
        )
    if predicted.searched < predicted.trained_on:
        sentences.append(
            f"near duplicates of training images were sought among {predicted.searched} of "
            f"{predicted.trained_on}; the others were not found"
        )
    return [*sentences, *skipped_sentences(predicted.skipped, counts.total(), name=name)]
