"""`misgiving reproduce`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from misgiving.cli.failures import say_skipped
from misgiving.cli.options import BadImages, Cache, Values, command
from misgiving.cli.progress import Bar, Steps, Units, progress_bars, say
from misgiving.data.config import default_cache
from misgiving.errors import UsageError

if TYPE_CHECKING:
    from misgiving.reproduction.runner import Runner

PROTOCOL, TRAINING, UNITS, MACHINE = "Protocol", "Training", "Single units", "Machine"


@command
def reproduce(
    data: Annotated[
        str,
        typer.Option(metavar="DATA", help="As for `train`; `digits` ships with scikit-learn."),
    ] = "digits",
    *,
    bad: Annotated[Values, BadImages],
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where to write, and to go on.")
    ] = Path("runs/reproduce"),
    trials: Annotated[
        int | None, typer.Option(help="Independent repetitions.", rich_help_panel=PROTOCOL)
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Columns: vanilla, mse, detached, proposed, proposed+logits. Default: all on the "
            "digits, else the first four.",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    in_distribution: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS,...",
            help="Classes of 4.2 and 4.3. Default: the paper's five.",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    unseen: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS,...",
            help="Classes of 4.3 that no model is trained on. Default: the paper's three.",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    ood: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PLACE",
            help="An OOD set: a folder of images, `table:FILE.csv`, `medmnist:FILE.npz` or "
            "`scikit-image` (its photographs). The names nct, imagenet and clin_skin are the "
            "paper's; PAPER'S:NAME=PLACE gives what stands in for one. Can be repeated.",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    about: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TEXT",
            help="What is in an --ood set and from how many sources, for the report.",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    tuning_set: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="OOD set that ODIN is tuned on. Default: nct, or what stands in for it.",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Lesion masks (ID_segmentation.png), or `automatic` to locate lesions. Default: "
            "the masks beside the data, else automatic.",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="paper or grouped.", rich_help_panel="Data")] = "paper",
    validation_share: Annotated[
        float | None,
        typer.Option(help="Share that the paper's split holds out.", rich_help_panel="Data"),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side in pixels.", rich_help_panel="Data")
    ] = None,
    cache: Cache = None,
    backbone: Annotated[
        str | None, typer.Option(help="Any timm model, or vgg16_mini.", rich_help_panel=TRAINING)
    ] = None,
    pretrained: Annotated[
        bool | None,
        typer.Option(help="Start from timm's ImageNet weights.", rich_help_panel=TRAINING),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Start from a local safetensors file or torch state dict instead.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of each training.", rich_help_panel=TRAINING)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images in one step.", rich_help_panel=TRAINING)
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Adam's, at the start.", rich_help_panel=TRAINING)
    ] = None,
    learning_rates: Annotated[
        str | None,
        typer.Option(
            metavar="RATE,...",
            help="Rates that 4.1 is swept over besides; `none` for no sweep. Default on "
            "dermoscopy: 3e-4,1e-3.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    estimator_rate: Annotated[
        float | None,
        typer.Option(
            help="The loss estimator's learning rate as a multiple.", rich_help_panel=TRAINING
        ),
    ] = None,
    class_weights: Annotated[
        str | None,
        typer.Option(help="Of the loss: inverse, sqrt or none.", rich_help_panel=TRAINING),
    ] = None,
    sampling: Annotated[
        str | None,
        typer.Option(help="Of images: inverse, sqrt or none.", rich_help_panel=TRAINING),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Trial t has the seed SEED + t.", rich_help_panel=MACHINE)
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or mps.", rich_help_panel=MACHINE)
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Of training: 32-true, bf16-mixed, ...", rich_help_panel=MACHINE),
    ] = None,
    jobs: Annotated[
        int, typer.Option(help="Units of work at one time.", rich_help_panel=MACHINE)
    ] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads of each unit; sums round by it. Default: torch's own number for one "
            "job, an equal share of the cores for several, one on Ray.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run units on a Ray cluster; `auto` for the one on this machine, or a new one.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    gpus_per_unit: Annotated[
        float | None,
        typer.Option(
            help="On Ray: GPUs of each unit, such as 0.5. Default: 0 on the cpu, else 1.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    experiment: Annotated[
        str | None,
        typer.Option(
            help="Only units of generalization, ood_detection (which new_classes shares) or "
            "learning_rate; no report.",
            rich_help_panel=UNITS,
        ),
    ] = None,
    trial: Annotated[
        int | None, typer.Option(help="Only units of this trial.", rich_help_panel=UNITS)
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Only units of this model.", rich_help_panel=UNITS)
    ] = None,
    collect: Annotated[
        bool,
        typer.Option(
            "--collect",
            help="Only make the report, of all that is finished.",
            rich_help_panel=UNITS,
        ),
    ] = False,
) -> None:
    """Run the paper's three experiments over trials and write the report.

    Sections 4.1 (generalisation), 4.2 (OOD detection with ODIN) and 4.3 (unseen classes), for the
    plain classifier (vanilla), joint training with a squared error (mse), a ranking estimator that
    does not touch the classifier (detached) and the paper's joint training (proposed). Writes
    `results.csv`, `intervals.csv`, `report.html` and figures. Finished units of work are kept:
    run again, it goes on where it stopped, and does nothing where nothing has changed.

    On a cluster, let each job run one unit with --experiment, --trial and --model, all into one
    folder; then the same command with --collect. With --ray, one command runs all of them.

    Example: misgiving reproduce --data isic2019:ISIC_2019 --ood nct=CRC-VAL-HE-7K
    """
    from misgiving.report.page import write_report
    from misgiving.reproduction import aggregate
    from misgiving.reproduction.ood_sources import ood_places
    from misgiving.reproduction.protocol import chosen_units, protocol_for
    from misgiving.reproduction.runner import reproduce_units
    from misgiving.reproduction.trial_data import Progress, TrialData

    one_unit = any(choice is not None for choice in (experiment, trial, model))
    if collect and one_unit:
        raise UsageError("--collect takes all finished units; leave out --experiment and the like")
    protocol = protocol_for(
        data,
        model={"backbone": backbone, "pretrained": pretrained, "weights": weights},
        training={
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "estimator_rate": estimator_rate,
            "class_weights": class_weights,
            "sampling": sampling,
            "device": device,
            "precision": precision,
        },
        preprocessing={"image_size": image_size},
        places=ood_places(ood or (), about or ()),
        tuning_set=tuning_set,
        trials=trials,
        models=_names(models),
        in_distribution=_names(in_distribution),
        unseen=_names(unseen),
        masks=masks,
        split=split,
        validation_share=validation_share,
        **bad,
        learning_rates=_rates(learning_rates),
        seed=seed,
    )
    chosen = chosen_units(protocol, experiment=experiment, trial=trial, model=model)
    run = None if collect else _runner(jobs, threads, ray, gpus_per_unit)
    with progress_bars() as progress:
        units, steps = Units(progress), Steps(progress, protocol.training.epochs)
        callbacks = Progress(
            on_start=units.start,
            on_unit=units.show,
            on_step=steps.show,
            on_image=Bar(progress, "preparing images").at,
        )
        trial_data = TrialData(protocol, cache or default_cache(), callbacks)
        say_skipped(trial_data.images.skipped)
        for sentence in trial_data.leakage():
            say(sentence)
        if not collect:
            reproduce_units(trial_data, out, run=run, chosen=chosen)
        if not one_unit:
            say("collecting: intervals by resampling, and examples; this takes a minute or more")
            aggregate.collect(trial_data, out)
    say(f"wrote {out if one_unit else write_report(out)}")


def _runner(jobs: int, threads: int | None, ray: str | None, gpus: float | None) -> "Runner":
    """Where units run."""
    if ray is None:
        from misgiving.reproduction.runner import on_this_machine

        if gpus is not None:
            raise UsageError("--gpus-per-unit is of Ray; leave it out, or name a cluster by --ray")
        return on_this_machine(jobs=jobs, threads=threads)
    from misgiving.reproduction.ray import on_ray

    if jobs != 1:
        raise UsageError("--ray runs as many units as the cluster has room for; leave out --jobs")
    return on_ray(ray, threads=threads, gpus=gpus)


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(","))


def _rates(text: str | None) -> tuple[float, ...] | None:
    if text is None or text == "none":
        return None if text is None else ()
    try:
        return tuple(float(rate) for rate in text.split(","))
    except ValueError:
        raise UsageError(
            f"--learning-rates must be numbers parted by commas, or none, got {text!r}"
        ) from None
