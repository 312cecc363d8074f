"""`misgiving data`: get, check and prepare images, and build OOD sets from them."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from misgiving.cli.failures import say_skipped
from misgiving.cli.options import (
    DATA,
    PREDICTION_FILE,
    BadImages,
    Cache,
    Context,
    Data,
    Device,
    Fields,
    Values,
    command,
    is_prediction_file,
    seed_option,
)
from misgiving.cli.progress import Bar, Bytes, progress_bars, say, show_table
from misgiving.cli.sources import read_source
from misgiving.errors import DataError, UsageError
from misgiving.files import check_not_input, check_writable
from misgiving.training.config import DataConfig

if TYPE_CHECKING:
    from misgiving.evaluation.suspect_labels import LabelReview

data_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Get, check and prepare images, and build out-of-distribution sets from them.",
)


@data_app.command()
@command
def prepare(
    data: Data,
    settings: Annotated[Values, Fields(DataConfig, ("image_size", "on_bad_image"))],
    cache: Cache,
) -> None:
    """Decode, crop, correct and resize all images once into the cache, as training would."""
    from misgiving.data.cache import prepare as prepare_images
    from misgiving.data.datasets import load_dataset

    config = DataConfig(**settings)
    dataset = load_dataset(data)
    with progress_bars() as progress:
        images = prepare_images(
            dataset,
            replace(dataset.preprocessing, **config.preprocessing),
            cache=cache,
            report=Bar(progress, "preparing images").at,
            on_bad_image=config.on_bad_image,
        )
    say_skipped(images.skipped)
    say(f"prepared {len(images)} images; fingerprint {images.fingerprint}")


@data_app.command()
@command
def ood(
    name: Annotated[
        str,
        typer.Argument(help="b_box, b_box_70, b_box_70_image, derm_skin, or a name of your own."),
    ],
    data: Data,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to write the set to.")],
    settings: Annotated[Values, BadImages],
    place: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE", help="Folder or data to sample from, instead of deriving images."
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(help="Maximum number of images. Default: as many as the paper used."),
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Lesion masks, or `automatic` to locate lesions."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Leave out the images that this run was trained on."),
    ] = None,
    seed: Annotated[int, seed_option("The same seed gives the same files.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing set.")
    ] = False,
) -> None:
    """Build an OOD set from dermoscopic images, as PNG files with a manifest and its checksum.

    Without --run, give held-out data: the command cannot know what a model was trained on.

    Example: misgiving data ood b_box isic2019:ISIC_2019 --run runs/derm --out sets/b_box
    """
    from misgiving.data.datasets import load_dataset
    from misgiving.data.ood_sets import readable_set, write_ood_set
    from misgiving.data.ood_sets.lesions import with_masks

    if out.exists() and not (overwrite and (out / "manifest.json").is_file()):
        raise UsageError(f"{out} exists; choose another --out, or replace a set with --overwrite")
    if masks is not None and place is not None:
        raise UsageError("`masks` has no effect with `place`; leave one of them out")
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


@data_app.command()
@command
def check(
    context: Context,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA|PREDICTIONS",
            help=f"{DATA} Or a {PREDICTION_FILE}",
        ),
    ],
    settings: Annotated[Values, BadImages, Device],
    cache: Cache,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for the findings. Default: none.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Also list suspect labels, by this trained run."),
    ] = None,
    seed: Annotated[
        int, seed_option("Seed of the paper's split that is checked, and of folds.")
    ] = 0,
) -> None:
    """Check images and labels: counts, damaged files, duplicates, wrong labels.

    Compares the counts by class with the published ones, and reports unreadable files, exact and
    near duplicates, groups of several images, groups that the paper's split would put into both of
    its sets, contradictory labels, and images of unusual size or that are nearly black.

    With --model, or for a file of predictions, also lists images whose label is probably wrong,
    most suspect first, in `suspect_labels.csv`: the given label, the suggested class, the score
    (from 0.5 to 1) and the reason. A model knows the labels that it was trained on: for images of
    its training set (in a file, `train` in the column `set`) logistic regressions on the features
    are cross-fitted instead. Where there are features, the labels of similar images count as well.
    `misgiving serve --cases` opens the list.

    Example: misgiving data check isic2019:ISIC_2019 --model runs/derm --out findings
    """
    if out is not None:
        _check_outputs(out, data)
    is_file = is_prediction_file(Path(data))
    _check_places(Path(data), model)
    if not is_file:
        _check_images(data, out, seed)
    if is_file or model is not None:
        from misgiving.evaluation.suspect_labels import suspect_labels

        place, images = (Path(data), None) if model is None else (model, data)
        source = read_source(context, place, images, settings, cache=cache)
        for sentence in source.summary:
            say(sentence)
        _show_suspects(suspect_labels(source.predictions, seed=seed), out)


def _check_outputs(out: Path, data: str) -> None:
    """Check that the folder can be written to, and that findings replace nothing that is read."""
    from misgiving.data.check import FINDINGS_FILE, REPORT_FILE
    from misgiving.data.datasets import tables_of
    from misgiving.evaluation.suspect_labels import SUSPECTS_FILE

    check_writable(out, folder=True)
    inputs = [Path(data)] if is_prediction_file(Path(data)) else tables_of(data)
    for name in (REPORT_FILE, FINDINGS_FILE, SUSPECTS_FILE):
        check_not_input(out / name, inputs)


def _check_places(folder: Path, model: Path | None) -> None:
    """Refuse a model in place of data, and anything but a run as the model of images."""
    if model is not None and is_prediction_file(folder):
        raise UsageError(f"{folder} is a file of predictions; leave out `model`")
    if model is not None and not (model / "split.csv").is_file():
        raise DataError(f"{model}: is not a run; give a folder that `train` wrote")
    if (folder / "split.csv").is_file():
        raise UsageError(f"{folder} is a run, not data; give DATA, and the run as `model`")
    if (folder / "config.json").is_file():
        raise UsageError(
            f"{folder} is a model in Hugging Face's format, not data; `misgiving attach {folder} "
            "DATA --out RUN` makes a run of it: then give DATA, and RUN as `model`"
        )


SHOWN = 20  # suspect labels on the screen


def _check_images(data: str, out: Path | None, seed: int) -> None:
    from misgiving.data.check import data_check
    from misgiving.data.datasets import load_dataset

    with progress_bars() as progress:
        report = Bar(progress, "checking images").at
        result = data_check(load_dataset(data), seed=seed, report=report)
    show_table(("check", "count", "remark"), result.summary())
    if out is not None:
        result.write(out)
        say(f"wrote {out}")


def _show_suspects(review: "LabelReview", out: Path | None) -> None:
    from misgiving.evaluation.suspect_labels import SUSPECTS_FILE

    rows = [(row.path or row.id, *row[2:5], row.why) for row in review.suspects]
    header = ("image", "label", "suggested class", "score", "why")
    whole = None if out is None else out / SUSPECTS_FILE
    if whole is not None:
        review.write(whole)
    if rows:
        show_table(header, rows[:SHOWN], title="suspect labels", whole=whole)
    if review.unlabelled:
        say(f"left out: {review.unlabelled} images without a label")
    if review.not_judged:
        say(
            f"left out: {review.not_judged} images that the model was trained on, as there are no "
            "features to cross-fit"
        )
    say(f"{len(review.suspects)} of {review.judged} labels are suspect")
    if whole is not None:
        say(f"wrote {whole}")


@data_app.command()
@command
def fetch(
    name: Annotated[str, typer.Argument(help="Name of the image set; `list` shows all names.")],
    folder: Annotated[Path | None, typer.Argument(help="Folder to write it to.")] = None,
    mirror: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Download from this web folder instead."),
    ] = None,
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Keep zip files after unpacking.")
    ] = False,
) -> None:
    """Download a published image set, with checksums; interrupted transfers are resumed.

    Shows the licence and the publication to cite. A second call fetches only missing files.

    Example: misgiving data fetch isic2019 ISIC_2019
    """
    from misgiving.data.download import CATALOGUE
    from misgiving.data.download import fetch as fetch_set

    if name == "list":
        descriptions = ((key, published.description) for key, published in CATALOGUE.items())
        show_table(("name", "description"), descriptions)
        return
    if folder is None:
        raise UsageError(f"give the folder to write to: misgiving data fetch {name} FOLDER")
    with progress_bars("stopped; the same command resumes") as progress:
        report = Bytes(progress).at
        new = fetch_set(name, folder, report=report, mirror=mirror, keep_archives=keep_archives)
    published = CATALOGUE[name]
    for path in (folder / file.result for file in published.files):
        say(f"fetched {path}" if path in new else f"{path} exists already")
    say(f"licence: {published.licence}\nplease cite: {published.citation}")
    say(f"use it as {published.data.format(folder=folder)}")
