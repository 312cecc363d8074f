"""Findings beside the claims, as numbers and codes: what the templates turn into sentences."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import pandas as pd

from misgiving.evaluation.measures import POLICY_SET
from misgiving.metrics.selective import BY_GROUPS, BY_IMAGES
from misgiving.reproduction.config import MSP, RATE_MODELS, learning_rate_of
from misgiving.reproduction.report.claims import Effect, effect_of
from misgiving.reproduction.report.names import OF_POLICY
from misgiving.reproduction.report.run import Quantity, Run, main_model, models_of, select

COLLAPSED_SPREAD = 0.1  # an estimate with less than a tenth of the true spread counts as constant
REACHED = 0.95  # of vanilla's mean final value
MAIN_TARGET = 0.1  # the target of the first sentence


def collapse_of(run: Run) -> tuple[list[float], list[float]]:
    """Spread of the mse estimate over that of the true loss, and its R², after the last epoch.

    By trial (Figure 2): a description, not a test.
    """
    rows = select(run.histories, experiment="generalization", model="mse")
    rows = select(rows, set=run.settings["monitored_set"])
    last = rows[rows["epoch"] == rows["epoch"].max()]
    return last["spread_ratio"].dropna().to_list(), last["r_squared"].dropna().to_list()


@dataclass(frozen=True, eq=False)
class Convergence:
    """Trainings at each learning rate (Section 4.1), those at the protocol's own rate among them.

    Attributes:
        own_rate: The protocol's rate.
        level: `REACHED` of vanilla's mean final balanced accuracy at that rate.
        runs: Columns `rate, trial, model, epochs, last, final, diverged`: the first epoch at the
            level on the monitored set, the balanced accuracy there after the last epoch, and that
            on the measured set; NaN for none.
    """

    own_rate: float
    level: float
    runs: pd.DataFrame

    @property
    def rates(self) -> list[float]:
        """The rates from low to high."""
        return sorted(set(self.runs["rate"]))

    def at(self, rate: float, model: str) -> pd.DataFrame:
        """The runs of one model at one rate, trial by trial."""
        return select(self.runs, rate=rate, model=model).sort_values("trial")

    def pairs(self, rate: float) -> pd.DataFrame:
        """Vanilla and proposed of the same trial, with suffixes `_vanilla` and `_proposed`."""
        vanilla, proposed = (self.at(rate, model) for model in RATE_MODELS)
        return vanilla.merge(proposed, on="trial", suffixes=("_vanilla", "_proposed"))

    def faster(self, rate: float) -> tuple[int, int]:
        """Pairs in which the proposed model reaches the level first, and pairs that decide.

        A model that never reaches it is slower than one that does; pairs without either are left
        out.
        """
        epochs = self.pairs(rate)[["epochs_vanilla", "epochs_proposed"]].fillna(float("inf"))
        decided = epochs[(epochs < float("inf")).any(axis=1)]
        return int((decided["epochs_proposed"] < decided["epochs_vanilla"]).sum()), len(decided)

    def only_proposed(self, rate: float) -> tuple[int, int]:
        """Pairs in which the proposed model ends at the level and vanilla does not; all pairs."""
        pairs = self.pairs(rate)
        vanilla, proposed = (pairs[f"last_{model}"] >= self.level for model in RATE_MODELS)
        return int((proposed & ~vanilla).sum()), len(pairs)

    def ends(self, model: str) -> tuple[int, int, int]:
        """Runs above the lowest rate: all, those that end at the level, and those that diverged."""
        runs = select(self.runs, model=model)
        runs = runs[runs["rate"] > self.rates[0]]
        return len(runs), int((runs["last"] >= self.level).sum()), int(runs["diverged"].sum())


def convergence_of(run: Run) -> Convergence | None:
    """Gather the learning rates; None where vanilla's own rate gives no level to reach."""
    curves = select(run.histories, set=run.settings["monitored_set"]).sort_values("epoch")
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
    return Convergence(own_rate, level, runs.dropna(subset="rate"))


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
        run.values(Quantity("ood_detection", tuning, "odin", metric), model)
        for metric in ("temperature", "epsilon")
    )
    return [f"{temperatures[t]:g} / {epsilons.get(t, float('nan')):g}" for t in temperatures]


