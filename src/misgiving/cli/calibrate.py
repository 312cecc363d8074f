"""`misgiving calibrate`."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from misgiving.cli.failures import options_of, with_options
from misgiving.cli.options import (
    BadImages,
    Cache,
    Context,
    DataOrNone,
    Device,
    RunOrPredictions,
    Values,
    check_source,
    command,
    seed_option,
)
from misgiving.cli.progress import say
from misgiving.cli.sources import read_source
from misgiving.deferral.settings import DecisionRule, Targets
from misgiving.errors import UsageError

OodDetector = Literal[
    "knn", "knn_taps", "mahalanobis", "relative_mahalanobis", "vim", "nnguide", "nci", "fdbd",
    "kl_matching", "msp", "energy", "max_logit", "entropy", "gen", "max_logit_norm",
    "predicted_loss",
]  # fmt: skip


@command
def calibrate(
    context: Context,
    run: RunOrPredictions,
    targets: Targets,
    rule: DecisionRule,
    settings: Annotated[Values, BadImages, Device],
    cache: Cache,
    data: DataOrNone = None,
    ood_detector: Annotated[
        OodDetector | None,
        typer.Option(
            metavar="NAME",
            help=f"Score that detects OOD images: {', '.join(get_args(OodDetector))}. Default: "
            "knn, or max_logit for predictions without features of training images.",
            rich_help_panel="Targets",
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="POLICY",
            help="Folder for the policy of a file of predictions; that of a run is in the run.",
        ),
    ] = None,
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
        seed_option("Seed for drawing one image per group and the quarter to tune on."),
    ] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the policy that is there.")
    ] = False,
) -> None:
    """Calibrate the deferral policy of a model: which answers it may give, with a guarantee.

    Uses the tuning and the calibration set of the run's split if DATA contains them. Else a
    quarter, by group, of the images on which the model was not trained is used for tuning, and the
    rest for the certification. Writes RUN/policy, which `predict` and `evaluate` then apply.

    If the targets cannot be certified, the policy defers everything, and the command reports what
    these cases could certify. Choose the targets before looking at results.

    A model that was trained elsewhere is calibrated by a file of its predictions (.csv, .npz or
    .parquet) in place of RUN and DATA: columns logit_CLASS or probability_CLASS for each class, and
    label; optional are id, group, set, features and metadata.

    Example: misgiving calibrate RUN isic2019:ISIC_2019 --max-error 0.1 --max-ood-false-alarms 0.05

    Example: misgiving calibrate predictions.csv --max-error 0.1 --out policy
    """
    from misgiving.deferral.deferral import Deferral
    from misgiving.deferral.policy_file import POLICY_FOLDER, check_policy_folder
    from misgiving.report.sentences import summarize

    check_source(context, run, out="policy")
    folder = policy or run / POLICY_FOLDER
    check_policy_folder(folder)
    if folder.exists() and not overwrite:
        raise UsageError(f"{folder} exists; use --overwrite to replace it")
    deferral = Deferral(**vars(targets), **vars(rule), ood_detector=ood_detector, seed=seed)
    source = read_source(
        run,
        data,
        settings,
        cache=cache,
        sets=fitted_sets,
        needs_training=True,
        training_data=training_data,
        check_classes=deferral.check_classes,
    )
    deferral.fit(source.predictions).save(folder)
    sentences = [f"{data or run}: {len(source.predictions)} images", *source.summary]
    for sentence in [*sentences, *summarize(deferral)]:
        say(with_options(sentence, options_of(context)))
    say(f"wrote {folder}")


def fitted_sets(sets: Collection[str]) -> Collection[str]:
    """The sets that a policy of a run is fitted on; all, if these are to be drawn."""
    own = {"train", "tune", "calibrate"}
    return own if own.issubset({*sets, "train"}) else sets
