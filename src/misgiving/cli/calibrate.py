"""`misgiving calibrate`."""

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from misgiving.cli.audit_sample import audited_data, count_as_wrong, sampled
from misgiving.cli.options import (
    Cache,
    DataOrNone,
    Fields,
    File,
    Folder,
    OodDetector,
    Reading,
    RunOrPredictions,
    SecondOpinion,
    Seed,
    Values,
    check_options,
    command,
    option,
)
from misgiving.cli.progress import say
from misgiving.cli.sources import (
    check_source,
    load_data,
    named_places,
    open_run,
    place_of_draw,
    pool_of,
    read_file,
    said_warnings,
    say_left_out,
    with_labels,
)
from misgiving.deferral.targets import DecisionRule, GuaranteeName, Targets
from misgiving.errors import UsageError, visible
from misgiving.files import check_replaceable

if TYPE_CHECKING:
    from misgiving.checkpoint import Checkpoint
    from misgiving.deferral.calibrations import Calibrations
    from misgiving.deferral.deferral import Deferral
    from misgiving.predictions.predict import TrainedRun
    from misgiving.predictions.record import Predictions

HOW_TO = "docs/how_to/everything_is_deferred.md"
FITTED = {"train", "tune", "calibrate"}  # sets that a policy of a run is fitted on
OF_FITTING = ("training_data", "from_cases", "across_policies", "views")
"""Parameters that a draw has fixed."""


@command
def calibrate(
    run: RunOrPredictions,
    data: DataOrNone = None,
    /,
    *,
    targets: Annotated[Values, Fields(Targets)],
    guarantee: GuaranteeName = "confident",
    rule: Annotated[Values, Fields(DecisionRule)],
    reading: Reading,
    cache: Cache = None,
    ood_detector: OodDetector | None = None,
    out: Folder | None = None,
    training_data: str | None = None,
    from_cases: File | None = None,
    across_policies: bool = False,
    labels: File | None = None,
    second_opinion: SecondOpinion = None,
    views: Literal[1, 2, 8] | None = None,
    seed: Seed = 0,
    overwrite: bool = False,
    verbose: bool = False,
) -> None:
    """Calibrate the deferral policy of a model: which answers it may give, with a guarantee.

    Uses the tuning and the calibration set of the run's split if DATA contains them. Else a
    fifth, by group, of the images on which the model was not trained is used for tuning, and the
    rest for the certification. Writes RUN/policy, which `predict` and `evaluate` then apply.

    If the targets cannot be certified, the policy defers everything, and the command says why, and
    what would help. Choose the targets before looking at results.

    A model that was trained elsewhere is calibrated by a file of its predictions (.csv, .npz or
    .parquet) in place of RUN and DATA: columns logit_CLASS or probability_CLASS for each class, and
    label; optional are id, group, set, features and metadata.

    Example: misgiving calibrate RUN isic2019:ISIC_2019 --max-error 0.1

    Example: misgiving calibrate predictions.csv --max-error 0.1 --out policy

    Args:
        guarantee: The targets hold with a confidence for this calibration set (confident), or on
            average over calibration sets and batches of at least 50 images (average).
        ood_detector: Score that detects OOD images. Default: knn_layers, without taps of training
            images knn, and without features max_logit.
        out: Folder for the policy of a file of predictions; that of a run is in the
            run.
        training_data: Images that the model was trained on, to fit detectors. Default: DATA,
            else the data that the run was trained with.
        from_cases: In place of DATA, the audit sample of a service that keeps images:
            its /audit.csv. Other reviews are a selection, and are refused.
        across_policies: With from_cases: take a sample of several policies.
        labels: Table of `misgiving draw` with labels; DATA is the pool that it was drawn from, and
            the targets are those of the draw.
        views: Views of each image over which the model's outputs are averaged: 2 with its mirror
            image, 8 with all flips and quarter turns. RUN keeps the number. Default: that of
            RUN, which suits the augmentation of its training.
        seed: Seed for drawing one image per group and the fifth to tune on.
        overwrite: Replace the policy that is there.
        verbose: Print how the policy was fitted, bounds for each class, and what is guaranteed.
    """
    others = {"guarantee": guarantee, "ood_detector": ood_detector, "seed": seed}
    deferral = _asked(labels, targets, rule, others)
    from misgiving.deferral.calibrations import Calibrations, record_of
    from misgiving.deferral.policy_file import POLICY, POLICY_FOLDER
    from misgiving.deferral.sentences import certificate_sentences, lines
    from misgiving.deferral.sets import drawn_sets

    images = ["data", "from_cases", "training_data", "views"]
    is_file = check_source(run, images=images, files=["out"], needed=["out"])
    data = sampled(data, from_cases)
    folder = out or run / POLICY_FOLDER
    check_replaceable(folder, POLICY, overwrite=overwrite)
    record = record_of(run)
    earlier = Calibrations.read(record)
    opinions = named_places("second_opinion", second_opinion)
    sources, checkpoint = [], None
    if is_file:
        predictions = read_file(run, opinions=opinions)
    else:
        with open_run(run, reading, cache=cache, opinions=opinions, views=views) as trained:
            deferral.check_parameters(trained.checkpoint.classes)
            data = data or trained.checkpoint.data.name
            if labels is None:
                checkpoint = trained.checkpoint
                audited = audited_data(data, from_cases, targets, across_policies)
                source = trained.predict(
                    load_data(audited, strict=reading.strict),
                    sets=lambda sets: FITTED if {*sets, "train"} >= FITTED else sets,
                    needs_training=True,  # where these sets are not all there, they are drawn
                    training_data=training_data,
                )
            else:
                source = pool_of(trained, data, strict=reading.strict)
        predictions, sources = count_as_wrong(source.predictions), [(data, source)]
    with said_warnings():
        _fit(deferral, predictions, labels, earlier.looks)
    added = earlier.added(deferral)
    _save(deferral, folder, checkpoint)
    with suppress(OSError, UsageError):  # predictions may lie where nothing can be written
        added.write(record)
    if is_file and (unused := list(map(visible, predictions.metadata))):
        say(f"columns without a meaning to the policy: {', '.join(unused)}")
    say_left_out(sources, brief=not verbose)
    fitted = lines("policy.txt", "fitted", deferral) if verbose else []
    sentences = certificate_sentences(deferral, brief=not verbose, parameter=option)
    worth = lines("policy.txt", "worth", predictions.opinions, deferral.calibration_)
    for text in (*fitted, *sentences, *worth):
        say(text)
    if checkpoint is not None and checkpoint.views != checkpoint.other_views:
        with open_run(run, reading, cache=cache, views=checkpoint.other_views) as other:
            _say_views(checkpoint.views, other, drawn_sets(predictions, seed=seed)[0], str(data))
    _say_repeated(earlier, deferral)
    more = "" if verbose else "; --verbose says more"
    following = _next_command(deferral, run, folder, second_opinion, of_file=is_file)
    say(f"Next: {following} (wrote {folder}{more})")


