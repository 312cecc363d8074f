"""Findings beside the claims, as numbers and codes: what the templates turn into sentences."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd

from misgiving.evaluation.evaluate import POLICY_SET
from misgiving.evaluation.measures import CHOSEN
from misgiving.report.frames import distinct, models_of, select, spread_of
from misgiving.report.names import DETECTOR_TITLES
from misgiving.report.reproduction.claims import Effect, effect_of
from misgiving.report.reproduction.run import Quantity, Run, main_model

MSP = "msp"
COLLAPSED_SPREAD = 0.1  # an estimate with less than a tenth of the true spread counts as constant
FALSE_ALARMS = 0.05  # to which the OOD rule is calibrated
REACHED = 0.95  # of vanilla's mean final value
RATE_MODELS = ("vanilla", "proposed")
RATE = "learning_rate/"


class Collapse(NamedTuple):
    """Spread of the mse estimate after the last epoch, over that of the true loss, by trial."""

    spreads: tuple[float, ...]
    fits: tuple[float, ...]

    @property
    def collapsed(self) -> int:
        """The number of trials in which the estimate is as good as constant."""
        return sum(ratio < COLLAPSED_SPREAD for ratio in self.spreads)


def collapse_of(run: Run) -> Collapse:
    """Collapse of the mse estimate to a constant (Figure 2): a description, not a test."""
    rows = select(run.histories, experiment="generalization", model="mse")
    rows = select(rows, set=run.settings["monitored_set"])
    last = rows[rows["epoch"] == rows["epoch"].max()]
    return Collapse(tuple(last["spread_ratio"].dropna()), tuple(last["r_squared"].dropna()))


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

    def has_pairs(self, rates: Iterable[float]) -> bool:
        """True if a trial has both models at one of these rates."""
        return any(len(self.pairs(rate)) for rate in rates)

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
    own = curves[curves["experiment"] == "generalization"]
    ends = select(own, model="vanilla").groupby("trial")["balanced_accuracy"].last()
    if not len(ends):
        return None
    own_rate, level = run.settings["training"]["learning_rate"], REACHED * fmean(ends)
    experiments = sorted({*run.results["experiment"], *run.histories["experiment"]})
    rates = {"generalization": own_rate}
    rates |= {n: float(n.removeprefix(RATE)) for n in experiments if n.startswith(RATE)}
    rows = [
        _training(rate, model, int(trial), level, results, curve)
        for experiment, rate in rates.items()
        for model in RATE_MODELS
        for results, curve in [
            (
                run.rows(experiment=experiment, model=model, detector=""),
                select(curves, experiment=experiment, model=model),
            )
        ]
        for trial in sorted({*results["trial"], *curve["trial"]})
    ]
    columns = ["rate", "trial", "model", "epochs", "last", "final", "diverged"]
    return Convergence(own_rate, level, pd.DataFrame(rows, columns=columns))


def _training(
    rate: float, model: str, trial: int, level: float, results: pd.DataFrame, curve: pd.DataFrame
) -> tuple[object, ...]:
    """A row of `Convergence.runs`."""
    results, curve = select(results, trial=trial), select(curve, trial=trial)
    diverged = bool(select(results, metric="diverged")["value"].sum())
    accuracy = curve["balanced_accuracy"]
    reached = curve["epoch"][accuracy >= level]
    final = select(results, metric="balanced_accuracy")["value"]
    missing = float("nan")
    return (
        rate,
        trial,
        model,
        reached.iloc[0] if len(reached) and not diverged else missing,
        accuracy.iloc[-1] if len(curve) and not diverged else missing,
        final.iloc[0] if len(final) else missing,
        diverged,
    )


def diverged(run: Run) -> list[tuple[str, int]]:
    """Model and trial of each training in Section 4.1 that diverged."""
    rows = run.rows(experiment="generalization", metric="diverged")
    rows = rows[rows["value"] > 0]
    return sorted(set(zip(rows["model"], rows["trial"], strict=True)))


def uncalibrated(run: Run) -> list[tuple[str, int]]:
    """Model and trial of each policy that is missing, though the classifier was measured."""
    trained, calibrated = (
        set(zip(rows["model"], rows["trial"], strict=True))
        for rows in (run.rows(experiment="generalization", dataset=name)
                     for name in (run.measured, POLICY_SET))
    )  # fmt: skip
    return sorted(trained - calibrated - set(diverged(run)))


def sensitivities(metrics: Iterable[str], classes: Iterable[str]) -> list[str]:
    """The sensitivities among these metrics, in the order of the classes, then any others."""
    present = [name for name in metrics if name.startswith("sensitivity/")]
    ordered = [f"sensitivity/{name}" for name in classes]
    return [*(name for name in ordered if name in present),
            *(name for name in present if name not in ordered)]  # fmt: skip


def score_rows(run: Run, metrics: Iterable[str]) -> pd.DataFrame:
    """The results of 4.1 for these metrics of acceptance scores."""
    rows = run.rows(experiment="generalization", dataset=run.measured)
    return rows[(rows["detector"] != "") & rows["metric"].isin(list(metrics))]


def calibration_rows(run: Run, quantities: Iterable[str], metrics: Iterable[str]) -> pd.DataFrame:
    """The calibration errors of the probabilities that are shown with a decision."""
    rows = run.rows(experiment="generalization", dataset=POLICY_SET)
    return rows[rows["detector"].isin(list(quantities)) & rows["metric"].isin(list(metrics))]


def detectors_of(rows: pd.DataFrame) -> list[str]:
    """The detectors that occur: known ones in their order, then any others."""
    present = distinct(rows["detector"])
    return [*(name for name in DETECTOR_TITLES if name in present),
            *(name for name in present if name not in DETECTOR_TITLES)]  # fmt: skip


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


def chosen_model(run: Run) -> str:
    """The model whose chosen detector is judged; empty where it has no interval."""
    rows = select(run.intervals, detector=CHOSEN, metric="auroc", baseline="")
    models = models_of(rows[rows["dataset"].isin(untuned_sets(run))])
    return main_model(models) if models else ""


def metrics_from_msp(run: Run, detector: str | None = None) -> list[str]:
    """The metrics with a difference from MSP: of an acceptance score, or of any."""
    rows = select(run.intervals, experiment="generalization", dataset=run.measured, baseline=MSP)
    return distinct((rows if detector is None else select(rows, detector=detector))["metric"])


def by_effect(differences: Iterable[Any]) -> dict[Effect, list[Any]]:
    """The differences under each effect that occurs."""
    groups: dict[Effect, list[Any]] = {effect: [] for effect in Effect}
    for difference in differences:
        groups[effect_of(difference)].append(difference)
    return {effect: rows for effect, rows in groups.items() if rows}


def from_msp(run: Run, detector: str, metric: str) -> dict[str, Any]:
    """The difference of an acceptance score from MSP in the same model, by model."""
    quantity = Quantity("generalization", run.measured, detector, metric)
    models = models_of(run.intervals)
    rows = {model: run.interval(quantity, model, MSP) for model in models}
    return {model: row for model, row in rows.items() if row is not None}


class Order(StrEnum):
    """Order of two values whose intervals are not paired: only disjoint ones decide."""

    HIGHER = "higher"
    LOWER = "lower"
    OVERLAPPING = "overlapping"
    UNKNOWN = "unknown"


def order_of(first: Any, second: Any) -> Order:
    """Compare two rows of `intervals.csv` that have no paired difference."""
    ends = [end for row in (first, second) if row for end in (row.lower, row.upper)]
    if len(ends) < 4 or None in ends:
        return Order.UNKNOWN
    if ends[0] > ends[3]:
        return Order.HIGHER
    return Order.LOWER if ends[1] < ends[2] else Order.OVERLAPPING


def untuned_sets(run: Run) -> list[str]:
    """The sets on which no detector was tuned or chosen."""
    return [name for name in distinct(run.detector_rows["dataset"]) if name not in run.tuned]


def chosen_against(run: Run, model: str, other: str) -> dict[Order, list[str]]:
    """Sets by the order of the AUROC of the chosen detector and of another."""
    orders: dict[Order, list[str]] = {order: [] for order in Order}
    for name in untuned_sets(run):
        experiment = "new_classes" if name.startswith("unseen") else "ood_detection"
        rows = [
            run.interval(Quantity(experiment, name, detector, "auroc"), model)
            for detector in (CHOSEN, other)
        ]
        if rows[0] is not None:
            orders[order_of(*rows)].append(name)
    return {order: names for order, names in orders.items() if names}


def ood_shares(run: Run) -> tuple[str, dict[str, Any]]:
    """Shares that the OOD rule calls OOD by set, of the main model, from low to high."""
    rows = run.rows(detector="ood_rule", metric="ood_share")
    model = main_model(models_of(rows))
    own = select(rows, experiment="ood_detection", model=model)
    shares = {name: spread_of(group) for name, group in own.groupby("dataset")["value"]}
    return model, dict(sorted(shares.items(), key=lambda item: (item[1], item[0])))


def error_probabilities(run: Run) -> tuple[str, list[tuple[float, float]]]:
    """Mean error probability and share of errors of the main model, trial by trial."""
    rows = select(run.reliability, quantity="error_probability")
    model = main_model(models_of(rows))
    pairs = []
    for _, bins in select(rows, model=model).groupby("trial"):
        images = bins["images"].sum()
        predicted, observed = ((bins["images"] * bins[name]).sum() for name in
                               ("predicted", "observed"))  # fmt: skip
        pairs.append((float(predicted / images), float(observed / images)))
    return model, pairs


def scaling(run: Run) -> dict[str, list[tuple[float, float]]]:
    """Calibration error of each model before and after scaling, trial by trial."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for model in run.models():
        before, after = (
            run.values(Quantity("generalization", POLICY_SET, name, "ece"), model)
            for name in ("softmax", "scaled_softmax")
        )
        if both := [(before[trial], after[trial]) for trial in before if trial in after]:
            pairs[model] = both
    return pairs


def rising(pairs: Iterable[tuple[float, float]]) -> int:
    """The pairs whose second value is above the first."""
    return sum(second > first for first, second in pairs)


def falling(pairs: Iterable[tuple[float, float]]) -> int:
    """The pairs whose second value is below the first."""
    return sum(second < first for first, second in pairs)


def mean_scaling(pairs: Mapping[str, list[tuple[float, float]]]) -> tuple[float, float]:
    """Means of the calibration error before and after scaling, over models and trials."""
    before, after = zip(*(pair for of_model in pairs.values() for pair in of_model), strict=True)
    return fmean(before), fmean(after)


def grouped_by(
    rows: Iterable[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], str]
) -> dict[str, list[Mapping[str, Any]]]:
    """The rows under each value of a function of them."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups
