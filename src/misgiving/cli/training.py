"""`misgiving train`."""

import os
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from misgiving.cli.bad_images import say_skipped
from misgiving.cli.options import (
    Cache,
    Data,
    Device,
    Devices,
    Nodes,
    OnBadImage,
    Split,
    cache_folder,
    say,
)
from misgiving.cli.progress import Bar, Steps, progress_bars
from misgiving.errors import UsageError


def train(
    data: Data,
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder to write the run to.")],
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side of the square images in pixels. Default: 224.", rich_help_panel="Data"
        ),
    ] = None,
    crop: Annotated[
        float | None,
        typer.Option(
            help="Share of both sides that the centre crop keeps. Default: 0.85.",
            rich_help_panel="Data",
        ),
    ] = None,
    color_constancy: Annotated[
        str | None,
        typer.Option(
            help="shades_of_gray, gray_world or none. Default: shades_of_gray.",
            rich_help_panel="Data",
        ),
    ] = None,
    augment: Annotated[
        bool,
        typer.Option(
            help="Flips, colour jitter, rotation and translation.", rich_help_panel="Data"
        ),
    ] = True,
    split: Split = "paper",
    validation_share: Annotated[
        float,
        typer.Option(
            help="Share of the images, drawn by class, that the paper's split holds out.",
            rich_help_panel="Data",
        ),
    ] = 0.1,
    on_bad_image: OnBadImage = "fail",
    cache: Cache = None,
    backbone: Annotated[
        str, typer.Option(help="Any timm model, or vgg16_mini.", rich_help_panel="Model")
    ] = "vgg16",
    pretrained: Annotated[
        bool, typer.Option(help="Start from timm's ImageNet weights.", rich_help_panel="Model")
    ] = True,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Start from a local safetensors file or torch state dict (timm's names) instead.",
            rich_help_panel="Model",
        ),
    ] = None,
    dropout: Annotated[float, typer.Option(help="Dropout rate.", rich_help_panel="Model")] = 0.4,
    taps: Annotated[
        str | None,
        typer.Option(
            metavar="I,J,...",
            help="timm feature levels that the loss estimator reads. Default: the paper's four of "
            "a VGG, the last four elsewhere.",
            rich_help_panel="Model",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Train a column of `reproduce`: vanilla, mse, detached, proposed or "
            "proposed+logits. Decides --auxiliary, --joint-epochs and --reads-logits.",
            rich_help_panel="Objective",
        ),
    ] = None,
    reads_logits: Annotated[
        bool,
        typer.Option(
            "--reads-logits",
            help="Give the loss estimator one more tap: the classifier's own output (detached).",
            rich_help_panel="Model",
        ),
    ] = False,
    auxiliary: Annotated[
        str,
        typer.Option(
            help="What the loss estimator learns: ranking (Eq. 1), mse, or none for the plain "
            "classifier.",
            rich_help_panel="Objective",
        ),
    ] = "ranking",
    auxiliary_weight: Annotated[
        float, typer.Option(help="Lambda of Eq. 2.", rich_help_panel="Objective")
    ] = 0.5,
    margin: Annotated[
        float, typer.Option(help="Gamma of Eq. 1.", rich_help_panel="Objective")
    ] = 1.0,
    pairs: Annotated[
        str, typer.Option(help="all ordered pairs, or halves.", rich_help_panel="Objective")
    ] = "all",
    reduction: Annotated[
        str, typer.Option(help="mean or sum over the pairs.", rich_help_panel="Objective")
    ] = "mean",
    target: Annotated[
        str,
        typer.Option(
            help="The estimator learns the loss as trained on (with class weights) or the plain "
            "one: trained or plain.",
            rich_help_panel="Objective",
        ),
    ] = "trained",
    joint_epochs: Annotated[
        int | None,
        typer.Option(
            help="Epochs in which the estimator's gradient enters the backbone; 0 for never. "
            "Default: always.",
            rich_help_panel="Objective",
        ),
    ] = None,
    class_weights: Annotated[
        str,
        typer.Option(
            help="Weigh the loss by class frequency: inverse, sqrt or none.",
            rich_help_panel="Objective",
        ),
    ] = "inverse",
    primary_mean: Annotated[
        str,
        typer.Option(
            help="Mean of the weighted cross-entropy: weighted (by the sum of weights) or plain.",
            rich_help_panel="Objective",
        ),
    ] = "weighted",
    sampling: Annotated[
        str,
        typer.Option(
            help="Draw images by class frequency: inverse, sqrt or none.",
            rich_help_panel="Optimisation",
        ),
    ] = "inverse",
    epochs: Annotated[
        int, typer.Option(help="Passes over the data.", rich_help_panel="Optimisation")
    ] = 50,
    batch_size: Annotated[
        int, typer.Option(help="Images in one step.", rich_help_panel="Optimisation")
    ] = 64,
    learning_rate: Annotated[
        float, typer.Option(help="Adam's, at the start.", rich_help_panel="Optimisation")
    ] = 1e-4,
    decay_every: Annotated[
        int, typer.Option(help="Epochs between reductions.", rich_help_panel="Optimisation")
    ] = 10,
    decay_factor: Annotated[
        float, typer.Option(help="What a reduction multiplies by.", rich_help_panel="Optimisation")
    ] = 0.5,
    estimator_rate: Annotated[
        float,
        typer.Option(
            help="The loss estimator's learning rate as a multiple of the classifier's.",
            rich_help_panel="Optimisation",
        ),
    ] = 1.0,
    beta1: Annotated[
        float, typer.Option(help="Adam's first moment.", rich_help_panel="Optimisation")
    ] = 0.9,
    weight_decay: Annotated[
        float, typer.Option(help="Adam's L2 penalty.", rich_help_panel="Optimisation")
    ] = 5e-4,
    keep: Annotated[
        str,
        typer.Option(
            help="Weights of the last epoch, or of the one with the best validation balanced "
            "accuracy: last or best.",
            rich_help_panel="Optimisation",
        ),
    ] = "last",
    seed: Annotated[
        int,
        typer.Option(
            help="The same seed gives the same run (on a CPU).", rich_help_panel="Machine"
        ),
    ] = 0,
    device: Device = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="32-true, bf16-mixed, 16-mixed, ...",
            rich_help_panel="Machine",
        ),
    ] = "32-true",
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the steps with torch.compile: slow to begin, faster where it pays.",
            rich_help_panel="Machine",
        ),
    ] = False,
    devices: Devices = 1,
    nodes: Nodes = 1,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace RUN, or another unfinished one, if it exists."),
    ] = False,
) -> None:
    """Train one classifier together with its loss estimator.

    Splits DATA into a training and a validation part, stratified by class, or by lesion into four
    parts; trains with the paper's settings unless told otherwise; and writes the folder RUN:
    `model.safetensors`, `config.json`, `split.csv` (which image was in which part, and which other
    parts hold its lesion or a copy of it) and `history.csv` (losses, accuracy and how well
    predicted losses follow true ones, per epoch and part).

    The state is kept after every epoch, and at SIGTERM, in RUN.unfinished.safetensors: a training
    that was stopped or killed goes on with the same command.

    Example: misgiving train isic2019:ISIC_2019 --out runs/joint
    """
    from misgiving.data.splits import leakage_sentence
    from misgiving.reproduction.protocol import MODELS, Column
    from misgiving.training.config import TrainingConfig
    from misgiving.workflows.train import ModelSettings, prepare_run, split_of, train_run

    given = locals()
    _refuse_existing(out, overwrite)
    column = Column({}) if model is None else MODELS[model]
    training = TrainingConfig(
        **{field.name: given[field.name] for field in fields(TrainingConfig)}
        | dict(column.training)
    )
    network = ModelSettings(
        backbone=backbone,
        pretrained=pretrained,
        weights=weights,
        dropout=dropout,
        taps=_numbers(taps),
        **{"reads_logits": reads_logits, **column.model},
    )
    preprocessing = {"image_size": image_size, "crop": crop, "color_constancy": color_constancy}
    with progress_bars() as progress:
        run = prepare_run(
            data,
            model=network,
            training=training,
            preprocessing={k: v for k, v in preprocessing.items() if v is not None},
            augment=augment,
            split=split,
            validation_share=validation_share,
            cache=cache_folder(cache),
            on_image=Bar(progress, "preparing images").at,
            on_bad_image=on_bad_image,
        )
        say_skipped(run.images.skipped)
        train_run(
            run,
            out,
            anew=overwrite,
            on_step=Steps(progress, epochs).show,
            on_weights=_say_weights,
            on_found=_say_found,
        )
    _say_history(out / "history.csv")
    say(leakage_sentence(split_of(run), run.evaluation_sets.measured))
    say(f"wrote {out}")


