"""Learning rates: how fast each model trains at each, and whether it trains at all."""

from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean
from typing import NamedTuple

from misgiving.report.tables.records import HistoryRow, Result, distinct, select
from misgiving.report.tables.verdicts import (
    IN_PART,
    NOT_SEEN,
    POINTS,
    SEEN,
    UNJUDGED,
    Finding,
)

SWEPT = ("vanilla", "proposed")
EXPERIMENT = "learning_rate/"
REACHED = 0.95  # of vanilla's mean final value
ENOUGH_TRIALS = 6  # 2 * 0.5 ** 6 < 0.05: fewer signs that all agree may still be chance


class SweptRun(NamedTuple):
    """One model of one trial at one learning rate.

    Attributes:
        rate: Learning rate.
        trial: Trials of the same number share seed and split.
        model: Name of the model.
        epochs: Until balanced accuracy on the watched part first reaches the level; None if never.
        last: Balanced accuracy on the watched part after the last epoch.
        final: Balanced accuracy on the measured part.
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
    part: str
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
        """Whether a run did not diverge, and ended at the level."""
        return not run.diverged and run.last is not None and run.last >= self.level


def read_sweep(
    results: Sequence[Result],
    histories: Sequence[HistoryRow],
    *,
    own_rate: float | None,
    part: str = "validation",
) -> Sweep | None:
    """Gather the sweep; None where vanilla at the protocol's own rate gives no level to reach.

    Args:
        results: The rows of `results.csv`.
        histories: The rows of `histories.csv`.
        own_rate: The learning rate of the experiment `generalization`.
        part: The part that was watched while training.
    """
    watched = select(histories, set=part)
    ends = list(_last_values(select(watched, experiment="generalization", model="vanilla")))
    if own_rate is None or not ends:
        return None
    level = REACHED * fmean(ends)
    rates = {"generalization": own_rate, **_swept_rates(results, histories)}
    runs = [
        _run(rate, level, select(results, experiment=name), select(watched, experiment=name), key)
        for name, rate in rates.items()
        for key in _trials(results, histories, name)
    ]
    return Sweep(own_rate, level, part, tuple(runs))


def _swept_rates(results: Iterable[Result], histories: Iterable[HistoryRow]) -> dict[str, float]:
    names = {*distinct(results, "experiment"), *distinct(histories, "experiment")}
    return {
        name: float(name.removeprefix(EXPERIMENT))
        for name in sorted(names)
        if name.startswith(EXPERIMENT)
    }


def _trials(
    results: Sequence[Result], histories: Sequence[HistoryRow], experiment: str
) -> list[tuple[int, str]]:
    measured = {(row.trial, row.model) for row in select(results, experiment=experiment)}
    watched = {(row.trial, row.model) for row in select(histories, experiment=experiment)}
    return sorted(key for key in measured | watched if key[1] in SWEPT)


def _last_values(rows: Sequence[HistoryRow]) -> Iterator[float]:
    for trial in {row.trial for row in rows}:
        value = _last(select(rows, trial=trial))
        if value is not None:
            yield value


def _last(rows: Sequence[HistoryRow]) -> float | None:
    return max(rows, key=lambda row: row.epoch).balanced_accuracy if rows else None


def _run(
    rate: float,
    level: float,
    results: Sequence[Result],
    watched: Sequence[HistoryRow],
    key: tuple[int, str],
) -> SweptRun:
    trial, model = key
    mine = select(results, trial=trial, model=model, detector="")
    epochs = select(watched, trial=trial, model=model)
    reached = [
        row.epoch
        for row in epochs
        if row.balanced_accuracy is not None and row.balanced_accuracy >= level
    ]
    final = [row.value for row in select(mine, metric="balanced_accuracy")]
    diverged = any(row.value for row in select(mine, metric="diverged"))
    first = min(reached) if reached and not diverged else None
    last = None if diverged else _last(epochs)
    return SweptRun(rate, trial, model, first, last, final[0] if final else None, diverged)


class Count(NamedTuple):
    """Of how many pairs of trials something holds."""

    times: int
    pairs: int

    def __str__(self) -> str:
        return f"{self.times} of {self.pairs} pairs of trials"

    @property
    def always(self) -> bool:
        """Whether it holds in each of at least one pair."""
        return self.times == self.pairs > 0


def faster(sweep: Sweep, rate: float) -> Count:
    """In how many pairs proposed reaches the level in fewer epochs; pairs without either left out.

    A model that never reaches it is slower than one that does.
    """
    never = float("inf")
    epochs = [
        (vanilla.epochs or never, proposed.epochs or never)
        for vanilla, proposed in sweep.pairs(rate)
    ]
    decided = [pair for pair in epochs if min(pair) < never]
    return Count(sum(proposed < vanilla for vanilla, proposed in decided), len(decided))


def only_proposed(sweep: Sweep, rate: float) -> Count:
    """In how many pairs proposed trains to the level and vanilla does not."""
    pairs = sweep.pairs(rate)
    gained = [
        sweep.is_usable(proposed) and not sweep.is_usable(vanilla) for vanilla, proposed in pairs
    ]
    return Count(sum(gained), len(pairs))


def speed_finding(sweep: Sweep | None) -> Finding:
    """Does joint training allow higher learning rates, and converge faster (Section 4.1)?

    A few trials give signs and no interval, so that it is seen only with enough trials that agree.
    """
    claim = "Joint training allows higher learning rates and converges faster"
    if sweep is None:
        reason = "not swept in this run, and histories.csv holds no level to reach"
        return Finding(claim, UNJUDGED, f"Learning rates: {reason}.")
    convergence = f"{_level_told(sweep)} is reached in fewer epochs by proposed than by vanilla in"
    counts = [f"{faster(sweep, rate)} at {rate:g}" for rate in sweep.rates]
    sentence = f"{convergence} {', '.join(counts)}. {_higher_told(sweep)}. {_caution(sweep)}."
    return Finding(claim, _speed_status(sweep), sentence)


def _speed_status(sweep: Sweep) -> str:
    if not any(sweep.pairs(rate) for rate in sweep.higher):
        return UNJUDGED
    decided = [count for rate in sweep.rates if (count := faster(sweep, rate)).pairs]
    halves = (
        bool(decided) and all(count.always for count in decided),
        any(only_proposed(sweep, rate).always for rate in sweep.higher),
    )
    trials = min(len(sweep.pairs(rate)) for rate in sweep.rates)
    if all(halves) and trials >= ENOUGH_TRIALS:
        return SEEN
    return IN_PART if any(halves) else NOT_SEEN


def _level_told(sweep: Sweep) -> str:
    return (
        f"A balanced accuracy of {POINTS.number(sweep.level)} % on {sweep.part} "
        f"({100 * REACHED:g} % of vanilla's mean final value at {sweep.own_rate:g})"
    )


def _higher_told(sweep: Sweep) -> str:
    if not any(sweep.pairs(rate) for rate in sweep.higher):
        return "No other learning rate has both models finished in one trial"
    counts = [f"{only_proposed(sweep, rate)} at {rate:g}" for rate in sweep.higher]
    ends = [
        f"{model} {_ends(sweep, [run for rate in sweep.higher for run in sweep.at(rate, model)])}"
        for model in SWEPT
    ]
    return (
        f"At rates above {sweep.rates[0]:g} only proposed trains to that level in "
        f"{', '.join(counts)} (runs there: {'; '.join(ends)})"
    )


def _ends(sweep: Sweep, runs: Sequence[SweptRun]) -> str:
    usable, diverged = sum(map(sweep.is_usable, runs)), sum(run.diverged for run in runs)
    return f"{usable} of {len(runs)} end at the level, {diverged} diverge"


def _caution(sweep: Sweep) -> str:
    trials = len({run.trial for run in sweep.runs})
    counted = f"{trials} trial{'s' * (trials != 1)}"
    if trials >= ENOUGH_TRIALS:
        return f"These are signs over {counted}, without an interval"
    return f"With {counted} this is a count and no test: {ENOUGH_TRIALS} that agree would be needed"
