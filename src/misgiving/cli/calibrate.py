"""`misgiving calibrate`."""

from typing import Annotated

import typer

from misgiving.cli.options import BadImages, Cache, Data, Device, RunFolder, Values, command
from misgiving.cli.progress import Bar, progress_bars, say
from misgiving.data.config import default_cache
from misgiving.errors import UsageError

TARGETS = "Targets"


@command
def calibrate(
    run: RunFolder,
    data: Data,
    max_error: Annotated[
        float,
        typer.Option(
            help="At most this share of the accepted answers is wrong.", rich_help_panel=TARGETS
        ),
    ],
    settings: Annotated[Values, BadImages, Device],
    confidence: Annotated[
        float,
        typer.Option(
            help="Probability, over draws of the calibration cases, that the targets hold.",
            rich_help_panel=TARGETS,
        ),
    ] = 0.95,
    class_max_miss: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLASS=RATE",
            help="At most this share of the class's cases is accepted as another class. Can be "
            "repeated.",
            rich_help_panel=TARGETS,
        ),
    ] = None,
    max_ood_false_alarms: Annotated[
        float | None,
        typer.Option(
            help="At most this share of images like the calibration cases is called OOD. "
            "Default: none is.",
            rich_help_panel=TARGETS,
        ),
    ] = None,
    each: Annotated[
        bool,
        typer.Option(
            "--each",
            help="Each promise holds with the confidence, not all of them together.",
            rich_help_panel=TARGETS,
        ),
    ] = False,
    prevalence: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS=SHARE,...",
            help="Say also what the error becomes where classes have these shares.",
            rich_help_panel=TARGETS,
        ),
    ] = None,
    detector: Annotated[
        str,
        typer.Option(help="Tells OOD images: knn, mahalanobis, vim, energy, msp, ..."),
    ] = "knn",
    training_data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Holds the images that the model was trained on, for detectors. Default: DATA, "
            "else what the run was trained with.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Of the draw of one image for each lesion, and of halves.")
    ] = 0,
    cache: Cache = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the policy that RUN has.")
    ] = False,
) -> None:
    """Set the deferral policy of a run: what it may answer, with a guarantee.

    Uses the parts `tune` and `calibrate` of the run's split where DATA holds them (train with
    --split grouped); else halves of the images on which the model was not trained, drawn by lesion.
    Writes RUN/policy, which `predict` and `evaluate` then apply: accept, defer or ood.

    That nothing can be promised is an answer too: then everything is deferred, and it is said what
    these cases could support. Choose the targets before looking.

    Example: misgiving calibrate RUN isic2019:ISIC_2019 --max-error 0.1 --max-ood-false-alarms 0.05
    """
    from misgiving.checkpoint import POLICY_FOLDER
    from misgiving.deferral import Targets, rates_by_class
    from misgiving.workflows.calibrate import calibrate_run

    if (run / POLICY_FOLDER).exists() and not overwrite:
        raise UsageError(f"{run} has a policy; say --overwrite to replace it")
    shares = None if prevalence is None else prevalence.split(",")
    targets = Targets(
        max_error=max_error,
        confidence=confidence,
        class_max_miss=rates_by_class(class_max_miss or ()),
        max_ood_false_alarms=max_ood_false_alarms,
        simultaneous=not each,
        prevalence=None if shares is None else rates_by_class(shares, name="prevalence"),
    )
    with progress_bars() as progress:
        account = calibrate_run(
            run,
            data,
            targets,
            cache=cache or default_cache(),
            training_data=training_data,
            ood_detector=detector,
            seed=seed,
            on_image=Bar(progress, "preparing images").at,
            **settings,
        )
    for sentence in account.sentences:
        say(sentence)
    say(f"wrote {run / POLICY_FOLDER}")
