"""Open the decisions of `misgiving predict ... --out decisions.csv` in FiftyOne.

Usage: python fiftyone_samples.py decisions.csv
Needs `pip install fiftyone`.
"""

import sys

import fiftyone as fo
import pandas as pd


def samples_of(table):
    """One sample per image that could be read, with class and decision as the label `misgiving`."""
    decisions = pd.read_csv(table, dtype={"predicted_class": str})
    for row in decisions.dropna(subset="predicted_class").to_dict("records"):
        label = fo.Classification(
            label=row["predicted_class"],
            confidence=row["probability"],
            decision=row["decision"],
            reason=row["reason"],
            error_probability=row["error_probability"],
        )
        yield fo.Sample(filepath=row["path"], misgiving=label)


if __name__ == "__main__":
    dataset = fo.Dataset()
    dataset.add_samples(samples_of(sys.argv[1]))
    review = dataset.match(fo.ViewField("misgiving.decision") != "accept")
    fo.launch_app(view=review.sort_by("misgiving.error_probability", reverse=True)).wait()
