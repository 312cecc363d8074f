"""Findings beside the claims, as numbers and codes: what the templates turn into sentences."""

import math
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any, NamedTuple, get_args

import pandas as pd

from misgiving.evaluation.measures import POLICY_SET
from misgiving.metrics.selective import BY_GROUPS, BY_IMAGES
from misgiving.reproduction.config import RATE_MODELS, learning_rate_of
from misgiving.reproduction.report.claims import Effect, effect_of
from misgiving.reproduction.report.names import OF_POLICY
from misgiving.reproduction.report.run import Run, main_model, models_of, select

COLLAPSED_SPREAD = 0.1  # an estimate with less than a tenth of the true spread counts as constant
REACHED = 0.95  # of vanilla's mean final value
MAIN_TARGET = 0.1  # the target of the first sentence
SMALLEST = "smallest_certifiable_error"
POLICY_METRICS = (
    *("attained", "coverage", "ood_share", "calibration_cases"),
    *(SMALLEST, BY_GROUPS, BY_IMAGES),
)


def collapse_of(run: Run) -> tuple[list[float], list[float]]:
    """Spread of the mse estimate over that of the true loss, and its R², after the last epoch.

    By trial (Figure 2): a description, not a test.
    """
    rows = select(run.histories, experiment="generalization", model="mse")
    rows = select(rows, set=run.settings["tuning_set"])
    last = rows[rows["epoch"] == rows["epoch"].max()]
    return last["spread_ratio"].dropna().to_list(), last["r_squared"].dropna().to_list()


class Convergence(NamedTuple):
    """Trainings at each learning rate (Section 4.1), those at the protocol's own rate among them.

    Attributes:
        own_rate: The protocol's rate.
        level: `REACHED` of vanilla's mean final balanced accuracy at that rate.
        runs: Columns `rate, trial, model, epochs, last, final, diverged`: the first epoch at the
            level on the monitored set, the balanced accuracy there after the last epoch, and that
            on the measured set; NaN for none. In the order of the trials.
        pairs: By rate, the numbers of `pairs` of vanilla and proposed of the same trial; of those
            in which the proposed model is `faster` to the level, of the `decided` ones, in which
            either reaches it; and of those in which `only_proposed` ends at the level.
        ends: By model, the numbers of `runs` above the lowest rate, and of those that end
            `at_level`, and that `diverged`.
    """

    own_rate: float
    level: float
    runs: pd.DataFrame
    pairs: pd.DataFrame
    ends: pd.DataFrame


def convergence_of(run: Run) -> Convergence | None:
    """Gather the learning rates; None where vanilla's own rate gives no level to reach."""
    curves = select(run.histories, set=run.settings["tuning_set"]).sort_values("epoch")
    own = select(curves, experiment="generalization", model="vanilla")
    ends = own.groupby("trial")["balanced_accuracy"].last()
    if not len(ends):
        return None
    own_rate, level = run.settings["training"]["learning_rate"], REACHED * fmean(ends)
    keys, models = ["experiment", "trial", "model"], [*RATE_MODELS]
    results = run.rows(detector="", metric=["diverged", "balanced_accuracy"], model=models)
    results = results.pivot_table("value", keys, "metric", aggfunc="first")
    results = results.reindex(columns=["diverged", "balanced_accuracy"])
    curves = select(curves, model=models)
    runs = pd.DataFrame(
        {
            "epochs": curves[curves["balanced_accuracy"] >= level].groupby(keys)["epoch"].first(),
            "last": curves.groupby(keys)["balanced_accuracy"].last(),
            "final": results["balanced_accuracy"],
            "diverged": results["diverged"],
        }
    )
    runs["diverged"] = runs["diverged"] > 0
    runs.loc[runs["diverged"], ["epochs", "last"]] = float("nan")
    runs = runs.reset_index()
    rates = runs["experiment"].map(learning_rate_of).astype(float)
    runs["rate"] = rates.mask(runs["experiment"] == "generalization", own_rate)
    runs = runs.dropna(subset="rate").sort_values("trial", kind="stable")
    return Convergence(own_rate, level, runs, _pairs(runs, level), _ends(runs, level))


def _pairs(runs: pd.DataFrame, level: float) -> pd.DataFrame:
    vanilla, proposed = (select(runs, model=model) for model in RATE_MODELS)
    pairs = vanilla.merge(proposed, on=["rate", "trial"], suffixes=("_vanilla", "_proposed"))
    epochs = pairs[["epochs_vanilla", "epochs_proposed"]].fillna(math.inf)  # the slowest
    counted = {
        "rate": pairs["rate"],
        "pairs": True,
        "faster": epochs["epochs_proposed"] < epochs["epochs_vanilla"],
        "decided": epochs.min(axis=1) < math.inf,
        "only_proposed": (pairs["last_proposed"] >= level) & ~(pairs["last_vanilla"] >= level),
    }
    counts = pd.DataFrame(counted).groupby("rate").sum()
    return counts.reindex(sorted({*runs["rate"]}), fill_value=0)


