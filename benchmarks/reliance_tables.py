"""Markdown tables of failure scores, policies, calibration and detectors, from a reproduction.

    python benchmarks/reliance_tables.py FOLDER [--out TABLES.md]

Every number is from the folder's `results.csv` and `intervals.csv`: means over trials, with 95 %
bootstrap intervals over trials and groups in parentheses.
"""

import argparse
import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from misgiving.files import write_text

FAILURE = {
    "aurc": "AURC",
    "error_auroc": "AUROC for errors",
    "augrc": "AUGRC",
    "excess_aurc": "E-AURC",
    "balanced_aurc": "balanced AURC",
    "risk_at_coverage/0.8": "risk at 80 %",
    "coverage_at_risk/0.2": "coverage at risk 0.2",
}
CALIBRATION = {
    "ece": "ECE, equal mass",
    "ece_width": "ECE, equal width",
    "classwise_ece": "classwise ECE",
    "brier": "Brier",
    "nll": "NLL",
}
NOT_DETECTORS = ("", "ood_rule")
Row = dict[str, str]


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of a reproduction")
    parser.add_argument("--out", type=Path, help="write the tables here")
    asked = parser.parse_args()
    intervals, results = (read(asked.folder / f"{name}.csv") for name in ("intervals", "results"))
    text = "\n\n".join(
        [
            failures(intervals),
            policies(intervals, results),
            calibration(results),
            *detectors(intervals, results),
        ]
    )
    print(text)
    if asked.out:
        write_text(asked.out, text + "\n")


def read(path: Path) -> list[Row]:
    """Rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def where(rows: Sequence[Row], **wanted: str) -> list[Row]:
    """Rows with these cells."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def distinct(rows: Sequence[Row], column: str) -> list[str]:
    """Values of a column in their order."""
    return list(dict.fromkeys(row[column] for row in rows))


def cell(rows: Sequence[Row], *, sign: bool = False, digits: int = 3) -> str:
    """An estimate with its interval; a dash where there is none."""
    if not rows:
        return "-"
    row, style = rows[0], f"{'+' if sign else ''}.{digits}f"
    value = format(float(row["estimate"]), style)
    if not row["lower"]:
        return value
    return f"{value} ({float(row['lower']):.{digits}f} to {float(row['upper']):.{digits}f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def failures(intervals: Sequence[Row]) -> str:
    """All failure scores of all models, with their differences from MSP."""
    known = [row for row in where(intervals, experiment="generalization") if row["detector"]]
    measured = [row for row in known if row["metric"] == "aurc"]
    lines = []
    for model in distinct(measured, "model"):
        for detector in distinct(where(measured, model=model, baseline=""), "detector"):
            here = where(known, model=model, detector=detector)
            values = [cell(where(here, metric=metric, baseline="")) for metric in FAILURE]
            beside = [
                cell(where(here, metric=metric, baseline="msp"), sign=True)
                for metric in ("aurc", "error_auroc")
            ]
            lines.append([model, detector, *values, *beside])
    header = ["model", "score", *FAILURE.values(), "AURC - MSP's", "AUROC - MSP's"]
    return f"### Failure scores\n\n{table(header, lines)}"


def policies(intervals: Sequence[Row], results: Sequence[Row]) -> str:
    """Coverage and error of the policy of each target error rate, on the test set."""
    found = [row for row in results if row["detector"].startswith("policy/")]
    lines = []
    for model in distinct(found, "model"):
        for detector in distinct(where(found, model=model), "detector"):
            of_model = {"model": model, "detector": detector}
            attained = numbers(where(found, metric="attained", **of_model))
            smallest = numbers(where(found, metric="smallest_certifiable_error", **of_model))
            errors = numbers(where(found, metric="error_among_accepted", **of_model))
            covered = where(intervals, metric="coverage", baseline="", **of_model)
            lines.append(
                [
                    model,
                    detector.removeprefix("policy/"),
                    f"{sum(attained):g} of {len(attained)}",
                    cell(covered, digits=2),
                    ", ".join(f"{error:.3f}" for error in errors) or "-",
                    ", ".join(f"{error:.2f}" for error in smallest) or "-",
                ]
            )
    header = [
        "model",
        "target error rate",
        "trials in which it is certified",
        "coverage",
        "errors among accepted, by trial",
        "smallest certifiable error in the others",
    ]
    return f"### Policies\n\n{table(header, lines)}"


def numbers(rows: Sequence[Row]) -> list[float]:
    """The values of rows."""
    return [float(row["value"]) for row in rows]


def calibration(results: Sequence[Row]) -> str:
    """Class probabilities before and after scaling, and the two learned quantities."""
    lines = []
    for model in distinct(where(results, detector="softmax"), "model"):
        for detector in ("softmax", "scaled_softmax", "error_probability", "expected_loss"):
            here = where(results, model=model, detector=detector)
            values = [numbers(where(here, metric=metric)) for metric in CALIBRATION]
            if here:
                means = [f"{fmean(value):.3f}" if value else "-" for value in values]
                lines.append([model, detector, *means])
    return f"### Calibration\n\n{table(['model', 'of', *CALIBRATION.values()], lines)}"


def detectors(intervals: Sequence[Row], results: Sequence[Row]) -> Iterator[str]:
    """AUROC of every detector on every set, a table for each model."""
    found = [
        row
        for row in where(intervals, metric="auroc", baseline="")
        if row["experiment"] in ("ood_detection", "new_classes")
        and row["detector"] not in NOT_DETECTORS
    ]
    sets = [name for name in distinct(found, "dataset") if not name.startswith("unseen/")]
    for model in distinct(found, "model"):
        here = where(found, model=model)
        lines = [
            [
                detector,
                *(cell(where(here, detector=detector, dataset=name), digits=2) for name in sets),
            ]
            for detector in distinct(here, "detector")
        ]
        chosen = Counter(row["detector"] for row in where(results, model=model, metric="chosen"))
        said = ", ".join(f"{name} ({count})" for name, count in chosen.most_common())
        shares = where(results, model=model, detector="ood_rule")
        ood = ", ".join(
            f"{name} {fmean(numbers(where(shares, dataset=name))):.0%}"
            for name in distinct(shares, "dataset")
            if not name.startswith("unseen/")
        )
        yield (
            f"### AUROC of every detector: {model}\n\n{table(['detector', *sets], lines)}\n\n"
            f"Best on the tuning set, by number of trials: {said}. Called ood by the rule that "
            f"allows 5 % false alarms: {ood}."
        )


if __name__ == "__main__":
    main()
