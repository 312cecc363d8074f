"""The audit sample of a service as data for `misgiving calibrate --from-cases`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from misgiving.cli.options import Values, check_options
from misgiving.cli.progress import say
from misgiving.errors import DataError, Parameter

if TYPE_CHECKING:
    from pandas import DataFrame

    from misgiving.data.datasets.dataset import Dataset
    from misgiving.predictions.record import Predictions

UNJUDGED = "unjudged"  # column of cases for which readers found no class


def sampled(data: str | None, sample: Path | None) -> str | None:
    """DATA of a command, or else the audit sample that a service has exported."""
    if sample is None:
        check_options("without --from-cases", unused=["across_policies"])
        return data
    check_options("with --from-cases", unused=["data"])
    return f"table:{sample}"


def audited_data(
    data: str, sample: Path | None, targets: Values, across_policies: bool
) -> "str | Dataset":
    """DATA to predict, of which `count_as_wrong` labels the cases that no class of the model fits.

    Args:
        data: As a user gives it.
        sample: The file that it is, if it is an audit sample.
        targets: For classes, no error can be counted without one.
        across_policies: The sample may gather cases of several policies.

    Raises:
        DataError: It has other cases: what is reviewed is a selection, and no sample.
    """
    if sample is None:
        return data
    from misgiving.data.datasets.tables import labelled_table

    rows = _read(sample, across_policies)
    unjudged = rows["label"] == ""
    if unjudged.any():
        if targets.get("class_max_miss") or targets.get("superclasses"):
            raise DataError(
                f"{sample}: readers found no class of the model for {rows['id'][unjudged].iloc[0]} "
                f"and {unjudged.sum() - 1} others, and targets for classes cannot count these "
                "errors; train a model with a class for such images"
            )
        labels = rows["label"].mask(unjudged, rows["label"].max())  # any, for the time being
        rows = rows.assign(label=labels, **{UNJUDGED: unjudged.map({True: "yes", False: ""})})
    return replace(labelled_table(sample, rows), name=data)


def _read(sample: Path, across_policies: bool) -> "DataFrame":
    from misgiving.data.datasets.tables import read_table

    columns = ("id", "path", "label", "audited", "sample_of", "after_alarm")
    rows = read_table(sample, columns)
    others = rows["id"][(rows["audited"] != "yes") | (rows["path"] == "")]
    if len(others):
        raise DataError(
            f"{sample}: {others.iloc[0]} is not audited, or has no image; give /audit.csv of a "
            "service with audits that keeps images"
        )
    samples, alarms = ({*rows[name]} for name in ("sample_of", "after_alarm"))
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
