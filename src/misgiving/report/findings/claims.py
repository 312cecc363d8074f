"""The five primary claims of the paper, each judged over trials and shown with its harms."""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from misgiving.metrics.trials import TrialInterval, holm, t_interval
from misgiving.report.findings import (
    BOOTSTRAP,
    PLAIN,
    POINTS,
    Effect,
    Scale,
    effect_of,
)
from misgiving.report.inputs import ReportInputs, differences_by_trial, select, trained_in
from misgiving.report.names import metric_name
from misgiving.report.published import title
from misgiving.report.wording import SECTIONS, count, listed
from misgiving.results.schema import UNSEEN_SET, ResultInterval

MODEL = "proposed"
LEVEL = 0.05
ENOUGH_TRIALS = 5  # with fewer, a t-interval is too wide and too sensitive to one trial
Fields = Mapping[str, object]


class Status(StrEnum):
    """The status of a claim of the paper in this run."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    INCONCLUSIVE = "inconclusive"


class Claim(NamedTuple):
    """A claim that the proposed model gains over a baseline, in one quantity of each trial.

    Attributes:
        statement: A sentence without a full stop.
        quantity: In words; higher is better.
        baseline: The model that the proposed one is compared with.
        parts: Fields that find the parts in `results.csv`; the quantity is their mean.
        family: Fields that find all metrics of this claim in `intervals.csv`, for its harms.
        scale: Of the quantity.
    """

    statement: str
    quantity: str
    baseline: str
    parts: Sequence[Fields]
    family: Sequence[Fields]
    scale: Scale = POINTS


def primary_claims(inputs: ReportInputs) -> dict[str, Claim]:
    """The claims that are tested, in the order of the paper; fixed before any run."""
    minority, sets, measured = inputs.minority, inputs.claimed_sets, inputs.measured
    rarest = "" if inputs.has_minority else "the rarest classes, "
    classified: Fields = {"experiment": "generalization", "dataset": measured, "detector": ""}
    of_loss: Fields = {"experiment": "generalization", "detector": "predicted_loss"}
    odin: Fields = {"experiment": "ood_detection", "detector": "odin"}
    unseen: Fields = {"experiment": "new_classes", "detector": "odin"}
    sensitivities = [{**classified, "metric": f"sensitivity/{name}"} for name in minority]
    return {
        "accuracy": Claim(
            "Joint training improves the classifier",
            "balanced accuracy",
            "vanilla",
            [{**classified, "metric": "balanced_accuracy"}],
            [
                {"experiment": "generalization"},
                {"experiment": "ood_detection", "dataset": measured, "detector": ""},
            ],
        ),
        "minority": Claim(
            "Minority classes gain",
            f"mean sensitivity for {rarest}{listed(minority)}",
            "vanilla",
            sensitivities,
            sensitivities,
        ),
        "ranking": Claim(
            "Ranking generalises better than mse",
            "Spearman correlation of predicted and true loss",
            "mse",
            [{**of_loss, "dataset": measured, "metric": "spearman"}],
            [of_loss],
            PLAIN,
        ),
        "ood": Claim(
            "Joint training helps ODIN",
            f"mean AUROC of ODIN on {listed(map(title, sets))}",
            "vanilla",
            [{**odin, "dataset": name, "metric": "auroc"} for name in sets],
            [odin],
        ),
        "new_classes": Claim(
            "Joint training reveals unseen classes",
            "AUROC of ODIN for unseen classes",
            "vanilla",
            [{**unseen, "dataset": UNSEEN_SET, "metric": "auroc"}],
            [unseen],
        ),
    }


class Divergence(NamedTuple):
    """The number of trials in which the training of a model diverged, among those of a section."""

    experiment: str
    model: str
    diverged: int
    trials: int

    def __str__(self) -> str:
        return f"{self.model} diverged in {self.diverged} of {count(self.trials, 'trials')}"


class Verdict(NamedTuple):
    """A claim with the evidence of a run.

    Attributes:
        claim: The claim.
        differences: Proposed minus baseline by trial.
        interval: t-interval of their mean, whose variance counts that splits share images; None
            with fewer than two trials.
        p_value: Of a difference of zero, adjusted for the number of primary claims by Holm.
        compared: The bootstrap intervals of all metrics of the claim.
        divergences: Of the proposed model and of the baseline.
    """

    claim: Claim
    differences: Mapping[int, float]
    interval: TrialInterval | None
    p_value: float
    compared: Sequence[ResultInterval]
    divergences: tuple[Divergence, Divergence]

    @property
    def status(self) -> Status:
        """Only the adjusted test over enough trials decides.

        A gain is inconclusive if the model diverged more often than the baseline: those trials,
        which may be its worst, are left out of the test.
        """
        few = len(self.differences) < ENOUGH_TRIALS
        if self.interval is None or few or self.p_value > LEVEL:
            return Status.INCONCLUSIVE
        if self.interval.mean <= 0:
            return Status.CONTRADICTED
        ours, theirs = (of.diverged for of in self.divergences)
        return Status.INCONCLUSIVE if ours > theirs else Status.SUPPORTED

    @property
    def judged(self) -> list[ResultInterval]:
        """The metrics with a bootstrap interval, in which a harm would be seen."""
        return [row for row in self.compared if effect_of(row) is not Effect.UNKNOWN]

    @property
    def harms(self) -> list[ResultInterval]:
        """The metrics in which the bootstrap shows the model to be worse, the worst first."""
        return worst_first(row for row in self.compared if effect_of(row) is Effect.WORSE)


def verdicts(inputs: ReportInputs) -> dict[str, Verdict]:
    """Judge every primary claim."""
    claims = primary_claims(inputs)
    differences = {name: _differences(inputs, claim) for name, claim in claims.items()}
    intervals = {
        name: _interval(inputs, claim, differences[name]) for name, claim in claims.items()
    }
    # a claim without a test keeps its place among those that are adjusted for
    adjusted = holm([found.p_value if found else 1.0 for found in intervals.values()])
    return {
        name: Verdict(
            claim,
            differences[name],
            intervals[name],
            p_value,
            _compared(inputs, claim),
            (_divergence(inputs, claim, MODEL), _divergence(inputs, claim, claim.baseline)),
        )
        for (name, claim), p_value in zip(claims.items(), adjusted, strict=True)
    }


def _differences(inputs: ReportInputs, claim: Claim) -> dict[int, float]:
    """By trial; a part that no trial has, such as a class without a measured image, is left out."""
    measured = [part for part in claim.parts if select(inputs.results, **part)]
    return differences_by_trial(inputs.results, MODEL, claim.baseline, *measured)


def _interval(
    inputs: ReportInputs, claim: Claim, differences: Mapping[int, float]
) -> TrialInterval | None:
    if len(differences) < 2:
        return None
    ratio = inputs.split_ratio(str(claim.parts[0]["experiment"]))
    return t_interval(list(differences.values()), split_ratio=ratio)


def _compared(inputs: ReportInputs, claim: Claim) -> list[ResultInterval]:
    paired = select(inputs.intervals, model=MODEL, baseline=claim.baseline)
    return [row for wanted in claim.family for row in select(paired, **wanted)]


def _divergence(inputs: ReportInputs, claim: Claim, model: str) -> Divergence:
    experiment = trained_in(next((str(of["experiment"]) for of in claim.family), ""))
    rows = select(inputs.results, experiment=experiment, model=model)
    diverged = {row.trial for row in rows if row.metric == "diverged" and row.value}
    return Divergence(experiment, model, len(diverged), len({row.trial for row in rows}))


def harms_sentence(found: Iterable[Verdict]) -> str:
    """The number of harms among all metrics of the claims, each counted once, and divergence."""
    known = list(found)
    judged = {row for verdict in known for row in verdict.judged}
    harms = {row for verdict in known for row in verdict.harms}
    lost = dict.fromkeys(of for verdict in known for of in verdict.divergences[:1] if of.diverged)
    return (
        f"Harms: {MODEL} is worse than the baseline in {len(harms)} of "
        f"{count(len(judged), 'metrics')} of these claims ({BOOTSTRAP})."
    ) + "".join(f" In {SECTIONS[of.experiment]}, {of}, which are not compared." for of in lost)


def worst_first(harms: Iterable[ResultInterval]) -> list[ResultInterval]:
    """Harms by the size of the difference; all metrics are shares or correlations."""
    return sorted(harms, key=lambda row: -abs(row.estimate))


def harm_name(row: ResultInterval) -> str:
    """The metric, detector and set of a difference in words."""
    name = metric_name(row.metric, row.detector)
    if row.experiment == "generalization":
        return name
    return f"{name} on {title(row.dataset)}" if row.detector else f"{name} of the models of 4.2"


def p_text(p_value: float) -> str:
    """A p-value in words.

    >>> p_text(0.0321), p_text(0.0001)
    ('p = 0.032', 'p < 0.001')
    """
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
