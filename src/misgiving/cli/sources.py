"""Predictions that a command works on: of a run for DATA, or those in a file."""

import re
import warnings
from collections import Counter
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
    from misgiving.data.datasets.dataset import Dataset, LabelledImages
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
        images: Further parameters that have no effect on a file of predictions; a run needs `pool`
            if it is among them.
        files: Parameters that have an effect only on a file of predictions.
        needed: Parameters that a file of predictions needs.
    """
    if is_file := is_prediction_file(source):
        unused = ("strict", "on_bad_image", "cache", "device", *images)
        check_options(f"for {source}, a file of predictions", needed=needed, unused=unused)
    else:
        case = f"for {source}, which is not a file of predictions"
        check_options(case, needed=[name for name in images if name == "pool"], unused=files)
    return is_file


def load_data(data: "str | Dataset", *, strict: bool) -> "Dataset":
    """The data set of this name; says what is ignored of its folder, or fails if `strict`."""
    from misgiving.data.datasets import load_dataset
    from misgiving.data.decoding import ignored_sentences

    dataset = load_dataset(data)
    ignored = ignored_sentences(dataset.ignored)
    empty = [f"no images in class folder {name}" for name in dataset.empty]
    if strict and (about := "; ".join([*ignored, *empty])):
        remedy = "; remove or convert them, or leave out "
        raise DataError(f"{dataset.name}: {about}{remedy}", Parameter("strict"))
    for sentence in (*ignored, *(f"Warning: {each}, which is left out" for each in empty)):
        say(sentence)
    return dataset


def load_images(places: Sequence[Path], *, strict: bool) -> "Dataset":
    """Images without labels, likewise."""
    from misgiving.data.datasets import unlabelled_images

    images = unlabelled_images(places, name=", ".join(map(str, places)))
    return load_data(images, strict=strict)


def say_split(images: "LabelledImages", sets: Sequence[str]) -> None:
    """Say which published sets the sets of a split come from, if the data have some."""
    if images.sets:
        counts = Counter(zip(sets, images.sets, strict=True))
        parts = [
            f"{name} {count}" + (f" of {source}" if source != name else "")
            for (name, source), count in sorted(counts.items())
        ]
        say(f"split of the data: {', '.join(parts)} (images)")


def pool_of(trained: "TrainedRun", folder: str, *, strict: bool) -> "PredictedData":
    """Predictions of a run for a folder of images without labels."""
    place = Path(folder.removeprefix("folder:"))
    images = load_images([place], strict=strict)
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
            deferral.check_predictions(predictions)
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
