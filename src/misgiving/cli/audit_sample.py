"""The audit sample of a service as data for `misgiving calibrate --from-cases`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from misgiving.cli.options import Values, check_options
from misgiving.cli.progress import say
from misgiving.csv_tables import csv_rows, write_csv
from misgiving.errors import DataError, Parameter, explain_damage

if TYPE_CHECKING:
    from misgiving.predictions.record import Predictions

UNJUDGED = "unjudged"  # column of cases for which readers found no class


def sampled(data: str | None, sample: Path | None) -> str | None:
    """DATA of a command, or else the audit sample that a service has exported."""
    if sample is None:
        check_options("without --from-cases", unused=["across_policies"])
        return data
    check_options("with --from-cases", unused=["data"])
    return f"table:{sample}"


@contextmanager
def audited_data(
    data: str, sample: Path | None, targets: Values, across_policies: bool
) -> Iterator[str]:
    """DATA to predict, within the block.

    Cases of an audit sample that no class of the model fits have a label in a temporary copy, and
    `count_as_wrong` later.

    Args:
        data: As a user gives it.
        sample: The file that it is, if it is an audit sample.
        targets: For classes, no error can be counted without one.
        across_policies: The sample may gather cases of several policies.

    Raises:
        DataError: It has other cases: what is reviewed is a selection, and no sample.
    """
    rows = [] if sample is None else _read(sample, across_policies)
    unjudged = [row["id"] for row in rows if not row["label"]]
    if not unjudged:
        yield data
        return
    if targets.get("class_max_miss") or targets.get("superclasses"):
        raise DataError(
            f"{sample}: readers found no class of the model for {unjudged[0]} and "
            f"{len(unjudged) - 1} others, and targets for classes cannot count these errors; train "
            "a model with a class for such images"
        )
    label = next(filter(None, (row["label"] for row in rows)), "")
    with TemporaryDirectory(prefix="misgiving-") as folder:
        header = [*rows[0], UNJUDGED]
        cells = (
            [*(row | {"label": row["label"] or label}).values(), "" if row["label"] else "yes"]
            for row in rows
        )
        write_csv(copy := Path(folder) / "audit.csv", header, cells)
        yield f"table:{copy}"


def _read(sample: Path, across_policies: bool) -> list[dict[str, str]]:
    remedy = "give /audit.csv of a service with audits that keeps images"
    with (
        explain_damage(sample, remedy=remedy),
        sample.open(encoding="utf-8-sig", newline="") as file,
    ):
        header, *lines = [cells for _, cells in csv_rows(file) if cells]
        rows = [dict(zip(header, cells, strict=False)) for cells in lines]
        others = [row["id"] for row in rows if (row["audited"], bool(row["path"])) != ("yes", True)]
        samples, alarms = ({row[name] for row in rows} for name in ("sample_of", "after_alarm"))
    if others or not rows:
        reason = f"{others[0]} is not audited, or has no image" if others else "has no cases"
        raise DataError(f"{sample}: {reason}; {remedy}")
    if len(samples) > 1:
        raise DataError(
            f"{sample}: joins {len(samples)} samples, in which cases have different chances; "
            "export them as one: /audit.csv?policy=A&policy=B"
        )
    if len(policies := samples.pop().split()) > 1 and not across_policies:
        raise DataError(
            f"{sample}: has cases of {len(policies)} policies; export one, or give ",
            Parameter("across_policies"),
        )
    if len(alarms) > 1:
        say(
            "Warning: the sample spans an alarm of the audits: its first cases may differ from "
            "those to come."
        )
    return rows


def count_as_wrong(predictions: "Predictions") -> "Predictions":
    """Label the cases that nobody could judge with their least probable class: an error."""
    import numpy as np

    if UNJUDGED not in predictions.metadata:
        return predictions
    unjudged = np.asarray(predictions.metadata[UNJUDGED])
    least = predictions.logits.argmin(axis=1)
    return replace(predictions, labels=np.where(unjudged == "yes", least, predictions.labels))