def _ends(runs: pd.DataFrame, level: float) -> pd.DataFrame:
    higher = runs[runs["rate"] > runs["rate"].min()]
    counted = {"runs": True, "at_level": higher["last"] >= level, "diverged": higher["diverged"]}
    counts = pd.DataFrame(counted).groupby(higher["model"]).sum()
    return counts.reindex([*RATE_MODELS], fill_value=0)


def diverged(run: Run) -> list[tuple[str, int]]:
    """Model and trial of each training in Section 4.1 that diverged."""
    return _trainings(run, metric="diverged", value=1.0)


def uncalibrated(run: Run) -> list[tuple[str, int]]:
    """Model and trial of each policy that is missing, though the classifier was measured."""
    lost = {*_trainings(run, dataset=POLICY_SET), *diverged(run)}
    measured = _trainings(run, dataset=run.settings["measured_set"])
    return [training for training in measured if training not in lost]


def _trainings(run: Run, **columns: object) -> list[tuple[str, int]]:
    rows = run.rows(experiment="generalization", **columns)
    return sorted(set(zip(rows["model"], rows["trial"], strict=True)))


def odin_parameters(run: Run, model: str) -> list[str]:
    """ODIN's tuned temperature and epsilon in each trial."""
    tuning = run.settings["odin"]["tuning_set"]
    temperatures, epsilons = (
        run.values(("ood_detection", tuning, "odin", metric), model)
        for metric in ("temperature", "epsilon")
    )
    return [f"{temperatures[t]:g} / {epsilons.get(t, float('nan')):g}" for t in temperatures]


def by_effect(differences: Iterable[Any]) -> dict[Effect, list[Any]]:
    """The differences under each effect that occurs."""
    rows = list(differences)
    effects = [effect_of(row) for row in rows]
    return {
        effect: [row for row, its in zip(rows, effects, strict=True) if its == effect]
        for effect in get_args(Effect)
        if effect in effects
    }


def ood_shares(run: Run) -> tuple[str, dict[str, list[float]]]:
    """Main model, and the shares by trial that its OOD rule calls OOD, by set from low to high."""
    rows = run.rows(detector="ood_rule", metric="ood_share")
    model = main_model(models_of(rows))
    own = select(rows, experiment="ood_detection", model=model)
    shares = {name: values.to_list() for name, values in own.groupby("dataset")["value"]}
    return model, dict(sorted(shares.items(), key=lambda item: (fmean(item[1]), item[0])))


class Target(NamedTuple):
    """The policies of one model for one target error rate.

    Attributes:
        model: Its name.
        target: The error rate.
        policies: A row for each trial, and the columns `POLICY_METRICS`; NaN for none.
        certified: The rows of the trials in which the target could be certified.
        intervals: Over trials, by metric; None for none.
        error: The metric that was certified: the error for one image of each group.
        errors: The error among the accepted of each trial in which some were accepted.
        smallest: The smallest certifiable error of each trial in which this target was not
            certified.
        status: The error against its target, of which only a whole interval decides: `met`,
            `missed`, `inconclusive`, `no_interval` or `nothing_accepted`.
    """

    model: str
    target: float
    policies: pd.DataFrame
    certified: pd.DataFrame
    intervals: Mapping[str, Any]
    error: str
    errors: list[float]
    smallest: list[float]
    status: str


def targets_of(run: Run) -> list[Target]:
    """Every target of every model, the strictest first."""
    rows = run.rows(experiment="generalization", dataset=POLICY_SET)
    rows = rows[rows["detector"].str.startswith(OF_POLICY)]
    rows = rows.assign(target=rows["detector"].str.removeprefix(OF_POLICY).astype(float))
    targets = []
    for model in models_of(rows):
        for target, own in select(rows, model=model).groupby("target"):
            policies = own.pivot(index="trial", columns="metric", values="value")
            policies = policies.reindex(columns=[*POLICY_METRICS])
            where = ("generalization", POLICY_SET, f"{OF_POLICY}{target:g}")
            intervals = {name: run.interval((*where, name), model) for name in POLICY_METRICS}
            certified = policies[policies["attained"] == 1]
            error = BY_GROUPS if policies[BY_GROUPS].notna().any() else BY_IMAGES
            errors = certified[error].dropna().to_list()
            smallest = policies.drop(certified.index)[SMALLEST].dropna().to_list()
            status = _status(errors, intervals[error], target)
            facts = (intervals, error, errors, smallest, status)
            targets.append(Target(model, target, policies, certified, *facts))
    return targets


def _status(errors: list[float], row: Any, target: float) -> str:
    if not errors:
        return "nothing_accepted"
    if row is None or row.lower is None:
        return "no_interval"
    if row.upper <= target:
        return "met"
    return "missed" if row.lower > target else "inconclusive"


def main_target(targets: list[Target]) -> Target:
    """The target of the first sentence: the proposed model's, of at most one error in ten."""
    model = main_model([target.model for target in targets])
    own = [target for target in targets if target.model == model]
    return min(own, key=lambda target: abs(target.target - MAIN_TARGET))
