"""The five primary claims of the paper judged over trials, harms, and departures from it."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from misgiving.metrics.uncertainty import TrialInterval, holm, t_interval
from misgiving.reproduction.config import UNSEEN_SET
from misgiving.reproduction.published import (
    FIGURE_3,
    FIGURE_5,
    PAPER_SETS,
    PAPER_SETTINGS,
    TUNING_SET,
    VALIDATION_SHARE,
    Published,
    table_1,
)
from misgiving.reproduction.report.run import Quantity, Run, distinct, select

MODEL = "proposed"
CLAIM_LEVEL = 0.05
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
        if self.interval is None or few or self.p_value > CLAIM_LEVEL:
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


class Departure(NamedTuple):
    """A setting or a set that is not the paper's; `code` says which sentence of the page it is."""

    code: str
    value: Any = None
    paper: Any = None


def departures(run: Run) -> list[Departure]:
    """All differences in data, settings, procedure and sets."""
    differs = _settings(run) | _procedure(run) | _sets(run)
    return [departure for departure, applies in differs.items() if applies]


def _settings(run: Run) -> dict[Departure, Any]:
    """Our value and the paper's of each setting; classes may have another order."""
    data = run.settings["data"]
    differs = {Departure("data", data): data.partition(":")[0] != "isic2019"}
    for section, settings in PAPER_SETTINGS.items():
        recorded = run.settings[section] if section else run.settings
        for key, paper in settings.items():
            value = tuple(recorded[key]) if isinstance(paper, tuple) else recorded[key]
            same = set(value) == set(paper) if isinstance(paper, tuple) else value == paper
            differs[Departure(key, value, paper)] = not same
    return differs


def _procedure(run: Run) -> dict[Departure, Any]:
    """The differences in procedure, each with the condition under which there is one."""
    settings, grouped = run.settings, run.settings["split"] != "paper"
    training, model = settings["training"], settings["model"]
    absent = [name for name, strength in settings["augmentation"].items() if not strength]
    share, tuning_set = settings["validation_share"], settings["odin"]["tuning_set"]
    return {
        Departure("backbone", model["backbone"]): model["backbone"].partition(".")[0] != "vgg16",
        Departure("weights", model["weights"]): model["weights"] or not model["pretrained"],
        **{
            Departure(name, training[name]): training[name] != "inverse"
            for name in ("class_weights", "sampling")
        },
        Departure("estimator_rate", training["estimator_rate"]): training["estimator_rate"] != 1,
        Departure("color_constancy"): settings["preprocessing"]["color_constancy"] == "none",
        Departure("augmentation", tuple(absent)): absent,
        Departure("split"): grouped,
        Departure("validation_share", share, VALIDATION_SHARE): (
            not grouped and share != VALIDATION_SHARE
        ),
        Departure("measured_set", run.measured): run.measured != "validation",
        Departure("tuning_set", tuning_set): run.paper_set(tuning_set) != TUNING_SET,
    }


def _sets(run: Run) -> dict[Departure, Any]:
    """The differences in the sets of Table 1."""
    differs: dict[Departure, Any] = {}
    for paper_set in PAPER_SETS:
        names = run.sets_of(paper_set)
        differs[Departure("not_measured", paper_set)] = not names
        for name in names:
            facts, stands_in = run.datasets[name], run.stands_in(name)
            expected = facts["paper_images"] or PAPER_SETS[paper_set].images
            differs |= {
                Departure("stands_in", name, paper_set): stands_in,
                Departure("set_size", name, expected): (
                    not stands_in and facts["images"] != expected
                ),
                Departure("made_here", name): run.origin(name) == "made here",
            }
    return differs


def here(cell: Published, dataset: str) -> Quantity:
    """The quantity of a run that a printed number is compared with."""
    return Quantity(cell.experiment, dataset, cell.detector, cell.metric)


def includes(run: Run, dataset: str, cell: Published) -> bool | None:
    """True if our t-interval includes the paper's difference; None where there is none."""
    pair = run.interval(here(cell, dataset), "proposed", "vanilla")
    if pair is None or pair.trial_lower is None:
        return None
    return bool(pair.trial_lower <= cell.difference <= pair.trial_upper)


def agreement(run: Run) -> tuple[int, int]:
    """The number of the paper's differences that our t-intervals include, of those comparable."""
    compared = [(run.measured, FIGURE_3), (UNSEEN_SET, FIGURE_5)]
    for paper_set in PAPER_SETS:
        compared += [(name, cell) for name in run.sets_of(paper_set) for cell in table_1(paper_set)]
    included = [includes(run, name, cell) for name, cell in compared]
    return included.count(True), len(included) - included.count(None)
