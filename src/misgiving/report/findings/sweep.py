"""Learning rates: epochs to a level, and diverged runs."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

from misgiving.report.findings import POINTS
from misgiving.report.inputs import ReportInputs, distinct, select
from misgiving.report.wording import count
from misgiving.results.schema import HistoryRow, Result

SWEPT = ("vanilla", "proposed")
EXPERIMENT = "learning_rate/"
REACHED = 0.95  # of vanilla's mean final value
NEVER = float("inf")


class SweptRun(NamedTuple):
    """One model of one trial at one learning rate.

    Attributes:
        trial: Trials of the same number share seed and split.
        epochs: Until balanced accuracy on the monitored set first reaches the level; None if never.
        last: Balanced accuracy on the monitored set after the last epoch.
        final: Balanced accuracy on the measured set.
        diverged: Whether the training gave no usable numbers.
    """

    rate: float
    trial: int
    model: str
    epochs: int | None
    last: float | None
    final: float | None
    diverged: bool


class Sweep(NamedTuple):
    """All runs of a sweep, those at the protocol's own rate among them.

    The level is `REACHED` of vanilla's mean final balanced accuracy at the protocol's own rate.
    """

    own_rate: float
    level: float
    monitored: str
    runs: tuple[SweptRun, ...]

    @property
    def rates(self) -> list[float]:
        """The rates from low to high."""
        return sorted({run.rate for run in self.runs})

    @property
    def higher(self) -> list[float]:
        """The rates above the lowest."""
        return self.rates[1:]

    def at(self, rate: float, model: str) -> list[SweptRun]:
        """The runs of one model at one rate, trial by trial."""
        found = [run for run in self.runs if (run.rate, run.model) == (rate, model)]
        return sorted(found, key=lambda run: run.trial)

    def pairs(self, rate: float) -> list[tuple[SweptRun, SweptRun]]:
        """Vanilla and proposed of the same trial."""
        proposed = {run.trial: run for run in self.at(rate, "proposed")}
        return [
            (run, proposed[run.trial]) for run in self.at(rate, "vanilla") if run.trial in proposed
        ]

    def is_usable(self, run: SweptRun) -> bool:
        """True for a run that did not diverge and ended at the level."""
        return not run.diverged and run.last is not None and run.last >= self.level


def sweep_of(inputs: ReportInputs) -> Sweep | None:
    """Gather the sweep; None where vanilla at the protocol's own rate gives no level to reach."""
    results, histories = inputs.results, inputs.histories
    own_rate, monitored = inputs.settings.training["learning_rate"], inputs.settings.monitored_set
    epochs = select(histories, set=monitored)
    vanilla = select(epochs, experiment="generalization", model="vanilla")
    ends = [
        max(select(vanilla, trial=trial), key=lambda row: row.epoch).balanced_accuracy
        for trial in sorted({row.trial for row in vanilla})
    ]
    if not ends:
        return None
    level = REACHED * fmean(ends)
    names = sorted({*distinct(results, "experiment"), *distinct(histories, "experiment")})
    rates = {"generalization": own_rate} | {
        name: float(name.removeprefix(EXPERIMENT)) for name in names if name.startswith(EXPERIMENT)
    }
    runs = [
        run
        for name, rate in rates.items()
        for run in _runs(
            rate, level, select(results, experiment=name), select(epochs, experiment=name)
        )
    ]
    return Sweep(own_rate, level, monitored, tuple(runs))


def _runs(
    rate: float, level: float, results: Sequence[Result], epochs: Sequence[HistoryRow]
) -> Iterable[SweptRun]:
    units = {(row.trial, row.model) for row in results}
    units |= {(row.trial, row.model) for row in epochs}
    for trial, model in sorted(unit for unit in units if unit[1] in SWEPT):
        mine = select(results, trial=trial, model=model, detector="")
        curve = sorted(select(epochs, trial=trial, model=model), key=lambda row: row.epoch)
        reached = [row.epoch for row in curve if row.balanced_accuracy >= level]
        final = [row.value for row in select(mine, metric="balanced_accuracy")]
        diverged = any(row.value for row in select(mine, metric="diverged"))
        yield SweptRun(
            rate=rate,
            trial=trial,
            model=model,
            epochs=reached[0] if reached and not diverged else None,
            last=curve[-1].balanced_accuracy if curve and not diverged else None,
            final=final[0] if final else None,
            diverged=diverged,
        )


class Count(NamedTuple):
    """The number of pairs of trials in which a condition is met."""

    times: int
    pairs: int

    def __str__(self) -> str:
        return f"{self.times} of {self.pairs} pairs of trials"


def faster(sweep: Sweep, rate: float) -> Count:
    """Pairs in which the proposed model reaches the level in fewer epochs than vanilla.

    A model that never reaches it is slower than one that does; pairs without either are left out.
    """
    epochs = [tuple(run.epochs or NEVER for run in pair) for pair in sweep.pairs(rate)]
    decided = [pair for pair in epochs if min(pair) < NEVER]
    return Count(sum(proposed < vanilla for vanilla, proposed in decided), len(decided))


def only_proposed(sweep: Sweep, rate: float) -> Count:
    """Pairs in which proposed trains to the level and vanilla does not."""
    pairs = sweep.pairs(rate)
    gained = [
        sweep.is_usable(proposed) and not sweep.is_usable(vanilla) for vanilla, proposed in pairs
    ]
    return Count(sum(gained), len(pairs))


def speed_sentence(sweep: Sweep | None) -> str:
    """Higher learning rates and faster convergence with joint training (Section 4.1), as counts."""
    if sweep is None:
        return "Learning rates were not swept: histories.csv has no level to reach."
    counts = [f"{faster(sweep, rate)} at {rate:g}" for rate in sweep.rates]
    return (
        f"The proposed model reaches a balanced accuracy of {POINTS.number(sweep.level)} % on the "
        f"{sweep.monitored} set ({100 * REACHED:g} % of vanilla's mean final value at "
        f"{sweep.own_rate:g}) in fewer epochs than vanilla in {', '.join(counts)}. "
        f"{_higher_rates(sweep)}. These are counts over {_trials(sweep)} without a test."
    )


def _higher_rates(sweep: Sweep) -> str:
    if not sweep.higher:
        return "No other learning rate was tried"
    if not any(sweep.pairs(rate) for rate in sweep.higher):
        return "No other learning rate has both models finished in one trial"
    counts = [f"{only_proposed(sweep, rate)} at {rate:g}" for rate in sweep.higher]
    ends = []
    for model in SWEPT:
        runs = [run for rate in sweep.higher for run in sweep.at(rate, model)]
        usable, diverged = sum(map(sweep.is_usable, runs)), sum(run.diverged for run in runs)
        ends.append(
            f"of {len(runs)} runs of {model}, {usable} end at the level and {diverged} diverged"
        )
    return (
        f"At rates above {sweep.rates[0]:g}, only the proposed model trains to that level in "
        f"{', '.join(counts)} ({'; '.join(ends)})"
    )


def _trials(sweep: Sweep) -> str:
    return count(len({run.trial for run in sweep.runs}), "trials")
