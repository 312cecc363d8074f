"""The five primary claims of the paper, judged over trials, and harms by the bootstrap."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from misgiving.evaluation.measures import UNSEEN_SET
from misgiving.metrics.trials import TrialInterval, holm, t_interval
from misgiving.report.reproduction.run import Quantity, Run, distinct, select

MODEL = "proposed"
LEVEL = 0.05
MIN_TRIALS = 5  # with fewer, a t-interval is too wide and too sensitive to one trial
BASELINES = ("vanilla", "detached")
"""The baselines that stand beside the proposed model in every table.

`detached`, a ranking estimator without a gradient into the classifier, shows the effect of the
joint gradient; a difference from vanilla alone may come from anything that an estimator changes.
"""
LOWER_IS_BETTER = frozenset(
    {
        *("fpr_at_tpr95", "detection_error", "errors"),
        *("aurc", "excess_aurc", "augrc", "balanced_aurc", "risk_at_coverage"),
        *("error_among_accepted", "error_per_group", "ood_share"),
    }
)  # a metric at one of several levels, such as risk_at_coverage/0.8, by the name before the slash


class Effect(StrEnum):
    """Effect of a paired difference by its bootstrap interval."""

    BETTER = "better"
    UNDECIDED = "undecided"
    WORSE = "worse"
    UNKNOWN = "unknown"


def effect_of(difference: Any) -> Effect:
    """Judge a paired difference, a row of `intervals.csv`, by its bootstrap interval alone."""
    if difference is None or difference.lower is None or difference.upper is None:
        return Effect.UNKNOWN
    if difference.lower <= 0 <= difference.upper:
        return Effect.UNDECIDED
    falling = difference.metric.partition("/")[0] in LOWER_IS_BETTER
    return Effect.WORSE if (difference.lower > 0) == falling else Effect.BETTER


class Status(StrEnum):
    """Status of a claim of the paper in this run."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    INCONCLUSIVE = "inconclusive"


class Verdict(NamedTuple):
    """A claim that the proposed model gains over a baseline, with the evidence of a run.

    Attributes:
        experiment: The experiment whose trainings are compared.
        baseline: The model that the proposed one is compared with.
        differences: Proposed minus baseline by trial.
        interval: t-interval of their mean, whose variance counts that splits share images; None
            with fewer than two trials.
        p_value: Of a difference of zero, adjusted for the number of primary claims by Holm.
        compared: The bootstrap intervals of all metrics of the claim.
        diverged: Trials in which the training diverged, of the proposed model and the baseline.
        trials: Trials of the same two models.
    """

    experiment: str
    baseline: str
    differences: Mapping[int, float]
    interval: TrialInterval | None
    p_value: float
    compared: Sequence[Any]
    diverged: Mapping[str, int]
    trials: Mapping[str, int]

    @property
    def status(self) -> Status:
        """Only the adjusted test over enough trials decides.

        A gain is inconclusive if the model diverged more often than the baseline: those trials,
        which may be its worst, are left out of the test.
        """
        few = len(self.differences) < MIN_TRIALS
        if self.interval is None or few or self.p_value > LEVEL:
            return Status.INCONCLUSIVE
        if self.interval.mean <= 0:
            return Status.CONTRADICTED
        more = self.diverged[MODEL] > self.diverged[self.baseline]
        return Status.INCONCLUSIVE if more else Status.SUPPORTED

    @property
    def judged(self) -> list[Any]:
        """The metrics with a bootstrap interval, in which a harm would be seen."""
        return [row for row in self.compared if effect_of(row) is not Effect.UNKNOWN]

    @property
    def harms(self) -> list[Any]:
        """The metrics in which the bootstrap shows the model to be worse, the worst first."""
        harms = (row for row in self.compared if effect_of(row) is Effect.WORSE)
        return sorted(harms, key=lambda row: -abs(row.estimate))


