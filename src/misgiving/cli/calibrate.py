"""`misgiving calibrate`."""

from typing import Annotated, Literal, get_args

import typer

from misgiving.cli.failures import options_of, with_options
from misgiving.cli.options import (
    BadImages,
    Cache,
    Context,
    Data,
    Device,
    RunFolder,
    Values,
    command,
)
from misgiving.cli.progress import Bar, progress_bars, say
from misgiving.configuration import default_cache
from misgiving.decisions.rules import DecisionRule
from misgiving.deferral.targets import Targets
from misgiving.errors import UsageError

OodDetector = Literal[
    "knn", "knn_taps", "mahalanobis", "relative_mahalanobis", "vim", "nnguide", "nci", "fdbd",
    "kl_matching", "msp", "energy", "max_logit", "entropy", "gen", "max_logit_norm",
    "predicted_loss",
]  # fmt: skip


@command
def calibrate(
    context: Context,
    run: RunFolder,
    data: Data,
    targets: Targets,
    rule: DecisionRule,
    settings: Annotated[Values, BadImages, Device],
    ood_detector: Annotated[
        OodDetector,
        typer.Option(
            metavar="NAME",
            help=f"Score that detects OOD images: {', '.join(get_args(OodDetector))}.",
            rich_help_panel="Targets",
        ),
    ] = "knn",
    training_data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Images that the model was trained on, to fit detectors. Default: DATA, else the "
            "data that the run was trained with.",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(help="Seed for drawing one image per group and the quarter to tune on."),
    ] = 0,
    cache: Cache = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the policy of RUN.")
    ] = False,
) -> None:
    """Calibrate the deferral policy of a run: which answers it may give, with a guarantee.

    Uses the tuning and the calibration set of the run's split if DATA contains them (train with
    --split grouped). Else a quarter, by group, of the images on which the model was not trained is
    used for tuning, and the rest for the certification.
    Writes RUN/policy, which `predict` and `evaluate` then apply: accept, defer or ood.

    If the targets cannot be certified, the policy defers everything, and the command reports what
    these cases could certify. Choose the targets before looking at results.

    Example: misgiving calibrate RUN isic2019:ISIC_2019 --max-error 0.1 --max-ood-false-alarms 0.05
    """
    from misgiving.checkpoint import POLICY_FOLDER
    from misgiving.workflows.calibrate import calibrate_run

    if (run / POLICY_FOLDER).exists() and not overwrite:
        raise UsageError(f"{run} has a policy; use --overwrite to replace it")
    with progress_bars() as progress:
        result = calibrate_run(
            run,
            data,
            targets,
            rule=rule,
            cache=cache or default_cache(),
            training_data=training_data,
            ood_detector=ood_detector,
            seed=seed,
            on_image=Bar(progress, "preparing images").at,
            **settings,
        )
    for sentence in result.summary:
        say(with_options(sentence, options_of(context)))
    say(f"wrote {run / POLICY_FOLDER}")
