"""`misgiving reproduce`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from misgiving.cli.failures import say_skipped
from misgiving.cli.options import Cache, Fields, Values, command
from misgiving.cli.progress import Bar, Steps, Units, progress_bars, say
from misgiving.errors import UsageError
from misgiving.reproduction.config import MOST_JOBS, ModelName, OdinGrid, Protocol
from misgiving.training.config import DataConfig, ModelConfig, TrainingConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from misgiving.data.splits import SplitLeakage
    from misgiving.reproduction.runner import Runner

SETTINGS = (
    "trials",
    "models",
    "in_distribution",
    "unseen",
    "masks",
    "learning_rates",
    "seed",
)
PROTOCOL, UNITS, MACHINE = "Protocol", "Single units", "Machine"
TRAINING = (
    "auxiliary_weight",
    "margin",
    "class_weights",
    "sampling",
    "epochs",
    "batch_size",
    "learning_rate",
    "estimator_rate",
    "device",
    "precision",
)


@command
def reproduce(
    protocol: Annotated[Values, Fields(Protocol, SETTINGS, optional=True)],
    images: Annotated[
        Values,
        Fields(
            DataConfig, ("image_size", "split", "validation_share", "on_bad_image"), optional=True
        ),
    ],
    network: Annotated[
        Values, Fields(ModelConfig, ("backbone", "pretrained", "weights"), optional=True)
    ],
    training: Annotated[Values, Fields(TrainingConfig, TRAINING, optional=True)],
    odin: Annotated[Values, Fields(OdinGrid, ("criterion",), optional=True)],
    cache: Cache,
    data: Annotated[
        str, typer.Option(metavar="DATA", help="As for `train`; `digits` ships with scikit-learn.")
    ] = "digits",
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder to write to, and to resume in.")
    ] = Path("runs/reproduce"),
    ood: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PLACE",
            help="An OOD set: a folder of images, `table:FILE.csv`, `medmnist:FILE.npz` or "
            "`scikit-image` (its photographs). The names nct, b_box, b_box_70, b_box_70_image, "
            "imagenet, clin_skin and derm_skin are for the paper's sets as published, which "
            "replace those made here; for a stand-in, write PAPER_NAME:OWN_NAME=PLACE. Can be "
            "repeated.",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    about: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TEXT",
            help="Content of an --ood set and the number of its sources, for the report.",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    tuning_set: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="OOD set that ODIN is tuned on. Default: nct or its stand-in.",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Units of work to run at the same time, each in a process with the memory of a "
            f"training. Default: one for each core, at most {MOST_JOBS}; on a GPU, one. Intervals "
            "are computed in as many processes; by default, one for each core.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads of each unit; they affect the rounding of sums. Default: torch's own "
            "number for one job, an equal share of the cores for several, one on Ray.",
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
            min=0.0,
            help="GPUs of each unit on Ray, such as 0.5. Default: 0 with --device cpu, else 1.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    experiment: Annotated[
        str | None,
        typer.Option(
            help="Run only units of generalization, ood_detection (which new_classes shares), "
            "or learning_rate (other rates), without a report.",
            rich_help_panel=UNITS,
        ),
    ] = None,
    trial: Annotated[
        int | None, typer.Option(help="Run only units of this trial.", rich_help_panel=UNITS)
    ] = None,
    model: Annotated[
        ModelName | None, typer.Option(help="Run only units of this model.", rich_help_panel=UNITS)
    ] = None,
    collect: Annotated[
        bool,
        typer.Option(
            "--collect", help="Only write the report, from finished units.", rich_help_panel=UNITS
        ),
    ] = False,
) -> None:
    """Run the paper's three experiments over trials and write the report.

    Sections 4.1 (generalisation), 4.2 (OOD detection with ODIN) and 4.3 (unseen classes), for the
    plain classifier (vanilla), joint training with a squared error (mse), a ranking estimator that
    does not affect the classifier (detached) and the paper's joint training (proposed). Options
    that you omit default to the protocol for DATA. Writes `results.csv`, `intervals.csv`,
    `report.html` and figures. Finished units of work are kept: the same command resumes, and does
    nothing if nothing has changed.

    On a cluster, let each job run one unit with --experiment, --trial and --model, all with the
    same --out; then run the same command with --collect. With --ray, one command runs all of them.

    Example: misgiving reproduce --data isic2019:ISIC_2019 --ood nct=CRC-VAL-HE-7K
    """
    from misgiving.report.reproduction.page import write_report
    from misgiving.reproduction.collection import collect as collect_units
    from misgiving.reproduction.collection import read_run
    from misgiving.reproduction.protocol import chosen_units, ood_sources, protocol_for
    from misgiving.reproduction.runner import reproduce_units
    from misgiving.reproduction.trial_data import Progress, TrialData
    from misgiving.reproduction.workers import usual_jobs

    one_unit = any(choice is not None for choice in (experiment, trial, model))
    if collect and one_unit:
        raise UsageError("--collect needs all units; leave out --experiment, --trial and --model")
    chosen_protocol = protocol_for(
        data,
        model=network,
        training=training,
        images=images,
        odin=odin,
        sources=ood_sources(ood or (), about or ()),
        tuning_set=tuning_set,
        **protocol,
    )
    chosen = chosen_units(chosen_protocol, experiment=experiment, trial=trial, model=model)
    run = None
    if not collect:
        run = _runner(chosen_protocol, len(chosen), jobs, threads, ray, gpus_per_unit)
    with progress_bars() as progress:
        units, steps = Units(progress), Steps(progress)
        callbacks = Progress(
            on_start=units.start,
            on_unit=units.show,
            on_step=steps.show,
            on_image=Bar(progress, "preparing images").at,
        )
        begins = not (collect or ray or (out / "units").exists())  # else nothing may be to train
        trial_data = TrialData(chosen_protocol, cache, callbacks, trains=begins)
        say_skipped(trial_data.images.skipped)
        say_leakage(trial_data.leakage(), trial_data.evaluation_sets.measured)
        if not collect:
            reproduce_units(trial_data, out, run=run, chosen=chosen)
        if not one_unit:
            say("collecting: resampling for intervals, and examples; this may take a minute")
            collect_units(trial_data, out, jobs=jobs or usual_jobs())
            say_unfinished(out)
    say(f"wrote {out if one_unit else write_report(read_run(out), out)}")


def say_leakage(leakage: "Iterable[SplitLeakage]", measured: str) -> None:
    """Report groups and identical images that sets share; trials that share the same together."""
    trials: dict[tuple[str, str], list[str]] = {}
    for row in leakage:
        trials.setdefault((row.experiment, row.sentence(measured)), []).append(str(row.trial))
    for (experiment, sentence), numbers in trials.items():
        say(f"{experiment}, trial{'s' * (len(numbers) > 1)} {', '.join(numbers)}: {sentence}")


def say_unfinished(out: Path) -> None:
    """Report the units that collected numbers do not have, if any."""
    from misgiving.files import read_json
    from misgiving.reproduction.tables import REMEDY

    if missing := read_json(out / "settings.json", remedy=REMEDY)["missing_units"]:
        say(f"unfinished: {len(missing)} units are not in these numbers; the report names them")


def _runner(
    protocol: Protocol,
    count: int,
    jobs: int | None,
    threads: int | None,
    ray: str | None,
    gpus: float | None,
) -> "Runner":
    if ray is None:
        from misgiving.reproduction.runner import jobs_for, on_this_machine

        if gpus is not None:
            raise UsageError("--gpus-per-unit requires --ray")
        return on_this_machine(jobs=jobs or jobs_for(protocol, count), threads=threads)
    from misgiving.reproduction.ray import on_ray

    if jobs is not None:
        raise UsageError("--ray runs as many units as the cluster has room for; leave out --jobs")
    return on_ray(ray, threads=threads or 1, gpus_per_unit=gpus)
