"""Findings beside the claims, as numbers and codes: what the templates turn into sentences."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean
from typing import Any

import pandas as pd

from misgiving.evaluation.evaluate import POLICY_SET
from misgiving.metrics.selective import BY_GROUPS, BY_IMAGES
from misgiving.report.frames import distinct, models_of, select, spread_of
from misgiving.report.names import DETECTOR_TITLES, RATE, RATE_MODELS
from misgiving.report.reproduction.claims import Effect, effect_of
from misgiving.report.reproduction.run import Quantity, Run, main_model

MSP = "msp"
COLLAPSED_SPREAD = 0.1  # an estimate with less than a tenth of the true spread counts as constant
FALSE_ALARMS = 0.05  # to which the OOD rule is calibrated
REACHED = 0.95  # of vanilla's mean final value
POLICY = "policy/"
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
    experiments = sorted({*run.results["experiment"], *run.histories["experiment"]})
    rates = {"generalization": own_rate}
    rates |= {n: float(n.removeprefix(RATE)) for n in experiments if n.startswith(RATE)}
    trainings = []
    for experiment, rate in rates.items():
        for model in RATE_MODELS:
            results = run.rows(experiment=experiment, model=model, detector="")
            curve = select(curves, experiment=experiment, model=model)
            for trial in sorted({*results["trial"], *curve["trial"]}):
                training = {"rate": rate, "trial": trial, "model": model}
                own_results, own_curve = (select(rows, trial=trial) for rows in (results, curve))
                trainings.append(training | _training(own_results, own_curve, level))
    return Convergence(own_rate, level, pd.DataFrame(trainings))


def _training(results: pd.DataFrame, curve: pd.DataFrame, level: float) -> dict[str, object]:
    """The other columns of `Convergence.runs` for one training."""
    diverged = bool(select(results, metric="diverged")["value"].sum())
    accuracy = curve["balanced_accuracy"]
    if diverged:
        accuracy = accuracy.iloc[:0]
    reached = curve["epoch"][accuracy.index[accuracy >= level]]
    final = select(results, metric="balanced_accuracy")["value"]
    return {
        "epochs": float(next(iter(reached), "nan")),
        "last": float(next(reversed(accuracy.to_list()), "nan")),
        "final": float(next(iter(final), "nan")),
        "diverged": diverged,
    }


def diverged(run: Run) -> list[tuple[str, int]]:
    """Model and trial of each training in Section 4.1 that diverged."""
    rows = run.rows(experiment="generalization", metric="diverged")
    rows = rows[rows["value"] > 0]
    return sorted(set(zip(rows["model"], rows["trial"], strict=True)))


def uncalibrated(run: Run) -> list[tuple[str, int]]:
    """Model and trial of each policy that is missing, though the classifier was measured."""
    trained, calibrated = (
        set(zip(rows["model"], rows["trial"], strict=True))
        for name in (run.measured, POLICY_SET)
        for rows in [run.rows(experiment="generalization", dataset=name)]
    )
    return sorted(trained - calibrated - set(diverged(run)))


def in_order(present: Iterable[str], order: Iterable[str]) -> list[str]:
    """The names that occur, each once: those with a place in their order, then any others."""
    places = {name: place for place, name in enumerate(order)}
    return sorted(distinct(present), key=lambda name: places.get(name, len(places)))


def sensitivities(metrics: Iterable[str], classes: Iterable[str]) -> list[str]:
    """The sensitivities among these metrics, in the order of the classes, then any others."""
    present = (name for name in metrics if name.startswith("sensitivity/"))
    return in_order(present, (f"sensitivity/{name}" for name in classes))


def score_rows(run: Run, metrics: Iterable[str]) -> pd.DataFrame:
    """The results of 4.1 for these metrics of acceptance scores."""
    rows = run.rows(experiment="generalization", dataset=run.measured)
    return rows[(rows["detector"] != "") & rows["metric"].isin(list(metrics))]


def calibration_rows(run: Run, quantities: Iterable[str], metrics: Iterable[str]) -> pd.DataFrame:
    """The calibration errors of the probabilities that are shown with a decision."""
    rows = run.rows(experiment="generalization", dataset=POLICY_SET)
    return rows[rows["detector"].isin(list(quantities)) & rows["metric"].isin(list(metrics))]


def detectors_of(rows: pd.DataFrame) -> list[str]:
    """The detectors that occur, in the order of their titles."""
    return in_order(rows["detector"], DETECTOR_TITLES)


def models_with(run: Run, experiment: str, detectors: Iterable[str]) -> list[str]:
    """The models with an AUROC of one of these detectors."""
    rows = run.rows(experiment=experiment, metric="auroc")
    return models_of(rows[rows["detector"].isin(list(detectors))])


def odin_parameters(run: Run, model: str) -> list[str]:
    """ODIN's tuned temperature and epsilon in each trial."""
    tuning = run.settings["odin"]["tuning_set"]
    temperatures, epsilons = (
        run.values(Quantity("ood_detection", tuning, "odin", metric), model)
        for metric in ("temperature", "epsilon")
    )
    return [f"{temperatures[t]:g} / {epsilons.get(t, float('nan')):g}" for t in temperatures]


