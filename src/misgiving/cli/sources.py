"""Predictions that a command works on: of a run for DATA, or those in a file."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from misgiving.cli.options import check_options
from misgiving.cli.progress import Bar, progress_bars, say
from misgiving.errors import DataError

if TYPE_CHECKING:
    from misgiving.deferral.deferral import Deferral
    from misgiving.predictions.predict import PredictedData
    from misgiving.predictions.record import Predictions

PREDICTIONS = (".csv", ".npz", ".parquet")


def is_prediction_file(source: str | Path) -> bool:
    """True for a file of predictions in place of a run or of data, by its suffix.

    >>> is_prediction_file("p.csv"), is_prediction_file("table:p.csv")
    (True, False)
    """
    path = Path(source)
    if path.suffix.lower() not in PREDICTIONS or path.is_dir():
        return False
    return path.exists() or not re.match(r"\w+:", str(source))


def check_source(
    source: str | Path,
    *,
    images: Sequence[str] = (),
    files: Sequence[str] = (),
    needed: Sequence[str] = (),
) -> bool:
    """Check that the options suit what a command works on; true for a file of predictions.

    Args:
        source: The file, the run or the data.
        images: Further parameters that have no effect on a file of predictions; a run needs `data`
            if that is among them.
        files: Parameters that have an effect only on a file of predictions.
        needed: Parameters that a file of predictions needs.
    """
    if is_prediction_file(source):
        unused = ("on_bad_image", "cache", "device", *images)
        check_options(f"for {source}, a file of predictions", needed=needed, unused=unused)
        return True
    required = ["data"] if "data" in images else ()
    check_options(
        f"for {source}, which is not a file of predictions", needed=required, unused=files
    )
    return False


def predict_or_read(
    run: Path,
    data: str | None,
    settings: Mapping[str, Any],
    *,
    cache: Path,
    ood: Mapping[str, Path] | None = None,
    deferral: "Deferral | None" = None,
    check_classes: Callable[[tuple[str, ...]], None] = lambda _: None,
    **choices: Any,
) -> "tuple[PredictedData, dict[str, PredictedData]]":
    """Predict DATA by a run, or read a file of predictions in place of both.

    Args:
        run: The run, or the file.
        data: DATA.
        settings: Values of the options on bad images and the device.
        cache: Folder for prepared images.
        ood: Folders of out-of-distribution images, or files of their predictions, by name.
        deferral: The policy that predictions in files must be for, if they name a model.
        check_classes: Called with those of a run before any image is read.
        choices: What a run is to predict, as `TrainedRun.predict` takes it.

    Returns:
        Predictions for DATA or of the file, and those of `ood` by name.
    """
    from misgiving.predictions.predict import PredictedData, TrainedRun

    places = ood or {}
    if data is None:
        main, *others = (
            PredictedData(read_file(path, deferral), Counter(), ())
            for path in (run, *places.values())
        )
        return main, dict(zip(places, others, strict=True))
    from misgiving.data.ood_sets import read_ood_folder
    from misgiving.training.processes import device_named

    folders = {name: read_ood_folder(folder, name=name) for name, folder in places.items()}
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
        predicted = trained.predict(data, odin=bool(ood), **choices)
        outliers = {name: trained.predict_outliers(folder) for name, folder in folders.items()}
    return predicted, outliers


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


def say_left_out(sources: "Iterable[tuple[str, PredictedData]]") -> None:
    """Report the images of each set that were not predicted, and what was not found."""
    from misgiving.data.decoding import skipped_sentences
    from misgiving.report.rendering import lines

    for name, predicted in sources:
        skipped = skipped_sentences(predicted.skipped, predicted.counts.total(), name=name)
        for sentence in (*lines("policy.txt", "not_predicted", predicted), *skipped):
            say(sentence)
