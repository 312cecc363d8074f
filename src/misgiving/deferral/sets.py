"""The sets that a policy is fitted on, from what the caller of `Deferral.fit` gives."""

import math
import warnings
from collections import Counter
from typing import Any

import numpy as np

from misgiving.deferral.bounds import binomial_cdf
from misgiving.errors import DataError, Parameter, UsageError, visible
from misgiving.groups import TUNING_PARTS, partition_groups
from misgiving.predictions.cells import classes_of_labels
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors, scores_of_outputs

MOST_TUNED = 20_000  # groups to tune on; more would be slow, and bring nothing
OWN_SETS = ("tune", "calibrate")
FREE = ("", "validation")
NOT_USED = ("train", "test", "excluded")
CHANCE = 2e-3  # probability that different cases are refused as copies
COPIES = 0.25  # share of rows; fewer copies hardly change a bound
MOST_ALIKE = 0.9  # share of repeated rows that occur equally often, above that of chance
DECIMALS, ROUNDING = 4, 1e-6  # of outputs that may be alike by rounding, and of these numbers
MOST_NAMED = 5  # classes in a message


def fitting_sets(
    tuning: Any, calibration: Any, labels: Any, training: Any, *, classes: Any, seed: int
) -> tuple[Predictions, Predictions, FittedDetectors, dict[str, Any]]:
    """Choose the sets to tune on and to certify with as `Deferral.fit` says, and fit the detectors.

    Also gives facts on the choice, by the field of `Cases`.

    Raises:
        DataError: They cannot support a policy.
        UsageError: They are given in another form than those of `Deferral.fit`.
    """
    facts: dict[str, Any] = {}
    data, calibration = given_sets(tuning, calibration, labels, classes)
    if calibration is None:
        tuning, calibration, parts = drawn_sets(data, seed=seed)
        training = data.in_set("train") if training is None else training
        counts = Counter(data.sets or ())
        left_out = {name: counts[name] for name in NOT_USED if name in counts}
        facts |= {"drawn_parts": parts, "left_out": left_out}
    else:
        tuning = data
        check_copies(tuning, calibration)
    check_sets(tuning, calibration)
    detectors = FittedDetectors()
    if training is not None:
        training = Predictions.of(training, classes=classes, name="training")
        detectors, facts["training_images"] = fit_detectors(tuning, training)
    warn_of_doubts(tuning, calibration)
    return tuning, calibration, detectors, facts


def fit_detectors(tuning: Predictions, training: Predictions) -> tuple[FittedDetectors, int]:
    """Fit the detectors on the features of training cases, if there are any, and count these."""
    if training.features is None or not len(training):
        return FittedDetectors(), 0
    training.check_labelled()
    check_same_model(tuning, training, "training")
    return FittedDetectors.fit(training), len(training)


def given_sets(
    first: Any, second: Any, labels: Any, classes: Any
) -> tuple[Predictions, Predictions | None]:
    """The sets in the arguments of `Deferral.fit`; the second is None where there is one alone.

    Raises:
        UsageError: They are in none of its forms.
    """
    if isinstance(first, Predictions) and isinstance(second, Predictions | None):
        return first, second
    if labels is not None and hasattr(first, "predict_proba"):
        columns = {"probabilities": first.predict_proba(second), "classes": first.classes_}
        return Predictions.of((columns, labels)), None
    pairs = [(first, second)]
    if isinstance(first, tuple):
        pairs = [first] if second is None else [first, second]
    others = ("columns", "keys", "outputs", "predict_proba")  # what has them is no array
    are_pairs = all(isinstance(x, tuple) and len(x) == 2 and x[1] is not None for x in pairs)
    if labels is not None or not are_pairs or any(hasattr(pairs[0][0], x) for x in others):
        raise UsageError(
            "give predictions, one set or two; or logits or probabilities with labels; or a "
            "classifier that has `predict_proba`, with its inputs and their labels "
            "(`Predictions.of` takes a data frame)"
        )
    if len(pairs) == 1:
        return Predictions.of(pairs[0], classes=classes), None
    classes = classes_of_labels(first[0], first[1], second[1]) if classes is None else classes
    tuning = Predictions.of(first, classes=classes, name="tuning")
    return tuning, Predictions.of(second, classes=classes, name="calibration")


def warn_of_doubts(tuning: Predictions, calibration: Predictions) -> None:
    """Warn the caller of `Deferral.fit` of classes without cases, and of possible copies."""
    present = {*calibration.labels.tolist()}
    absent = [visible(name) for at, name in enumerate(calibration.classes) if at not in present]
    if len(absent) > MOST_NAMED:
        absent[MOST_NAMED:] = [f"{len(absent) - MOST_NAMED} others"]
    if absent:
        warnings.warn(
            f"no calibration case is of the class {' or '.join(absent)}; nothing is "
            "known about the errors on such cases",
            stacklevel=4,
        )
    can_be_copies = not calibration.group_columns and calibration.hashes is None
    repeated = repeated_outputs(tuning, calibration) if can_be_copies else 0
    if repeated > COPIES * (count := len(tuning) + len(calibration)):
        warnings.warn(
            f"{repeated} of {count} rows have the outputs of another row; copies are not "
            "independent: give those of one case the same value in a column `group`",
            stacklevel=4,
        )


