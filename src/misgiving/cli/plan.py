"""`misgiving plan`."""

from typing import Annotated

import typer

from misgiving.cli.options import Data, command
from misgiving.cli.progress import say
from misgiving.deferral.targets import Targets


@command
def plan(
    data: Data,
    targets: Targets,
    seed: Annotated[int, typer.Option(help="Seed of the split, as in `train`.")] = 0,
) -> None:
    """Say before training what a calibration set of DATA can certify.

    Splits DATA by group, as `train --split grouped` does, and counts the calibration cases. For
    error rates of 0, 1, 3 and 5 % among them, it gives the smallest rate that they would certify,
    and the number of cases that the target needs.

    Example: misgiving plan isic2019:ISIC_2019 --max-error 0.05 --class-max-miss MEL=0.1
    """
    from misgiving.workflows.plan import plan_data

    for sentence in plan_data(data, targets, seed=seed).summary:
        say(sentence)