def metrics_from_msp(run: Run, detector: str | None = None) -> list[str]:
    """The metrics with a difference from MSP: of an acceptance score, or of any."""
    rows = select(run.intervals, experiment="generalization", dataset=run.measured, baseline=MSP)
    return distinct((rows if detector is None else select(rows, detector=detector))["metric"])


def by_effect(differences: Iterable[Any]) -> dict[Effect, list[Any]]:
    """The differences under each effect that occurs."""
    rows = list(differences)
    groups = {effect: [row for row in rows if effect_of(row) is effect] for effect in Effect}
    return {effect: group for effect, group in groups.items() if group}


def from_msp(run: Run, detector: str, metric: str) -> dict[str, Any]:
    """The difference of an acceptance score from MSP in the same model, by model."""
    quantity = Quantity("generalization", run.measured, detector, metric)
    rows = {model: run.interval(quantity, model, MSP) for model in models_of(run.intervals)}
    return {model: row for model, row in rows.items() if row is not None}


def untuned_sets(run: Run) -> list[str]:
    """The sets on which no detector was tuned or chosen."""
    return [name for name in distinct(run.detector_rows["dataset"]) if name not in run.tuned]


def ood_shares(run: Run) -> tuple[str, dict[str, Any]]:
    """Shares that the OOD rule calls OOD by set, of the main model, from low to high."""
    rows = run.rows(detector="ood_rule", metric="ood_share")
    model = main_model(models_of(rows))
    own = select(rows, experiment="ood_detection", model=model)
    shares = {name: spread_of(group) for name, group in own.groupby("dataset")["value"]}
    return model, dict(sorted(shares.items(), key=lambda item: (item[1], item[0])))


def grouped_by(
    rows: Iterable[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], str]
) -> dict[str, list[Mapping[str, Any]]]:
    """The rows under each value of a function of them."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


class TargetStatus(StrEnum):
    """The error among the accepted against its target; only a whole interval decides."""

    MET = "met"
    MISSED = "missed"
    INCONCLUSIVE = "inconclusive"
    NO_INTERVAL = "no_interval"
    NOTHING_ACCEPTED = "nothing_accepted"


@dataclass(frozen=True)
class Target:
    """The policies of one model for one target error rate.

    Attributes:
        policies: The metrics of each trial.
        intervals: Over trials, by metric.
    """

    model: str
    target: float
    policies: tuple[Mapping[str, float], ...]
    intervals: Mapping[str, Any]

    def values(self, metric: str, *, certified: bool | None = None) -> list[float]:
        """A metric in the trials that have it; all, or where the target was certified or not."""
        return [
            policy[metric]
            for policy in self.policies
            if metric in policy and certified in (None, policy.get("attained") == 1)
        ]

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
    def status(self) -> TargetStatus:
        """Compare the error among the accepted with its target."""
        if not self.errors:
            return TargetStatus.NOTHING_ACCEPTED
        row = self.intervals.get(self.error)
        if row is None or row.lower is None:
            return TargetStatus.NO_INTERVAL
        if row.upper <= self.target:
            return TargetStatus.MET
        return TargetStatus.MISSED if row.lower > self.target else TargetStatus.INCONCLUSIVE


def targets_of(run: Run) -> list[Target]:
    """Every target of every model, the strictest first."""
    rows = run.rows(experiment="generalization", dataset=POLICY_SET)
    rows = rows[rows["detector"].str.startswith(POLICY)]
    targets = []
    for model in models_of(rows):
        of_model = [(float(name.removeprefix(POLICY)), own)
                    for name, own in select(rows, model=model).groupby("detector")]  # fmt: skip
        for target, own in sorted(of_model, key=lambda item: item[0]):
            table = own.pivot(index="trial", columns="metric", values="value")
            where = ("generalization", POLICY_SET, f"{POLICY}{target:g}")
            intervals = {name: run.interval(Quantity(*where, name), model) for name in table}
            policies = tuple(row.dropna().to_dict() for _, row in table.iterrows())
            targets.append(Target(model, target, policies, intervals))
    return targets


def main_target(targets: list[Target]) -> Target:
    """The target of the first sentence: the proposed model's, of at most one error in ten."""
    model = main_model([target.model for target in targets])
    own = [target for target in targets if target.model == model]
    return min(own, key=lambda target: abs(target.target - MAIN_TARGET))