def _numbers(taps: str | None) -> tuple[int, ...] | None:
    if taps is None:
        return None
    try:
        return tuple(int(tap) for tap in taps.split(","))
    except ValueError:
        raise UsageError(f"--taps must be whole numbers parted by commas, got {taps!r}") from None


def _refuse_existing(out: Path, overwrite: bool) -> None:
    """Refuse, before the work is done, a place that cannot or must not be written to."""
    if not os.path.lexists(out):
        probe = next(parent for parent in out.absolute().parents if parent.exists())
        if not (probe.is_dir() and os.access(probe, os.W_OK)):
            raise UsageError(f"{out}: {probe} is not a folder to write to; choose another --out")
    elif not overwrite:
        raise UsageError(f"{out} exists; choose another --out or say --overwrite")
    elif out.is_symlink() or not (out / "split.csv").is_file():
        raise UsageError(f"{out} is not a run; --overwrite replaces nothing else")


def _say_weights(report: object) -> None:
    say(f"weights: {report}")


def _say_found(epoch: int, step: int) -> None:
    say(f"goes on in epoch {epoch}, after step {step}")


def _say_history(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    table = Table(*lines[0].split(","), title="last epoch")
    for line in lines[-2:]:
        table.add_row(*(_short(cell) for cell in line.split(",")))
    Console().print(table)


def _short(cell: str) -> str:
    try:
        return f"{float(cell):.4g}"
    except ValueError:
        return cell
