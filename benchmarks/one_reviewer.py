"""Compare one score for errors and OOD images with the separate ones, over trained models.

    python benchmarks/one_reviewer.py DATA RUN [RUN ...] [--ood NAME=PLACE ...] [--share 0.5]

Reads runs of `misgiving train`, or those in the units of a reproduction. The images of DATA that a
run was not trained on are divided by group, at random: with a third the calibrator and the combined
score are fitted, the others are measured. Images of classes that the model does not know are the
set `unseen_classes`. An OOD set is a name that `misgiving data ood` makes, or NAME=PLACE.

Prints Markdown tables, means over the runs: of the AURC and the AUROC of mixtures in which a given
share is OOD, and of the difference of each AURC from that of the acceptance score, with the lowest
and the highest. Columns are OOD sets, after `none`: the in-distribution images alone. The last row
is the pair that OOD images for tuning choose: for each column, the other sets of `--ood` together.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from misgiving.calibration.error_or_ood import ACCEPTANCE, ERROR_OR_OOD, ErrorOrOod
from misgiving.checkpoint import Checkpoint, load
from misgiving.configuration import default_cache
from misgiving.data.cache import ImageSet, prepare
from misgiving.data.datasets import load_dataset
from misgiving.data.ood_sets.ood_set import build, from_place
from misgiving.data.splits import partition_groups
from misgiving.decisions.fit_policy import calibrator_of
from misgiving.evaluation.inference import predictions_of
from misgiving.evaluation.one_reviewer import (
    fit_one_reviewer,
    measure_errors,
    measure_mixture,
)
from misgiving.results.predictions import Predictions
from misgiving.results.schema import Measurement
from misgiving.scores.detectors import FittedDetectors

THIRDS = 3
NONE, UNSEEN = "none", "unseen_classes"
TUNED = "with OOD images for tuning"
SHOWN = (
    "msp",
    "predicted_loss",
    ACCEPTANCE,
    "max_logit",
    "energy",
    "feature_norm",
    "knn",
    "knn_taps",
    "vim",
)
METRICS = {"aurc": "AURC", "auroc": "AUROC"}
Table = dict[tuple[str, str, str], list[float]]  # by metric, score and set: a value for each run


class Sets(NamedTuple):
    """Predictions of one model."""

    training: Predictions
    tune: Predictions
    test: Predictions
    outliers: dict[str, Predictions]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--ood", action="append", default=[], metavar="NAME[=PLACE]")
    parser.add_argument("--share", type=float, default=0.5, help="of OOD images in a mixture")
    parser.add_argument("--cache", type=Path, default=default_cache())
    asked = parser.parse_args()
    table: Table = defaultdict(list)
    pairs: Counter[str] = Counter()
    for run in asked.runs:
        sets = predicted(load(run), asked.data, asked.ood, asked.cache)
        pairs[measured(sets, asked.share, table)] += 1
    print(
        "Chosen without OOD images: " + ", ".join(f"{name}: {n} runs" for name, n in pairs.items())
    )
    for metric, title in METRICS.items():
        print(f"\n{title}, {asked.share:g} of the images OOD\n\n{markdown(table, metric)}")
    print(f"\nAURC less that of the acceptance score\n\n{markdown(table, 'aurc', ACCEPTANCE)}")


def predicted(checkpoint: Checkpoint, data: str, ood: Sequence[str], cache: Path) -> Sets:
    """Predict training, tuning and test images, those of unseen classes, and each OOD set."""
    dataset = load_dataset(data)
    everything = prepare(dataset, checkpoint.preprocessing, cache=cache)
    known, _ = everything.align(checkpoint.classes)
    split, seed = checkpoint.split, checkpoint.configuration["training"]["seed"]
    if known.ids != split.ids:
        raise SystemExit(f"{data} is not the data that this run was trained on")
    known = replace(known, groups=split.groups)
    is_new = np.array(split.sets) != "train"
    new = known.select(np.flatnonzero(is_new))
    tuned, *tested = partition_groups(new.groups, THIRDS, seed=seed)
    held_out = dataset.restrict(checkpoint.classes).select(np.flatnonzero(is_new))
    outliers: dict[str, ImageSet] = {}
    unseen = ~np.isin(np.array(everything.classes)[everything.labels], checkpoint.classes)
    if unseen.any():
        outliers[UNSEEN] = everything.select(np.flatnonzero(unseen))
    for text in ood:
        name, _, place = text.partition("=")
        made = from_place(name, place, held_out, seed=seed) if place else None
        built = made or build(name, held_out, seed=seed)
        outliers[name] = prepare(built.dataset, checkpoint.preprocessing, cache=cache)
    return Sets(
        predictions_of(checkpoint, known.select(np.flatnonzero(~is_new))),
        predictions_of(checkpoint, new.select(tuned)),
        predictions_of(checkpoint, new.select(np.sort(np.concatenate(tested)))),
        {name: predictions_of(checkpoint, images) for name, images in outliers.items()},
    )


def measured(sets: Sets, share: float, table: Table) -> str:
    """Add the measures of one model to the table; gives the pair that was chosen."""
    detectors = FittedDetectors.fit(sets.training)
    fitted = calibrator_of(sets.tune, detectors)
    chosen = fit_one_reviewer(sets.tune, fitted, detectors)
    scores, wrong = chosen.scores(sets.test), chosen.wrong(sets.test)
    add(table, measure_errors(scores, wrong, NONE))
    for name, outliers in sets.outliers.items():
        add(table, measure_mixture(scores, wrong, chosen.scores(outliers), name, ood_share=share))
        others = [of for other, of in sets.outliers.items() if other not in (name, UNSEEN)]
        if others:
            tuned = fit_one_reviewer(
                sets.tune, fitted, detectors, outliers=together(others), ood_share=share
            )
            pair = ({TUNED: tuned.scores(of)[ERROR_OR_OOD]} for of in (sets.test, outliers))
            add(table, measure_mixture(next(pair), wrong, next(pair), name, ood_share=share))
    return described(chosen.combined, chosen.scores(sets.tune))


def add(table: Table, rows: Sequence[Measurement]) -> None:
    """Add rows to the table; in a mixture all failures count as errors."""
    for row in rows:
        metric = row.metric.removeprefix("mixed_").removeprefix("error_")
        table[metric, row.detector, row.dataset].append(row.value)


def described(pair: ErrorOrOod, tuning: Mapping[str, Float[np.ndarray, " n"]]) -> str:
    """The two scores, and where the second begins to count."""
    if pair.secondary is None:
        return pair.names
    below = (tuning[pair.secondary].mean() - pair.a) * pair.b
    return f"{pair.names} (a = mean - {below:.0f} sd)"


def together(sets: Sequence[Predictions]) -> Predictions:
    """As many predictions of each set as the smallest has."""
    count = min(map(len, sets))
    parts = [of.select(np.arange(count)) for of in sets]
    losses = [of.predicted_losses for of in parts if of.predicted_losses is not None]
    taps = [of.taps for of in parts if of.taps is not None]
    return replace(
        parts[0],
        logits=np.concatenate([of.logits for of in parts]),
        features=np.concatenate([of.features for of in parts]),
        predicted_losses=np.concatenate(losses) if losses else None,
        labels=np.concatenate([of.labels for of in parts]),
        ids=tuple(name for of in parts for name in of.ids),
        groups=tuple(name for of in parts for name in of.groups),
        taps=np.concatenate(taps) if taps else None,
    )


def markdown(
    table: Mapping[tuple[str, str, str], list[float]], metric: str, baseline: str = ""
) -> str:
    """Rows are scores, columns are sets, cells are means over the runs."""
    sets = list(dict.fromkeys(key[2] for key in table))
    found = {key[1] for key in table}
    scores = [name for name in (*SHOWN, ERROR_OR_OOD, TUNED) if name in found - {baseline}]
    lines = [
        f"| score | {' | '.join(sets)} | mean of the OOD sets |",
        "|---" * (len(sets) + 2) + "|",
    ]
    for score in scores:
        cells = []
        means = []
        for name in sets:
            values = np.array(table.get((metric, score, name), [np.nan]))
            if baseline:
                values = values - np.array(table[metric, baseline, name])
            cells.append(_cell(values, signed=bool(baseline)))
            means += [values] if name != NONE else []
        cells.append(_cell(np.mean(means, axis=0), signed=bool(baseline)))
        lines.append(f"| {score} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: Float[np.ndarray, " runs"], *, signed: bool) -> str:
    if np.isnan(values).any():
        return "-"
    if not signed:
        return f"{values.mean():.3f}"
    return f"{values.mean():+.3f} ({values.min():+.3f} to {values.max():+.3f})"


if __name__ == "__main__":
    main()
