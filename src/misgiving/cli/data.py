"""`misgiving data`: get, check and prepare images, and build OOD sets from them."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from misgiving.cli.options import (
    Cache,
    Count,
    Data,
    DataOrPredictions,
    Fields,
    Folder,
    Reading,
    Run,
    Seed,
    Values,
    check_not_input,
    check_options,
    command,
)
from misgiving.cli.progress import Bar, progress_bars, say, say_skipped, show_table
from misgiving.cli.sources import check_source, load_data, open_run, read_file, say_left_out
from misgiving.files import check_replaceable, check_writable, default_cache
from misgiving.training.config import DataConfig

if TYPE_CHECKING:
    from misgiving.data.datasets.dataset import Dataset
    from misgiving.evaluation.suspect_labels import LabelReview
    from misgiving.predictions.record import Predictions

MEGABYTE = 10**6
SHOWN = 20  # suspect labels on the screen
SAMPLE_SETS = {"train": 97, "tune": 300, "calibrate": 800, "test": 600}  # digits


@command
def sample(place: Path, /, *, new: bool = False) -> None:
    """Write handwritten digits to try the commands on, or a classifier's predictions for them.

    Example: misgiving data sample photos

    Args:
        place: Folder for PNG files in class folders, or a .csv file for predictions.
        new: Write digits that are not in the sample, as new images.
    """
    from misgiving.data.datasets import write_sample

    if place.suffix == ".csv":
        predictions = _sample_predictions()
        predictions.write(place)
        say(f"wrote {len(predictions)} predictions to {place}")
    else:
        write_sample(place, new=new)
        say(f"wrote {place}; use it as folder:{place}")


def _sample_predictions() -> "Predictions":
    """Predictions for the sets tune, calibrate and test, by a logistic regression of `train`."""
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    from misgiving.predictions.record import Predictions

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    sets = np.repeat(list(SAMPLE_SETS), list(SAMPLE_SETS.values()))
    learned, others = order[sets == "train"], order[sets != "train"]
    model = LogisticRegression(max_iter=1000).fit(pixels[learned], labels[learned])
    return Predictions.of(
        {
            "set": sets[sets != "train"].tolist(),
            "label": labels[others],
            "logits": model.decision_function(pixels[others]),
            "classes": [str(number) for number in model.classes_],
        }
    )


@command
def prepare(
    data: Data,
    /,
    *,
    settings: Annotated[Values, Fields(DataConfig, ("image_size", "on_bad_image"))],
    cache: Cache = None,
) -> None:
    """Decode, crop, correct and resize all images once into the cache, as training would."""
    from misgiving.data.cache import prepare as prepare_images
    from misgiving.data.datasets import load_dataset

    config = DataConfig(**settings)
    dataset = load_dataset(data)
    with progress_bars() as progress:
        images = prepare_images(
            dataset,
            replace(dataset.preprocessing, **config.preprocessing_changes),
            cache=cache or default_cache(),
            report=Bar(progress, "preparing images").at,
            on_bad_image=config.on_bad_image,
        )
    say_skipped(images.skipped)
    say(f"prepared {len(images)} images; fingerprint {images.fingerprint}")


@command
def ood(
    name: str,
    data: Data,
    /,
    *,
    out: Folder,
    settings: Annotated[Values, Fields(DataConfig, ("on_bad_image",))],
    place: str | None = None,
    count: Count = None,
    masks: str | None = None,
    run: Run | None = None,
    seed: Seed = 0,
    overwrite: bool = False,
) -> None:
    """Build an OOD set from dermoscopic images, as PNG files with a manifest and its checksum.

    Without --run, give held-out data: the command cannot know what a model was trained on.

    Example: misgiving data ood b_box isic2019:ISIC_2019 --run runs/derm --out sets/b_box

    Args:
        name: b_box, b_box_70, b_box_70_image, derm_skin, or a name of your own.
        out: Folder to write the set to.
        place: Folder or data to sample from, instead of deriving images.
        count: Maximum number of images. Default: as many as the paper used.
        masks: Lesion masks, or `automatic` to locate lesions.
        run: Leave out the images that this run was trained on.
        seed: The same seed gives the same files.
        overwrite: Replace an existing set.
    """
    from misgiving.data.datasets import load_dataset, write_ood_set
    from misgiving.reproduction.ood_sets import readable_set
    from misgiving.reproduction.ood_sets.lesions import with_masks

    check_replaceable(out, "manifest.json", overwrite=overwrite)
    source = with_masks(load_dataset(data), masks)
    with progress_bars() as progress:
        built, skipped = readable_set(
            name,
            source,
            place=place,
            seed=seed,
            count=count,
            run=run,
            report=Bar(progress, "checking images").at,
            **settings,
        )
    say_skipped(skipped)
    say(f"{name}: {built.contents}")
    say(f"wrote {write_ood_set(built, out, seed=seed)}")


@command
def check(
    data: DataOrPredictions,
    /,
    *,
    reading: Reading,
    cache: Cache = None,
    out: Folder | None = None,
    model: Run | None = None,
) -> None:
    """Check images and labels: counts, damaged files, duplicates, wrong labels.

    Counts the images of each class, and reports unreadable files, exact and near duplicates, groups
    of several images, contradictory labels, and images that are nearly black.

    With --model, or for a file of predictions, also lists the images with the most doubtful labels,
    most suspect first, in `suspect_labels.csv`: the given label, the suggested class, the score
    (from 0.5 to 1) and the reason. For images that the model was trained on (in a file, `train` in
    the column `set`) logistic regressions on the features are cross-fitted instead.

    Example: misgiving data check isic2019:ISIC_2019 --model runs/derm --out findings

    Args:
        out: Folder for the findings. Default: none.
        model: Also list suspect labels, by this trained run.
    """
    from misgiving.data.check import FINDINGS_FILE
    from misgiving.data.datasets import tables_of
    from misgiving.evaluation.suspect_labels import SUSPECTS_FILE, suspect_labels

    is_file = check_source(data, images=["model"])
    if out is not None:
        check_writable(out, folder=True)
        for name in (FINDINGS_FILE, SUSPECTS_FILE):
            check_not_input(out / name, [Path(data)] if is_file else tables_of(data))
    if is_file:
        predictions = read_file(Path(data))
    else:
        if model is None:
            check_options("without --model", unused=["device", "on_bad_image"])
        dataset = load_data(data, strict=reading.strict)
        _show_findings(dataset, out)
        if model is None:
            return
        with open_run(model, reading, cache=cache) as trained:
            source = trained.predict(dataset)
        say_left_out([(data, source)])
        predictions = source.predictions
    review = suspect_labels(predictions)
    _show_suspects(review, None if out is None else out / SUSPECTS_FILE)


def _show_findings(dataset: "Dataset", out: Path | None) -> None:
    from misgiving.csv_tables import write_csv
    from misgiving.data.check import FINDING_COLUMNS, FINDINGS_FILE, data_check

    with progress_bars() as progress:
        report = Bar(progress, "checking images").at
        summary, findings = data_check(dataset, report=report)
    show_table(("check", "count", "remark"), summary)
    if out is not None:
        write_csv(out / FINDINGS_FILE, FINDING_COLUMNS, findings)
        say(f"wrote {out}")


def _show_suspects(review: "LabelReview", file: Path | None) -> None:
    header = ("image", "label", "suggested class", "score", "why")
    rows = [(row.path or row.id, *row[2:5], row.why) for row in review.suspects[:SHOWN]]
    if rows:
        show_table(header, rows, title="suspect labels")
    if review.unlabelled or review.not_judged:
        why = f"{review.not_judged} of the training without features to cross-fit"
        say(f"left out: {review.unlabelled} images without a label, {why}")
    say(
        f"{len(review.suspects)} of {review.judged} labels are doubtful: another class is more "
        "probable. Most of them may be right, above all of rare classes"
    )
    if file is not None:
        review.write(file)
        say(f"wrote {file}")


@command
def fetch(name: str, folder: Path, /, *, mirror: str | None = None) -> None:
    """Download a published image set, with checksums; interrupted transfers are resumed.

    Shows what it is, the licence and the publication to cite. A second call fetches only missing
    files.

    Example: misgiving data fetch isic2019 ISIC_2019

    Args:
        name: isic2019, ham10000, nct, dermamnist, dermamnist_c or pathmnist.
        folder: Folder to write it to.
        mirror: Download from this web folder instead.
    """
    from misgiving.data.download import CATALOGUE
    from misgiving.data.download import fetch as fetch_set

    with progress_bars("stopped; the same command resumes") as progress:
        bar = Bar(progress, "MB")

        def report(file: str, done: int, total: int | None) -> None:
            megabytes = None if total is None else total // MEGABYTE
            bar.at(done // MEGABYTE, megabytes, description=f"{file}, MB")

        new = fetch_set(name, folder, report=report, mirror=mirror)
    published = CATALOGUE[name]
    for path in (folder / file.result for file in published.files):
        say(f"fetched {path}" if path in new else f"{path} exists already")
    say(f"{published.description}\nlicence: {published.licence}\nplease cite: {published.citation}")
    say(f"use it as {published.data.format(folder=folder)}")
