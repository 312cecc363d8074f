"""`misgiving draw`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from misgiving.cli.options import (
    Cache,
    File,
    Looks,
    OodDetector,
    PoolOrNone,
    Reading,
    RunOrPredictions,
    SecondOpinion,
    Seed,
    check_files,
    command,
)
from misgiving.cli.progress import say
from misgiving.cli.sources import (
    check_source,
    named_places,
    open_run,
    place_of_draw,
    pool_of,
    read_file,
    said_warnings,
    with_labels,
)
from misgiving.deferral.targets import DecisionRule, GuaranteeName, Targets
from misgiving.files import check_replaceable

if TYPE_CHECKING:
    from misgiving.predictions.record import Predictions

CASES_TO_LABEL = 300


@command
def draw(
    run: RunOrPredictions,
    pool: PoolOrNone = None,
    /,
    *,
    out: File,
    cases: Annotated[int | None, Parameter(validator=Number(gte=5))] = None,
    targets: Targets,
    guarantee: GuaranteeName = "confident",
    rule: DecisionRule,
    reading: Reading,
    cache: Cache = None,
    labels: File | None = None,
    tune: Annotated[int, Parameter(validator=Number(gte=5))] = 100,
    looks: Looks = (),
    training_data: str | None = None,
    ood_detector: OodDetector | None = None,
    second_opinion: SecondOpinion = None,
    seed: Seed = 0,
    overwrite: bool = False,
) -> None:
    """Draw the cases to label from the images that could be accepted.

    Otherwise most labels are spent on images that are deferred anyway. A tuning set decides which
    share of the pool could be accepted; the cases are drawn from that part, and no other image is
    ever accepted. Writes a table of ids, paths and an empty column label, and beside it what was
    fitted. Fill in the labels, and certify with `misgiving calibrate --labels`. A case of which
    nobody can tell the class stays empty, and counts as wrong.

    The tuning set is all images that have a label, in the predictions or in --labels, or that of
    the run. If there is none, images for it are drawn first, from all.

    Example: misgiving draw predictions.csv --max-error 0.05 --out to_label.csv

    Args:
        out: Table of the cases to label, as CSV.
        cases: Number of cases to label; one image of each group is drawn. Default: the last of
            --looks, or 300.
        guarantee: The target holds with a confidence for these cases (confident), or on average
            over draws and batches with at least 50 images above the limit (average).
        labels: Labelled images to tune on: a table with columns id and label.
        tune: Number of images that are drawn to tune on, where there are none.
        looks: Numbers of cases of several calibrations: label the first, and go on only if nothing
            is certified.
        training_data: Data that the run was trained on, to fit detectors, with its tuning set.
            Default: those that the run names.
        ood_detector: Score that detects OOD images. Default: as in calibrate.
        seed: Seed of the draw.
        overwrite: Replace the table, and what was fitted.
    """
    from misgiving.deferral.deferral import Deferral
    from misgiving.deferral.draw import draw as draw_cases
    from misgiving.deferral.draw import draw_to_tune, labelled_part
    from misgiving.deferral.planning import plan_looks
    from misgiving.deferral.policy_file import POLICY
    from misgiving.deferral.sentences import lines

    is_file = check_source(run, images=["pool", "training_data"])
    check_replaceable(place_of_draw(out), POLICY, overwrite=overwrite)
    check_files([run, *([labels] if labels else [])], overwrite=overwrite, out=out)
    deferral = Deferral(
        **vars(targets), guarantee=guarantee, **vars(rule), ood_detector=ood_detector, seed=seed
    )
    opinions = named_places("second_opinion", second_opinion)
    if is_file:
        images = own = read_file(run, opinions=opinions)
    else:
        with open_run(run, reading, cache=cache, opinions=opinions) as trained:
            deferral.check_parameters(trained.checkpoint.classes, looks)
            data = training_data or trained.checkpoint.data.name
            own = trained.predict(
                data,
                sets=lambda sets: {"train", "tune"} if "tune" in sets else sets,
                needs_training=True,
            ).predictions
            images = pool_of(trained, str(pool), strict=reading.strict).predictions
    training, tuning = own.in_set("train"), labelled_part(own)
    if labels is not None:
        images = with_labels(images, labels)
        tuning = labelled_part(images)
    source = [run, *([pool] if pool else [])]
    if not len(tuning):
        to_tune = draw_to_tune(images, tune, seed=seed)
        write_to_label(out, to_tune)
        again = shlex.join(map(str, ["misgiving", "draw", *source, "--labels", out]))
        for sentence in lines("draw.txt", "to_tune", len(to_tune), out, again):
            say(sentence)
        return
    with said_warnings():
        drawn = draw_cases(
            images,
            cases or (looks[-1] if looks else CASES_TO_LABEL),
            deferral=deferral,
            tuning=tuning,
            training=training,
            looks=looks,
        )
    drawn.deferral.save(place_of_draw(out))
    write_to_label(out, drawn)
    words = ["misgiving", "calibrate", *source, "--labels", out]
    words += [word for place in second_opinion or () for word in ("--second-opinion", place)]
    calibrate = shlex.join(map(str, [*words, *(["--out", "policy"] if is_file else [])]))
    planned = plan_looks(looks, targets)
    for sentence in lines("draw.txt", "drawn", drawn, out, calibrate, looks=planned):
        say(sentence)


def write_to_label(path: Path, images: "Predictions") -> None:
    """Write a table of images with an empty column label."""
    from misgiving.csv_tables import write_csv

    columns = [images.ids, *([images.paths] if images.paths else []), ("",) * len(images)]
    names = ("id", "path", "label") if images.paths else ("id", "label")
    write_csv(path, names, zip(*columns, strict=True))
