"""`misgiving reproduce`."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from misgiving.cli.options import Cache, Count, Fields, Folder, Values, check_options, command
from misgiving.cli.progress import Bar, Steps, Units, progress_bars, say, say_skipped
from misgiving.files import default_cache
from misgiving.reproduction.config import Protocol
from misgiving.training.config import DataConfig, ModelConfig, TrainingConfig

SETTINGS = (
    *("trials", "in_distribution", "unseen", "masks", "learning_rates", "seed"),
    *("models", "scores", "challenger"),
)
IMAGES = ("image_size", "split", "validation_share", "on_bad_image")
TRAINING = (
    *("auxiliary_weight", "margin", "class_weights", "sampling", "epochs", "batch_size"),
    *("learning_rate", "estimator_rate", "device", "precision"),
)


@partial(command, brief=True)
def reproduce(
    *,
    data: str = "digits",
    ood: list[str] | None = None,
    about: list[str] | None = None,
    tuning_set: str | None = None,
    odin_criterion: Literal["auroc", "fpr_at_tpr95"] | None = None,
    out: Folder = Path("runs/reproduce"),
    jobs: Count = None,
    threads: Count = None,
    ray: str | None = None,
    gpus_per_unit: Annotated[float | None, Parameter(validator=Number(gte=0))] = None,
    protocol: Annotated[Values, Fields(Protocol, SETTINGS, defaults={})],
    images: Annotated[Values, Fields(DataConfig, IMAGES, defaults={})],
    network: Annotated[
        Values, Fields(ModelConfig, ("backbone", "pretrained", "weights"), defaults={})
    ],
    training: Annotated[Values, Fields(TrainingConfig, TRAINING, defaults={})],
    experiment: str | None = None,
    trial: int | None = None,
    model: str | None = None,
    collect: bool = False,
    cache: Cache = None,
) -> None:
    """Run the paper's three experiments over trials and write the report.

    Sections 4.1 (generalisation), 4.2 (OOD detection with ODIN) and 4.3 (unseen classes), for the
    plain classifier (vanilla), joint training with a squared error (mse), a ranking estimator that
    does not affect the classifier (detached) and the paper's joint training (proposed). Options
    that you omit default to the protocol for DATA. Writes `results.csv`, `intervals.csv`,
    `report.html` and figures. Finished units of work are kept: the same command resumes, and other
    settings are refused.

    On a cluster, let each job run one unit with --experiment, --trial and --model, all with the
    same --out; then run the same command with --collect. With --ray, one command runs all of them.

    Example: misgiving reproduce --data isic2019:ISIC_2019 --ood nct=CRC-VAL-HE-7K

    Args:
        data: As for `train`; `digits` ships with scikit-learn.
        ood: An OOD set: a folder of images, `table:FILE`, `medmnist:FILE.npz` or
            `scikit-image` (its photographs). The names nct, b_box, b_box_70, b_box_70_image,
            imagenet, clin_skin and derm_skin are for the paper's sets as published, which replace
            those made here; for a stand-in, write PAPER_NAME:OWN_NAME=PLACE. Can be repeated.
        about: Content of an --ood set and the number of its sources, for the report.
        tuning_set: OOD set that ODIN is tuned on. Default: nct or its stand-in.
        odin_criterion: Tune ODIN for the highest AUROC, or for the lowest FPR@TPR95; the paper
            names neither.
        out: Folder to write to, and to resume in.
        jobs: Units of work to run at the same time, each in a process with the memory of a
            training. Default: one for each core, at most 8; on a GPU, one. Intervals are computed
            in as many processes, which a GPU does not limit.
        threads: Threads of each unit; they affect the rounding of sums. Default: torch's own number
            for one job, an equal share of the cores for several, one on Ray.
        ray: Run units on a Ray cluster; `auto` for the one on this machine, or a new one.
        gpus_per_unit: GPUs of each unit on Ray, such as 0.5. Default: 0 with --device cpu, else 1.
        experiment: Run only units of generalization, ood_detection (which new_classes shares), or
            learning_rate (other rates), without a report.
        trial: Run only units of this trial.
        model: Run only units of this model.
        collect: Only write the report, from finished units.
    """
    from misgiving.reproduction.collection import collect as collect_units
    from misgiving.reproduction.protocol import chosen_units, ood_sources, protocol_for
    from misgiving.reproduction.report.page import write_report
    from misgiving.reproduction.report.run import read_run
    from misgiving.reproduction.runner import jobs_for, on_this_machine, reproduce_units
    from misgiving.reproduction.trial_data import Progress, TrialData
    from misgiving.reproduction.workers import usual_jobs

    selected: Values = {"experiment": experiment, "trial": trial, "model": model}
    is_partial = any(value is not None for value in selected.values())
    chosen_protocol = protocol_for(
        data,
        model=network,
        training=training,
        images=images,
        odin={"criterion": odin_criterion} if odin_criterion else {},
        sources=ood_sources(ood or (), about or ()),
        tuning_set=tuning_set,
        **protocol,
    )
    chosen = chosen_units(chosen_protocol, **selected)
    if collect:
        check_options("with --collect", unused=[*selected, "ray", "gpus_per_unit", "threads"])
    elif ray is None:
        check_options("without --ray", unused=["gpus_per_unit"])
        usual = jobs_for(chosen_protocol, len(chosen))
        run = on_this_machine(jobs=jobs or usual, threads=threads)
    else:
        from misgiving.reproduction.ray import on_ray

        check_options("with --ray", unused=["jobs"])
        run = on_ray(ray, threads=threads or 1, gpus_per_unit=gpus_per_unit)
    with progress_bars("stopped; the same command resumes") as progress:
        units, steps = Units(progress, "units"), Steps(progress, "training")
        callbacks = Progress(
            on_start=units.start,
            on_unit=units.show,
            on_step=steps.show,
            on_image=Bar(progress, "preparing images").at,
        )
        # else nothing may be to train
        begins = not (collect or ray or (out / "units").exists())
        place = cache or default_cache()
        trial_data = TrialData(chosen_protocol, place, callbacks, trains=begins)
        say_skipped(trial_data.images.skipped)
        if not collect:
            reproduce_units(trial_data, out, run=run, chosen=chosen)
        if not is_partial:
            say("collecting: resampling for intervals, and examples; this may take a minute")
            collect_units(trial_data, out, jobs=jobs or usual_jobs())
    say(f"wrote {out if is_partial else write_report(read_run(out), out)}")