Claim = tuple[str, str, list[Quantity], list[dict[str, str]]]
"""Experiment whose trainings are compared, baseline, quantities, and columns of all metrics.

The mean of the quantities, of which higher is better, is compared in each trial. The columns find
all metrics of the claim in `intervals.csv`, for its harms.
"""


def primary_claims(run: Run) -> dict[str, Claim]:
    """The claims that are tested, in the order of the paper; fixed before any run."""
    general, ood, measured = "generalization", "ood_detection", run.measured
    accuracy = Quantity(general, measured, "", "balanced_accuracy")
    sensitivities = [Quantity(general, measured, "", f"sensitivity/{n}") for n in run.minority]
    correlation = Quantity(general, measured, "predicted_loss", "spearman")
    aurocs = [Quantity(ood, name, "odin", "auroc") for name in run.claimed_sets]
    unseen = Quantity("new_classes", UNSEEN_SET, "odin", "auroc")
    models_of_ood = {"experiment": ood, "dataset": measured, "detector": ""}
    ranking = {"experiment": general, "detector": "predicted_loss"}
    odin = [{"experiment": name, "detector": "odin"} for name in (ood, "new_classes")]
    minority = [part._asdict() for part in sensitivities]
    return {
        "accuracy": (general, "vanilla", [accuracy], [{"experiment": general}, models_of_ood]),
        "minority": (general, "vanilla", sensitivities, minority),
        "ranking": (general, "mse", [correlation], [ranking]),
        "ood": (ood, "vanilla", aurocs, odin[:1]),
        "new_classes": (ood, "vanilla", [unseen], odin[1:]),
    }


def verdicts(run: Run) -> dict[str, Verdict]:
    """Judge every primary claim."""
    evidence = {name: _evidence(run, claim) for name, claim in primary_claims(run).items()}
    # a claim without a test keeps its place among those that are adjusted for
    adjusted = holm([verdict.p_value for verdict in evidence.values()])
    return {
        name: verdict._replace(p_value=p_value)
        for (name, verdict), p_value in zip(evidence.items(), adjusted, strict=True)
    }


def _evidence(run: Run, claim: Claim) -> Verdict:
    """The evidence on one claim, before the adjustment of its p-value."""
    experiment, baseline, quantities, family = claim
    # a quantity that no trial has, such as a class without a measured image, is left out
    measured = [part for part in quantities if len(run.rows(**part._asdict()))]
    differences = run.differences(measured, MODEL, baseline)
    interval = None
    if len(differences) > 1:
        (size,) = (row for row in run.settings["sizes"] if row["experiment"] == experiment)
        ratio = size["measured"] / size["trained"]
        interval = t_interval(list(differences.values()), split_ratio=ratio)
    paired = [run.paired(model=MODEL, baseline=baseline, **columns) for columns in family]
    models = {name: run.rows(experiment=experiment, model=name) for name in (MODEL, baseline)}
    return Verdict(
        experiment,
        baseline,
        differences,
        interval,
        interval.p_value if interval else 1.0,
        [row for rows in paired for row in rows],
        {
            name: select(rows, metric="diverged", value=1.0)["trial"].nunique()
            for name, rows in models.items()
        },
        {name: rows["trial"].nunique() for name, rows in models.items()},
    )


def harms_of(by_claim: Mapping[str, Verdict]) -> list[tuple[Any, list[int]]]:
    """Every harm, the worst first, with the numbers of the claims whose metric it is."""
    claims: dict[Any, list[int]] = {}
    for number, verdict in enumerate(by_claim.values(), start=1):
        for row in verdict.harms:
            claims.setdefault(row, []).append(number)
    return sorted(claims.items(), key=lambda item: -abs(item[0].estimate))


def unjudged_sets(by_claim: Mapping[str, Verdict]) -> list[str]:
    """The sets without any bootstrap interval, where no harm could be seen."""
    judged = {row.dataset for verdict in by_claim.values() for row in verdict.judged}
    compared = (row.dataset for verdict in by_claim.values() for row in verdict.compared)
    return [name for name in distinct(compared) if name not in judged]