def _asked(labels: Path | None, targets: Values, rule: Values, others: Values) -> "Deferral":
    """The policy to certify: by the options, or that of a draw, which fixes them."""
    chosen: Values = {}
    if labels is None:
        chosen = vars(Targets(**targets)) | vars(DecisionRule(**rule)) | others
    else:
        names = [each.name for kind in (Targets, DecisionRule) for each in fields(kind)]
        check_options("with --labels", unused=[*names, *others, *OF_FITTING])
        if not place_of_draw(labels).is_dir():
            raise UsageError(
                f"{labels}: there is no {place_of_draw(labels).name} beside it; give the table "
                "under the name that `misgiving draw` wrote"
            )
    from misgiving.deferral.deferral import Deferral  # takes longer than to check the options

    return Deferral(**chosen) if labels is None else Deferral.load(place_of_draw(labels))


def _fit(
    deferral: "Deferral", predictions: "Predictions", labels: Path | None, looks: Sequence[int]
) -> None:
    """Fit the policy, to drawn cases with these labels where there are any."""
    from misgiving.deferral.draw import DrawnCases

    if labels is None:
        deferral.fit(predictions, looks=looks)
    else:
        drawn = DrawnCases.of_pool(predictions, deferral)
        deferral.certify_drawn(with_labels(drawn, labels))


def _save(deferral: "Deferral", folder: Path, checkpoint: "Checkpoint | None") -> None:
    """Write the policy, and that its run has the views that it was calibrated for."""
    if checkpoint is not None:
        from misgiving.checkpoint import write_views

        write_views(folder.parent, checkpoint.views)
    deferral.save(folder)


def _say_views(views: int, other: "TrainedRun", tuning: "Predictions", data: str) -> None:
    """Say the accuracy and AURC of the tuning images with this and with another number of views."""
    from misgiving.data.datasets import load_dataset
    from misgiving.deferral.sentences import lines
    from misgiving.metrics.selective import RiskCoverage

    again = other.second_opinion(tuning, load_dataset(data))
    opinion = tuning.with_opinion(again, "other").opinions["other"]
    measured = []
    for number, outputs in ((views, tuning.probabilities), (other.checkpoint.views, opinion)):
        errors = outputs.argmax(axis=1) != tuning.labels
        area = RiskCoverage(outputs.max(axis=1), errors).aurc()
        measured.append({"views": number, "accuracy": 1 - errors.mean(), "aurc": area})
    say(lines("policy.txt", "views", *measured, len(tuning), parameter=option)[0])


def _say_repeated(earlier: "Calibrations", deferral: "Deferral") -> None:
    """Warn of cases that earlier calibrations used, unless this is one of them."""
    from misgiving.deferral.sentences import lines

    used, groups = earlier.repeated(deferral)
    if groups and deferral.policy_.fingerprint not in earlier.made:
        say(lines("policy.txt", "repeated", used, groups, len(earlier.made))[0])


def _next_command(
    deferral: "Deferral", run: Path, folder: Path, opinions: list[str] | None, *, of_file: bool
) -> str:
    """The command that applies the policy; where it accepts nothing, the page that helps."""
    if not deferral.certificate_.accepted:
        return HOW_TO
    used = opinions or [] if deferral.calibration_.needs_opinions else []
    options = [word for place in used for word in ("--second-opinion", place)]
    model, new = (folder, "NEW_PREDICTIONS.csv") if of_file else (run, "NEW_IMAGES")
    return shlex.join(["misgiving", "predict", str(model), new, *options])