def drawn_sets(predictions: Predictions, *, seed: int) -> tuple[Predictions, Predictions, int]:
    """The cases to tune on, those to certify with, and the number of parts for the first.

    These are the sets `tune` and `calibrate`, and the number is 0; or else a part, by group, of
    the cases in no set or in the validation set, and the others of these. Cases of a group that
    is also in another set are left out.

    Raises:
        DataError: There are no such cases, or too few groups.
    """
    sets = np.array(predictions.sets or ("",) * len(predictions))
    present = [(sets == name).any() for name in OWN_SETS]
    if all(present):
        tuning, calibration = map(predictions.in_set, OWN_SETS)
        return tuning, calibration, 0
    if any(present):
        raise DataError(
            f"no row is in the set {OWN_SETS[present.index(False)]!r}; name the set of each row, "
            "or leave out the column to have the sets drawn"
        )
    units = predictions.units
    offered = np.isin(sets, FREE)
    free = np.flatnonzero(offered & ~np.isin(units, units[~offered]))
    if not len(free):
        raise DataError(
            "all cases were used for training or are only measured; give labelled cases that "
            "are new to the model"
        )
    predictions.select(free).check_labelled()  # counts all rows
    parts = max(TUNING_PARTS, math.ceil(len(np.unique(units[free])) / MOST_TUNED))
    drawn = partition_groups(units[free], parts, seed=seed)[0]
    tuning, calibration = (
        predictions.select(rows) for rows in (free[drawn], np.delete(free, drawn))
    )
    return tuning, calibration, parts


def check_sets(tuning: Predictions, calibration: Predictions) -> None:
    """Check that the sets are labelled, of one model, and that they share no cases.

    Raises:
        DataError: They are not.
    """
    for part in (tuning, calibration):
        part.check_labelled()
    check_same_model(tuning, calibration, "calibration")
    if tuning.opinions.keys() != calibration.opinions.keys():
        raise DataError(
            f"the tuning set has the opinions of {', '.join(tuning.opinions) or 'none'}, and the "
            f"calibration set of {', '.join(calibration.opinions) or 'none'}; give both the same"
        )
    shared = sorted(set(tuning.groups) & set(calibration.groups) - {""})
    if tuning.has_ids and calibration.has_ids:
        shared += sorted(set(tuning.ids) & set(calibration.ids))
    if shared:
        others = f", as are {len(shared) - 1} others" if len(shared) > 1 else ""
        raise DataError(
            f"group {shared[0]!r} is in both the tuning set and the calibration set{others}; "
            "calibrate on groups that nothing was chosen on"
        )


def check_same_model(tuning: Predictions, other: Predictions, name: str) -> None:
    """Check that another set is of the model and classes of the tuning set."""
    if (other.model, other.classes) != (tuning.model, tuning.classes):
        raise DataError(
            f"the {name} set is of the model {other.model!r} for {', '.join(other.classes)}, and "
            f"the tuning set of {tuning.model!r} for {', '.join(tuning.classes)}; predict both "
            "with one model"
        )


def check_copies(tuning: Predictions, calibration: Predictions) -> None:
    """Check that the calibration set does not have the cases of the tuning set by other names.

    A case is known by its logits. More than half of the rows that occur once in their set must
    occur in both. Coarse outputs are alike for different cases, but then as often within a set as
    between both: of the outputs that two rows have, at most a share q is in both sets by chance.

    Raises:
        DataError: It has them.
    """
    numbers = [len(tuning), len(calibration)]
    rows = np.concatenate([tuning.logits, calibration.logits])
    place = np.unique(rows, axis=0, return_inverse=True)[1].ravel()
    parts = np.split(place, numbers[:1])
    counts = np.array([np.bincount(part, minlength=len(rows)) for part in parts])
    shared, pairs = int((counts == 1).all(axis=0).sum()), int((counts.sum(axis=0) == 2).sum())
    q = 2 * math.prod(numbers) / (sum(numbers) * (sum(numbers) - 1))
    by_chance = 1 - binomial_cdf(shared - 1, pairs, q) if shared else 1.0
    if 2 * shared > (counts == 1).sum(axis=1).min() and by_chance <= CHANCE:
        raise DataError(
            f"{shared} rows of the calibration set are also in the tuning set; give cases that "
            "nothing was chosen on"
        )


def repeated_outputs(*parts: Predictions) -> int:
    """Number of rows with the outputs of another row, but for rounding; 0 if that may be chance.

    Cases of a doubled set occur twice each. Nearest neighbours and trees give the same output to
    some different cases, but one more often than another. Outputs in few decimals do not count.
    """
    kinds = []
    for part in parts:
        outputs = part.logits if part.kind == "logits" else np.exp(part.logits)
        exact = (np.abs(outputs - outputs.round(DECIMALS)) > ROUNDING).any(axis=1)
        kinds.append(part.logits[exact].round(DECIMALS))
    counts = np.unique(np.concatenate(kinds), axis=0, return_counts=True)[1]
    rows = np.bincount(counts[counts > 1], weights=counts[counts > 1])  # by times that each occurs
    return int(rows.sum()) if rows.max(initial=0) >= MOST_ALIKE * rows.sum() else 0


def check_ood_detector(name: str, tuning: Predictions, detectors: FittedDetectors) -> None:
    """Check that there is an OOD score of this name for such predictions.

    Raises:
        UsageError: There is none, or the detectors read other features or taps.
    """
    scores = scores_of_outputs(tuning.select(np.arange(1)), detectors)
    if name not in scores:
        raise UsageError(
            Parameter("ood_detector"),
            f" {name!r} is unknown, or needs what the predictions do not have: logits, features or "
            "taps of the set train, the last layer, or predicted_loss; choose from "
            f"{', '.join(scores)}",
        )
