"""`misgiving data rank`: the order in which to label images, likely and different errors first."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from misgiving.data.bad_images import FAIL
from misgiving.errors import UsageError
from misgiving.files import refuse_input, refuse_unwritable
from misgiving.results.decision_tables import DecisionRow, DecisionTable, writer_for
from misgiving.results.prediction_tables import UNKNOWN, PredictionTable
from misgiving.results.review_files import in_review_order
from misgiving.workflows.predict import Feature, OnImage, names_for, predict_images, predictor_of

OnTable = Callable[[DecisionTable], None]


def rank_images(
    model: Path,
    images: Sequence[Path],
    *,
    out: Path | None = None,
    count: int | None = None,
    device: str = "auto",
    on_image: OnImage = lambda *_: None,
    on_table: OnTable = lambda _: None,
    on_bad_image: str = FAIL,
) -> int:
    """Order images by what to label next, and write their decisions as a table.

    Args:
        model: A run or a bundle.
        images: Files, and folders.
        out: The table; None for none.
        count: The number of images to list; None for all.
        device: Of a run.
        on_image: Called with the number of finished images and of all.
        on_table: Called with the table if `out` is None.
        on_bad_image: `fail`, or `skip` to leave out images that cannot be read.

    Returns:
        The number of listed images.
    """
    deliver = _deliver(out, count, on_table)
    names = names_for(model, images)
    predictor = predictor_of(model, count=len(names), device=device)
    features: dict[int, Feature] = {}
    decisions = predict_images(
        predictor,
        names,
        on_image=on_image,
        on_bad_image=on_bad_image,
        on_features=features.update,
    )
    return deliver([*decisions], features, has_policy=predictor.engine.policy is not None)


def rank_table(
    predictions: Path,
    *,
    policy: Path | None = None,
    out: Path | None = None,
    count: int | None = None,
    on_table: OnTable = lambda _: None,
) -> int:
    """Order the rows of a file of predictions by what to label next; see `rank_images`.

    Args:
        predictions: The file. Where some rows have a label, the others are ordered.
        policy: A policy folder, or a run that has one; None: errors by the probabilities alone.
        out: The table; None for none.
        count: The number of images to list; None for all.
        on_table: Called with the table if `out` is None.
    """
    from misgiving.workflows.predictions import decided_rows, load_with_cases, read_predictions

    deliver = _deliver(out, count, on_table)
    if out is not None:
        refuse_input(out, [predictions])
    engine, cases = load_with_cases(policy)
    table = read_predictions(predictions, engine, cases)
    unlabelled = np.flatnonzero(table.predictions.labels == UNKNOWN)
    table = table.select(unlabelled) if len(unlabelled) else table
    decisions = _most_probable(table) if policy is None else [*decided_rows(engine, table)]
    of = table.predictions.features
    features = dict(enumerate(of)) if of.shape[1] else {}
    return deliver(decisions, features, has_policy=policy is not None)


def _most_probable(table: PredictionTable) -> list[DecisionRow]:
    """The most probable class of each row, without a policy."""
    of = table.predictions
    probabilities, names = of.probabilities.max(axis=1).tolist(), table.images or of.ids
    losses = [None] * len(of) if of.predicted_losses is None else of.predicted_losses.tolist()
    chosen = [of.classes[choice] for choice in of.choices]
    return [*map(DecisionRow, names, chosen, probabilities, losses)]


def _deliver(out: Path | None, count: int | None, on_table: OnTable) -> Callable[..., int]:
    """A function that orders decisions, and writes or shows them; refuses options at once."""
    if count is not None and count < 1:
        raise UsageError(f"`count` must be at least 1, got {count}")
    write = on_table if out is None else partial(writer_for(out), out)
    if out is not None:
        refuse_unwritable(out)

    def deliver(
        decisions: Sequence[DecisionRow], features: Mapping[int, Feature], *, has_policy: bool
    ) -> int:
        ordered = in_review_order(decisions, features)[:count]
        write(DecisionTable.of(ordered, has_policy=has_policy))
        return len(ordered)

    return deliver