def by_effect(differences: Iterable[Any]) -> dict[Effect, list[Any]]:
    """The differences under each effect that occurs."""
    rows = list(differences)
    groups = {effect: [row for row in rows if effect_of(row) is effect] for effect in Effect}
    return {effect: group for effect, group in groups.items() if group}


def from_msp(run: Run, detector: str, metric: str) -> dict[str, Any]:
    """The difference of an acceptance score from MSP in the same model, by model."""
    quantity = Quantity("generalization", run.settings["measured_set"], detector, metric)
    rows = {model: run.interval(quantity, model, MSP) for model in models_of(run.intervals)}
    return {model: row for model, row in rows.items() if row is not None}


def ood_shares(run: Run) -> tuple[str, dict[str, list[float]]]:
    """Main model, and the shares by trial that its OOD rule calls OOD, by set from low to high."""
    rows = run.rows(detector="ood_rule", metric="ood_share")
    model = main_model(models_of(rows))
    own = select(rows, experiment="ood_detection", model=model)
    shares = {name: values.to_list() for name, values in own.groupby("dataset")["value"]}
    return model, dict(sorted(shares.items(), key=lambda item: (fmean(item[1]), item[0])))


@dataclass(frozen=True, eq=False)
class Target:
    """The policies of one model for one target error rate.

    Attributes:
        policies: A row for each trial, a column for each metric; NaN for none.
        intervals: Over trials, by metric.
    """

    model: str
    target: float
    policies: pd.DataFrame
    intervals: Mapping[str, Any]

    def values(self, metric: str, *, certified: bool | None = None) -> list[float]:
        """A metric in the trials that have it; all, or where the target was certified or not."""
        attained = self.policies["attained"] == 1
        rows = self.policies if certified is None else self.policies[attained == certified]
        return rows[metric].dropna().to_list() if metric in rows else []

    @property
    def certified(self) -> int:
        """The number of trials in which the target could be certified."""
        return len(self.values("attained", certified=True))

    @property
    def error(self) -> str:
        """The metric that was certified: the error for one image of each group."""
        return BY_GROUPS if self.values(BY_GROUPS) else BY_IMAGES

    @property
    def errors(self) -> list[float]:
        """The error among the accepted of each trial in which some were accepted."""
        return self.values(self.error, certified=True)

    @property
    def smallest(self) -> list[float]:
        """The smallest certifiable error of each trial in which this target was not certified."""
        return self.values("smallest_certifiable_error", certified=False)

    @property
    def met(self) -> int:
        """The trials in which the error among the accepted is at most the target."""
        return sum(error <= self.target for error in self.errors)

    @property
    def status(
        self,
    ) -> Literal["met", "missed", "inconclusive", "no_interval", "nothing_accepted"]:
        """The error among the accepted against its target; only a whole interval decides."""
        if not self.errors:
            return "nothing_accepted"
        row = self.intervals.get(self.error)
        if row is None or row.lower is None:
            return "no_interval"
        if row.upper <= self.target:
            return "met"
        return "missed" if row.lower > self.target else "inconclusive"


def targets_of(run: Run) -> list[Target]:
    """Every target of every model, the strictest first."""
    rows = run.rows(experiment="generalization", dataset=POLICY_SET)
    rows = rows[rows["detector"].str.startswith(OF_POLICY)]
    rows = rows.assign(target=rows["detector"].str.removeprefix(OF_POLICY).astype(float))
    targets = []
    for model in models_of(rows):
        for target, own in select(rows, model=model).groupby("target"):
            policies = own.pivot(index="trial", columns="metric", values="value")
            where = ("generalization", POLICY_SET, f"{OF_POLICY}{target:g}")
            intervals = {name: run.interval(Quantity(*where, name), model) for name in policies}
            targets.append(Target(model, target, policies, intervals))
    return targets


def main_target(targets: list[Target]) -> Target:
    """The target of the first sentence: the proposed model's, of at most one error in ten."""
    model = main_model([target.model for target in targets])
    own = [target for target in targets if target.model == model]
    return min(own, key=lambda target: abs(target.target - MAIN_TARGET))
