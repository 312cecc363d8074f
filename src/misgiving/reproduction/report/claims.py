"""The five primary claims of the paper judged over trials, harms, and departures from it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from misgiving.metrics.uncertainty import TrialInterval, holm, t_interval
from misgiving.reproduction.config import UNSEEN_SET
from misgiving.reproduction.published import (
    FIGURE_3,
    FIGURE_5,
    PAPER_IMAGES,
    PAPER_SETS,
    PAPER_SETTINGS,
    TUNING_SET,
    Published,
    table_1,
)
from misgiving.reproduction.report.run import Quantity, Run, select

MODEL = "proposed"
CLAIM_LEVEL = 0.05
LEARNING = 0.01  # rise of balanced accuracy in the last quarter of the epochs, if still learning
MIN_TRIALS = 5  # with fewer, a t-interval is too wide and too sensitive to one trial
BASELINES = ("vanilla", "detached")
"""The baselines that stand beside the proposed model where they were measured.

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


Effect = Literal["better", "undecided", "worse", "unknown"]
"""Effect of a paired difference by its bootstrap interval."""

Status = Literal["supported", "contradicted", "inconclusive"]
"""Status of a claim of the paper in this run."""


def effect_of(difference: Any) -> Effect:
    """Judge a paired difference, a row of `intervals.csv`, by its bootstrap interval alone."""
    if difference is None or difference.lower is None or difference.upper is None:
        return "unknown"
    if difference.lower <= 0 <= difference.upper:
        return "undecided"
    falling = difference.metric.partition("/")[0] in LOWER_IS_BETTER
    return "worse" if (difference.lower > 0) == falling else "better"


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
        learning: Trials in which these were still learning when they ended: their balanced accuracy
            on the monitored set rose by more than a point in the last quarter of the epochs, by a
            straight line through these.
    """

    experiment: str
    baseline: str
    differences: Mapping[int, float]
    interval: TrialInterval | None
    p_value: float
    compared: Sequence[Any]
    diverged: Mapping[str, int]
    trials: Mapping[str, int]
    learning: Mapping[str, int]

    @property
    def status(self) -> Status:
        """Only the adjusted test over enough trials decides.

        A gain is inconclusive if the model diverged more often than the baseline: those trials,
        which may be its worst, are left out of the test.
        """
        few = len(self.differences) < MIN_TRIALS
        if self.interval is None or few or self.p_value > CLAIM_LEVEL:
            return "inconclusive"
        if self.interval.mean <= 0:
            return "contradicted"
        more = self.diverged[MODEL] > self.diverged[self.baseline]
        return "inconclusive" if more else "supported"

    @property
    def judged(self) -> list[Any]:
        """The metrics with a bootstrap interval, in which a harm would be seen."""
        return [row for row in self.compared if effect_of(row) != "unknown"]

    @property
    def harms(self) -> list[Any]:
        """The metrics in which the bootstrap shows the model to be worse, the worst first."""
        harms = (row for row in self.compared if effect_of(row) == "worse")
        return sorted(harms, key=lambda row: -abs(row.estimate))


def verdicts(run: Run) -> dict[str, Verdict]:
    """Judge the primary claims, in the order of the paper; they were fixed before any run.

    Of each claim: the experiment whose trainings are compared, the baseline, the quantities whose
    mean, of which higher is better, is compared in each trial, and the columns that find all its
    metrics in `intervals.csv`, for its harms.
    """
    general, ood, measured = "generalization", "ood_detection", run.settings["measured_set"]
    accuracy = (general, measured, "", "balanced_accuracy")
    metrics = [f"sensitivity/{name}" for name in run.minority]
    sensitivities = [(general, measured, "", metric) for metric in metrics]
    correlation = (general, measured, "predicted_loss", "spearman")
    aurocs = [(ood, name, "odin", "auroc") for name in run.claimed_sets]
    unseen = ("new_classes", UNSEEN_SET, "odin", "auroc")
    models_of_ood = {"experiment": ood, "dataset": measured, "detector": ""}
    ranking = {"experiment": general, "detector": "predicted_loss"}
    odin = [{"experiment": name, "detector": "odin"} for name in (ood, "new_classes")]
    minority = [{"experiment": general, "dataset": measured, "metric": it} for it in metrics]
    all_metrics = [{"experiment": general}, models_of_ood]
    evidence = {
        "accuracy": _evidence(run, general, "vanilla", [accuracy], all_metrics),
        "minority": _evidence(run, general, "vanilla", sensitivities, minority),
        "ranking": _evidence(run, general, "mse", [correlation], [ranking]),
        "ood": _evidence(run, ood, "vanilla", aurocs, odin[:1]),
        "new_classes": _evidence(run, ood, "vanilla", [unseen], odin[1:]),
    }
    # a claim without a test keeps its place among those that are adjusted for
    adjusted = holm([verdict.p_value for verdict in evidence.values()])
    return {
        name: verdict._replace(p_value=p_value)
        for (name, verdict), p_value in zip(evidence.items(), adjusted, strict=True)
    }


def _evidence(
    run: Run,
    experiment: str,
    baseline: str,
    quantities: Sequence[Quantity],
    family: Sequence[Mapping[str, str]],
) -> Verdict:
    """The evidence on one claim, before the adjustment of its p-value."""
    differences = run.differences(quantities, MODEL, baseline)
    interval = None
    if len(differences) > 1:
        (size,) = (row for row in run.settings["sizes"] if row["experiment"] == experiment)
        ratio = size["measured"] / size["trained"]
        interval = t_interval(list(differences.values()), split_ratio=ratio)
    trained = {name: run.rows(experiment=experiment, model=name) for name in (MODEL, baseline)}
    lost = {name: select(rows, metric="diverged", value=1.0) for name, rows in trained.items()}
    return Verdict(
        experiment,
        baseline,
        differences,
        interval,
        interval.p_value if interval else 1.0,
        [row for each in family for row in run.paired(model=MODEL, baseline=baseline, **each)],
        {name: rows["trial"].nunique() for name, rows in lost.items()},
        {name: rows["trial"].nunique() for name, rows in trained.items()},
        {name: still_learning(run, experiment, name) for name in trained},
    )


def still_learning(run: Run, experiment: str, model: str) -> int:
    """Number of trials in which a model was still learning when its training ended."""
    curves = select(run.histories, experiment=experiment, model=model)
    curves = select(curves, set=run.settings["tuning_set"]).sort_values("epoch")
    rises = curves.groupby("trial")["balanced_accuracy"].agg(_late_rise)
    return int((rises > LEARNING).sum())


def _late_rise(values: Float[pd.Series, " epochs"]) -> float:
    last = values.to_numpy()[min(len(values) * 3 // 4, len(values) - 2) :]
    return float(np.polyfit(np.linspace(0, 1, len(last)), last, 1)[0]) if len(last) > 1 else 0.0


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
    return [name for name in dict.fromkeys(compared) if name not in judged]


Departure = tuple[str, Any, Any]
"""A setting or a set that is not the paper's: its sentence on the page, our value, the paper's."""


def departures(run: Run) -> list[Departure]:
    """All differences in data, settings, procedure and sets."""
    settings, model = run.settings, run.settings["model"]
    data, backbone, tuning_set = settings["data"], model["backbone"], settings["odin"]["tuning_set"]
    absent = tuple(name for name, strength in settings["augmentation"].items() if not strength)
    differs = {
        ("data", data, None): data.partition(":")[0] != "isic2019",
        ("backbone", backbone, None): backbone.partition(".")[0] != "vgg16",
        ("weights", model["weights"], None): model["weights"] or not model["pretrained"],
        ("color_constancy", None, None): settings["preprocessing"]["color_constancy"] == "none",
        ("augmentation", absent, None): absent,
        ("tuning_set", tuning_set, None): run.paper_set(tuning_set) != TUNING_SET,
    }
    procedure = [departure for departure, applies in differs.items() if applies]
    return [*procedure, *_settings(run), *_sets(run)]


def _settings(run: Run) -> Iterator[Departure]:
    """The settings of another value than the paper's; classes may have another order."""
    by_group = run.settings["split"] != "paper"
    for section, settings in PAPER_SETTINGS.items():
        recorded = run.settings[section] if section else run.settings
        for key, paper in settings.items():
            value = tuple(recorded[key]) if isinstance(paper, tuple) else recorded[key]
            same = set(value) == set(paper) if isinstance(paper, tuple) else value == paper
            if not same and not (by_group and key == "validation_share"):
                yield key, value, paper


