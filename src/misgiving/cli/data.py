"""`misgiving data`: get, check and prepare images, and build OOD sets from them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from misgiving.cli.bad_images import say_skipped
from misgiving.cli.options import Cache, Data, OnBadImage, Overwrite, cache_folder, say
from misgiving.cli.progress import Bar, Bytes, progress_bars
from misgiving.errors import UsageError

data_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Get, check and prepare images, and build out-of-distribution sets from them.",
)


@data_app.command()
def prepare(
    data: Data,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the square images in pixels.")
    ] = None,
    on_bad_image: OnBadImage = "fail",
    cache: Cache = None,
) -> None:
    """Decode, crop, correct and resize all images once into the cache, as training would."""
    from dataclasses import replace

    from misgiving.data.datasets import load_dataset
    from misgiving.data.loading import prepare as prepare_images

    dataset = load_dataset(data)
    size = image_size or dataset.preprocessing.image_size
    with progress_bars() as progress:
        images = prepare_images(
            dataset,
            replace(dataset.preprocessing, image_size=size),
            cache=cache_folder(cache),
            report=Bar(progress, "preparing images").at,
            on_bad_image=on_bad_image,
        )
    say_skipped(images.skipped)
    say(f"{len(images)} images are prepared; fingerprint {images.fingerprint}")


@data_app.command()
def ood(
    name: Annotated[
        str, typer.Argument(help="b_box, b_box_70, b_box_70_image, derm_skin, or a name of yours.")
    ],
    data: Data,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to write the set to.")],
    place: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE", help="Sample the images of this folder instead of deriving them."
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(help="At most so many images. Default: the paper's count of this set."),
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Lesion masks, or `automatic` to locate lesions."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Leave out the images that this run was trained on."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 0,
    on_bad_image: OnBadImage = "fail",
    overwrite: Overwrite = False,
) -> None:
    """Build an OOD set from dermoscopic images, as PNG files with a manifest and its checksum.

    Without --run, nothing is known of what a model was trained on: give data that is held out.

    Example: misgiving data ood b_box isic2019:ISIC_2019 --run runs/derm --out sets/b_box
    """
    from misgiving.data.datasets import load_dataset
    from misgiving.data.masks import with_masks
    from misgiving.data.ood_sets import readable_set, write_ood_set
    from misgiving.data.splits import without_training_images

    if out.exists() and not (overwrite and (out / "manifest.json").is_file()):
        raise UsageError(f"{out} exists; choose another --out, or replace a set with --overwrite")
    source = with_masks(load_dataset(data), masks)
    if run is not None:
        source = without_training_images(source, run)
    with progress_bars() as progress:
        built, skipped = readable_set(
            name,
            source,
            place=place,
            seed=seed,
            count=count,
            on_bad_image=on_bad_image,
            report=Bar(progress, "checking images").at,
        )
    say_skipped(skipped)
    say(f"{name}: {built.dataset.contents}")
    say(f"wrote {write_ood_set(built, out)}")


@data_app.command()
def audit(
    data: Data,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to write findings. Default: none.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the paper's split that is checked.")] = 0,
) -> None:
    """Check images and labels: counts, damaged files, duplicates, lesions on two sides of a split.

    Counts per class beside the published ones, unreadable files, exact and near duplicates, several
    images of one lesion, lesions that the paper's split would part, and labels that contradict.

    Example: misgiving data audit isic2019:ISIC_2019 --out audit
    """
    from misgiving.data.audit import audit as audit_images
    from misgiving.data.datasets import load_dataset

    with progress_bars() as progress:
        found = audit_images(
            load_dataset(data), seed=seed, report=Bar(progress, "checking images").at
        )
    table = Table("check", "count", "remark")
    for row in found.summary():
        table.add_row(*map(str, row))
    Console().print(table)
    if out is not None:
        say(f"wrote {found.write(out)}")


@data_app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="What to get; `list` names all that there is.")],
    folder: Annotated[Path | None, typer.Argument(help="Where to put it.")] = None,
    mirror: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Take the files from this web folder instead."),
    ] = None,
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Keep zip files beside their content.")
    ] = False,
) -> None:
    """Download a published image set: checked, and resumed where a transfer broke off.

    Shows the licence and what to cite. Run again, it fetches only what is missing.

    Example: misgiving data fetch isic2019 ISIC_2019
    """
    from misgiving.data.fetching import CATALOGUE
    from misgiving.data.fetching import fetch as fetch_set

    if name == "list":
        _list({key: published.description for key, published in CATALOGUE.items()})
        return
    if folder is None:
        raise UsageError(f"name the folder to put it in: misgiving data fetch {name} FOLDER")
    with progress_bars("stopped; the same command goes on from here") as progress:
        fetched = fetch_set(
            name,
            folder,
            report=Bytes(progress).at,
            mirror=mirror,
            keep_archives=keep_archives,
        )
    for path in fetched.written:
        say(f"fetched {path}")
    for path in fetched.found:
        say(f"{path} was there already")
    say(f"licence: {fetched.licence}\nplease cite: {fetched.citation}\nuse it as {fetched.data}")


def _list(descriptions: Mapping[str, str]) -> None:
    table = Table("name", "what it is")
    for name, description in descriptions.items():
        table.add_row(name, description)
    Console().print(table)
