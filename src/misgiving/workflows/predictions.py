"""`predict` on files of predictions, without a model and without torch."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from misgiving.deferral.deferral import Deferral
from misgiving.deferral.expected_performance import ExpectedPerformance
from misgiving.deferral.policy_file import policy_folder
from misgiving.errors import DataError
from misgiving.files import check_not_input, check_writable
from misgiving.predictions.record import Predictions
from misgiving.results.decision_tables import DecidedNumbers, DecisionRow, DecisionTable, writer_for
from misgiving.workflows.predict import expected_of, row_of

MANY = 10_000  # images that are decided on at a time


def read_predictions(path: Path, deferral: Deferral | None) -> Predictions:
    """Predictions in a file, refused unless they are of the policy's model, where it names one."""
    predictions = Predictions.read(path)
    if deferral is not None:
        try:
            deferral.check_predictions(predictions)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
    return predictions


def predict_table(
    policy: Path,
    predictions: Path,
    *,
    out: Path | None = None,
    on_table: Callable[[DecisionTable], None] = lambda _: None,
) -> tuple[int, ExpectedPerformance | None]:
    """Decide on each row of a file of predictions, and write a file, whole or not at all.

    Args:
        policy: A policy folder, or a run that has one.
        predictions: The file.
        out: The file; None for none.
        on_table: Called with the table if `out` is None.

    Returns:
        The number of rows, and the performance to expect; None where it cannot be estimated.
    """
    if out is not None:
        writer_for(out)
        check_writable(out)
        check_not_input(out, [predictions])
    deferral = Deferral.load(policy_folder(policy))
    table = read_predictions(predictions, deferral)
    numbers = DecidedNumbers()
    decided = DecisionTable.of(numbers.through(decided_rows(deferral, table)), has_policy=True)
    if out is None:
        on_table(decided)
    else:
        writer_for(out)(out, decided)
    return len(table), expected_of(deferral, numbers)


def decided_rows(deferral: Deferral, table: Predictions) -> Iterator[DecisionRow]:
    """Decisions on the rows of a table, with the path of each image, or its id."""
    names = table.paths or table.ids
    for start in range(0, len(table), MANY):
        rows = np.arange(start, min(start + MANY, len(table)))
        yield from map(row_of, names[start:], deferral.decide(table.select(rows)))