def _sets(run: Run) -> Iterator[Departure]:
    """The differences in the sets of Table 1."""
    yield from (("not_measured", name, None) for name in PAPER_SETS if not run.sets_of(name))
    for paper_set, name in ((row, name) for row in PAPER_SETS for name in run.sets_of(row)):
        facts = run.datasets[name]
        expected = facts["paper_images"] or PAPER_IMAGES[paper_set]
        if run.stands_in(name):
            yield "stands_in", name, paper_set
        elif facts["images"] != expected:
            yield "set_size", name, expected
        if run.origin(name) == "made here":
            yield "made_here", name, None


def includes(run: Run, dataset: str, cell: Published) -> bool | None:
    """True if our t-interval includes the paper's difference; None where there is none."""
    quantity = (cell.experiment, dataset, cell.detector, cell.metric)
    pair = run.interval(quantity, "proposed", "vanilla")
    if pair is None or pair.trial_lower is None:
        return None
    return bool(pair.trial_lower <= cell.difference <= pair.trial_upper)


def agreement(run: Run) -> tuple[int, int]:
    """The number of the paper's differences that our t-intervals include, of those comparable."""
    compared = [(run.settings["measured_set"], FIGURE_3), (UNSEEN_SET, FIGURE_5)]
    for paper_set in PAPER_SETS:
        compared += [(name, cell) for name in run.sets_of(paper_set) for cell in table_1(paper_set)]
    included = [includes(run, name, cell) for name, cell in compared]
    return included.count(True), len(included) - included.count(None)
