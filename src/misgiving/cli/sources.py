"""Predictions that a command works on: of a run for DATA, or those in a file."""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from misgiving.cli.options import Reading, check_options
from misgiving.cli.progress import Bar, progress_bars, say
from misgiving.errors import DataError, Parameter, UsageError
from misgiving.files import default_cache

if TYPE_CHECKING:
    from misgiving.deferral.deferral import Deferral
    from misgiving.deferral.draw import PredictionsT
    from misgiving.predictions.predict import PredictedData, TrainedRun
    from misgiving.predictions.record import Predictions

PREDICTIONS = (".csv", ".npz", ".parquet")


def is_prediction_file(source: str | Path) -> bool:
    """True for a file of predictions in place of a run or of data, by its name.

    >>> is_prediction_file("p.csv"), is_prediction_file("table:p.csv")
    (True, False)
    """
    path, of_data = Path(source), re.match(r"\w+:", str(source))
    return path.suffix.lower() in PREDICTIONS and not of_data and not path.is_dir()


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
            or `pool` if it is among them.
        files: Parameters that have an effect only on a file of predictions.
        needed: Parameters that a file of predictions needs.
    """
    if is_file := is_prediction_file(source):
        unused = ("on_bad_image", "cache", "device", *images)
        check_options(f"for {source}, a file of predictions", needed=needed, unused=unused)
    else:
        required = {"data", "pool"}.intersection(images)
        case = f"for {source}, which is not a file of predictions"
        check_options(case, needed=[*required], unused=files)
    return is_file


def pool_of(trained: "TrainedRun", folder: str) -> "PredictedData":
    """Predictions of a run for a folder of images without labels."""
    from misgiving.data.datasets import unlabelled_images

    place = Path(folder.removeprefix("folder:"))
    images = unlabelled_images([place], name=str(place))
    ids = tuple(Path(name).relative_to(place).as_posix() for name in images.ids)
    return trained.predict_unlabelled(replace(images, ids=ids))


def with_labels(images: "PredictionsT", path: Path) -> "PredictionsT":
    """Images with the true classes in a table that `draw` wrote, by their ids."""
    from misgiving.data.datasets.tables import read_table
    from misgiving.deferral.draw import label

    table = read_table(path, ["id", "label"])
    if (repeated := table["id"][table["id"].duplicated()]).size:
        raise DataError(f"{path}: {repeated.iloc[0]!r} occurs more than once; keep it once")
    if not table["label"].any():
        raise DataError(f"{path}: no label is filled in")
    try:
        return label(images, dict(zip(table["id"], table["label"], strict=True)))
    except DataError as error:
        raise DataError(f"{path}: ", *error.args) from error


def place_of_draw(table: Path) -> Path:
    """The folder, beside a table of drawn cases, of the policy that they were drawn with."""
    return table.with_name(f"{table.name}.draw")


def named_places(
    parameter: str, words: Sequence[str] | None, *, taken: Sequence[str | None] = ()
) -> dict[str, Path]:
    """Folders or files by name, from NAME=PATH or the path alone; no name stands for two.

    A path that exists is not split at its equals sign.
    """
    places: dict[str, Path] = {}
    for word in words or ():
        name, equals, place = word.partition("=")
        whole = not equals or Path(word).exists()
        path = Path((word if whole else place).removeprefix("folder:"))
        if whole:
            name = path.resolve().name if path.is_dir() else path.resolve().stem
        if name in (*taken, *places):
            raise UsageError(
                Parameter(parameter),
                f" {name!r} names two sets; write NAME={path} with another name",
            )
        places[name] = path
    return places


@contextmanager
def open_run(
    run: Path,
    reading: Reading,
    *,
    cache: Path | None,
    opinions: Mapping[str, Path] | None = None,
    views: int | None = None,
) -> Iterator["TrainedRun"]:
    """A run that is ready to predict, with second opinions; bars show its progress."""
    from misgiving.predictions.predict import TrainedRun
    from misgiving.predictions.record import Predictions
    from misgiving.training.processes import device_named

    with progress_bars() as progress:
        opened = partial(
            TrainedRun,
            device=str(device_named(reading.device)),
            cache=cache or default_cache(),
            on_image=Bar(progress, "preparing images").at,
            on_predicted=Bar(progress, "predicting").at,
            on_bad_image=reading.on_bad_image,
        )
        others = {
            name: Predictions.read(path) if is_prediction_file(path) else opened(path)
            for name, path in (opinions or {}).items()
        }
        yield opened(run, opinions=others, views=views)


def read_file(
    path: Path, deferral: "Deferral | None" = None, opinions: Mapping[str, Path] | None = None
) -> "Predictions":
    """Predictions in a file, which is named where they do not suit the policy, with opinions."""
    from misgiving.predictions.record import Predictions

    classes = None if deferral is None else deferral.classes_
    predictions = Predictions.read(path, classes=classes)
    for name, file in (opinions or {}).items():
        predictions = predictions.with_opinion(Predictions.read(file), name)
    if deferral is not None:
        try:
            deferral.policy_.check_predictions(predictions)
        except DataError as error:
            raise DataError(f"{path}: ", *error.args) from error
    return predictions


@contextmanager
def said_warnings() -> Iterator[None]:
    """Say the warnings of fitting as sentences, but that nothing is accepted, which others say."""
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always", UserWarning)
        warnings.filterwarnings("ignore", "Accepted: nothing")
        yield
    for doubt in doubts:
        say(f"Warning: {doubt.message}.")


def say_left_out(sources: "Iterable[tuple[str, PredictedData]]", *, brief: bool = False) -> None:
    """Report the images of each set that were not predicted, and what was not found.

    If `brief`, only what a user should know of, not what is left out as usual.
    """
    from misgiving.data.decoding import skipped_sentences
    from misgiving.deferral.sentences import lines

    for name, predicted in sources:
        skipped = skipped_sentences(predicted.skipped, predicted.counts.total(), name=name)
        macro = "cautions" if brief else "not_predicted"
        for sentence in (*lines("policy.txt", macro, predicted), *skipped):
            say(sentence)
