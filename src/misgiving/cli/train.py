"""`misgiving train`."""

import csv
import os
from pathlib import Path
from typing import Annotated

import typer

from misgiving.cli.failures import say_skipped
from misgiving.cli.options import Cache, Data, Fields, Values, command
from misgiving.cli.progress import (
    Bar,
    Steps,
    progress_bars,
    say,
    show_table,
    silence_all_but_first_process,
)
from misgiving.errors import UsageError
from misgiving.files import check_writable
from misgiving.reproduction.config import MODELS, ModelName, settings_of
from misgiving.training.config import (
    RECIPES,
    DataConfig,
    ModelConfig,
    RecipeName,
    TrainingConfig,
)

IMAGES = Fields(DataConfig, optional=True, defaults={k: v.images for k, v in RECIPES.items()})
NETWORK = Fields(ModelConfig, optional=True, defaults={k: v.model for k, v in RECIPES.items()})
TRAINING = Fields(
    TrainingConfig, optional=True, defaults={k: v.training for k, v in RECIPES.items()}
)


@command
def train(
    data: Data,
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder to write the run to.")],
    images: Annotated[Values, IMAGES],
    network: Annotated[Values, NETWORK],
    training: Annotated[Values, TRAINING],
    cache: Cache,
    recipe: Annotated[
        RecipeName,
        typer.Option(
            help="Settings for what is not given: a small strong network with AdamW, a cosine "
            "schedule and a split by group (modern), or Section 4.1 of the paper (paper)."
        ),
    ] = "modern",
    model: Annotated[
        ModelName | None,
        typer.Option(
            help="Train one of the models that `reproduce` compares, in place of --auxiliary, "
            "--detached, --pairs, --reduction and --reads-logits.",
            rich_help_panel="Objective",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace RUN, or an unfinished training of it."),
    ] = False,
) -> None:
    """Train a classifier together with its loss estimator.

    Splits DATA by group into a training, a tuning, a calibration and a test set, or with
    `--recipe paper` at random into a training and a validation set; says what the calibration set
    can certify (`plan` says more); trains; and writes the folder RUN:
    `model.safetensors`, `config.json`, `split.csv` (the set of every image, and the other sets that
    hold its group or a copy of it) and `history.csv` (losses, accuracy and rank correlation of
    predicted and true losses, per epoch and set).

    The state is saved after every epoch, and at SIGTERM, in RUN.unfinished.safetensors: the same
    command resumes a training that was stopped or killed.

    Example: misgiving train isic2019:ISIC_2019 --out runs/joint
    """
    if model is not None:
        if twice := set().union(*MODELS.values()).intersection([*training, *network]):
            raise UsageError(f"`{min(twice)}` is defined by `model` {model}; leave one of them out")
        training = {**training, **settings_of(model, TrainingConfig)}
        network = {**network, **settings_of(model, ModelConfig)}
    configured = RECIPES[recipe].configure(images, network, training)
    check_replaceable_run(out, overwrite)
    if configured.training.devices * configured.training.nodes > 1:
        silence_all_but_first_process()

    from misgiving.cli.plan import training_outlook
    from misgiving.data.preprocessing import AugmentationSettings
    from misgiving.data.splits import leakage_of
    from misgiving.training.train_run import prepare_training, split_of, train_run

    with progress_bars() as progress:
        setup = prepare_training(
            data,
            **vars(configured),
            cache=cache,
            on_image=Bar(progress, "preparing images").at,
        )
        say_skipped(setup.images.skipped)
        if configured.images.augment and setup.augmentation == AugmentationSettings.none():
            why = "as it is not known which changes keep the class"
            say(f"{data}: images are not augmented, {why}")
        for sentence in training_outlook(setup.images, setup.sets):
            say(sentence)
        train_run(
            setup,
            out,
            overwrite=overwrite,
            on_step=Steps(progress, each_epoch=True).show,
            on_weights=lambda report: say(f"weights: {report}"),
            on_resume=lambda epoch, step: say(f"resuming in epoch {epoch}, after step {step}"),
        )
    show_last_epoch(out / "history.csv")
    measured = setup.evaluation_sets.measured
    say(leakage_of(split_of(setup.images, setup.sets), measured).sentence(measured))
    say(f"wrote {out}")


def check_replaceable_run(out: Path, overwrite: bool) -> None:
    """Check, before any work is done, that a run may be written to this folder."""
    if not os.path.lexists(out):
        check_writable(out, folder=True)
    elif not overwrite:
        raise UsageError(f"{out} exists; choose another --out or use --overwrite")
    elif out.is_symlink() or not (out / "split.csv").is_file():
        raise UsageError(f"{out} is not a run; --overwrite replaces only runs")


def show_last_epoch(history: Path) -> None:
    """Print the last records of a `history.csv` as a table, with a column for each set."""
    with history.open(encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))[-2:]
    names = list(records[0])[2:]
    rows = (
        (name.replace("_", " "), *(_short(record[name]) for record in records)) for name in names
    )
    sets = (record["set"] for record in records)
    show_table(("", *sets), rows, title=f"epoch {records[-1]['epoch']}")


def _short(cell: str) -> str:
    return f"{float(cell):.4g}" if cell else ""
