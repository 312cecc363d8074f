"""`misgiving plan`."""

from pathlib import Path
from typing import Annotated

import typer

from misgiving.cli.options import (
    DATA,
    PREDICTION_FILE,
    Fields,
    Values,
    command,
    is_prediction_file,
    seed_option,
)
from misgiving.cli.progress import say, show_table
from misgiving.deferral.targets import Targets

PLANNED = Fields(
    Targets, ("max_error", "confidence", "class_max_miss", "max_ood_false_alarms", "simultaneous")
)


@command
def plan(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA|PREDICTIONS",
            help=f"{DATA} Or a {PREDICTION_FILE}",
        ),
    ],
    targets: Annotated[Values, PLANNED],
    seed: Annotated[int, seed_option("Seed of the split, as in `train`.")] = 0,
) -> None:
    """Say before training what a calibration set of DATA can certify.

    Splits DATA by group, as `train` does by default, and counts the calibration cases by class.
    Then it assumes that 0, 1, 3 or 5 % of the accepted answers are wrong, and gives the smallest
    error rate that these cases would certify, and how many more cases the target would need; the
    same for each class with a target. For a file of predictions, the calibration set is that of its
    column set, or three quarters of it.

    Example: misgiving plan isic2019:ISIC_2019 --max-error 0.05 --class-max-miss MEL=0.1
    """
    from misgiving.workflows.plan import plan_data, plan_table

    wanted = Targets(**targets)
    if is_prediction_file(Path(data)):
        found = plan_table(Path(data), wanted, seed=seed)
    else:
        found = plan_data(data, wanted, seed=seed)
    for sentence in found.summary:
        say(sentence)
    show_table(("class", "images", "cases"), found.classes, title="calibration set")
    show_table(found.header, found.rows, title="what it certifies")
