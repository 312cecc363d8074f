"""Draw the cases to label from the part of a pool that could be accepted.

All that scores a case is fitted on the tuning set before, and kept with the draw. The part is
fixed by ranks among the scores of the pool, which need no labels: given the limits, its cases are
a random sample of those above them, and so are the cases that are drawn of it. They certify
thresholds above the limit, and nothing is accepted at or below it; docs/explanation/guarantee.md
has the argument.
"""

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np

from misgiving.arrays import Mask, Rows, Values
from misgiving.deferral.bounds import compare_distributions
from misgiving.deferral.certify import with_ood_limit
from misgiving.deferral.fit_policy import fit_policy
from misgiving.deferral.guarantees import Guarantee
from misgiving.deferral.identities import Cases, Identities
from misgiving.deferral.outcomes import Pool
from misgiving.deferral.sets import FREE, NOT_USED, OWN_SETS, check_same_model, fit_detectors
from misgiving.deferral.targets import DecisionRule, Targets
from misgiving.deferral.thresholds import ScoredCases
from misgiving.errors import DataError, Parameter, UsageError
from misgiving.predictions.cells import UNKNOWN_CLASS
from misgiving.predictions.record import Predictions

PredictionsT = TypeVar("PredictionsT", bound=Predictions)

SPARE_ERROR = 1.25  # estimated error of the part as a multiple of the target; it may be wrong
ESTIMATE_CASES = 100  # as which the error probabilities count beside observed errors
MOST_OF_POOL = 0.8  # share of a pool, above which a limit saves few labels and may be too strict
MOST_MISSING = 0.1  # of the labels of a calibration
SAME_SCORE = 1e-3  # by which scores of the same outputs may differ from machine to machine
FALSE_WARNINGS = 0.01  # probability of one for a tuning set that was drawn at random


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DrawnCases(Predictions):
    """Cases of a pool to label, in the order in which they were drawn.

    Attributes:
        deferral: The `Deferral` that was fitted on the tuning set; it accepts nothing yet.
    """

    deferral: Any  # its module imports this one

    @classmethod
    def of_pool(cls, pool: Predictions, deferral: Any) -> "DrawnCases":
        """Find the cases again that were drawn from a pool with this policy, without labels.

        Raises:
            DataError: The policy is for another model, a case is not in the pool, or its outputs
                are others.
        """
        deferral.check_predictions(pool)
        rows = {name: row for row, name in enumerate(Identities.of(pool).ids)}
        drawn, scores = deferral.cases_.calibration.ids, deferral.certificate_.pool.drawn
        if missing := sum(name not in rows for name in drawn):
            raise DataError(f"{missing} drawn cases are not in the pool; give the pool of the draw")
        cases = pool.select(np.array([rows[name] for name in drawn]))
        again = deferral.policy_.score(cases.outputs).acceptance_score
        if not np.allclose(again, scores, rtol=0, atol=SAME_SCORE):
            raise DataError(
                "the outputs of the drawn cases are not those of the draw; give the predictions of "
                "the draw, or draw again"
            )
        values = {each.name: getattr(cases, each.name) for each in fields(Predictions)}
        values["labels"] = np.full(len(cases), UNKNOWN_CLASS)
        return cls(**values, deferral=deferral)

    def with_labels(self, labels: Mapping[str, str] | Sequence[str]) -> "DrawnCases":
        """Add the true classes, by the id of each case or in their order; see `label`.

        A case without one counts as wrong, since whether somebody can tell the class depends on the
        case.
        """
        if not isinstance(labels, Mapping):
            labels = dict(zip(self.ids, labels, strict=True))
        return label(self, labels)

    @property
    def look(self) -> "DrawnCases":
        """The first cases, in the largest planned number of which nearly all have a label.

        Raises:
            DataError: Of the smallest, more than a tenth have none.
        """
        unknown = self.labels == UNKNOWN_CLASS
        sizes = np.array(self.deferral.certificate_.looks or (len(self),))
        missing = unknown.cumsum()[sizes - 1]
        ready = sizes[missing <= MOST_MISSING * sizes]
        if not len(ready):
            raise DataError(
                f"{missing[0]} of the first {sizes[0]} drawn cases have no label, the first is "
                f"{self.ids[int(unknown.argmax())]!r}; label them first (empty labels count as "
                "wrong)"
            )
        return self.select(np.arange(ready[-1]))


def draw(
    pool: Predictions,
    cases: int,
    *,
    deferral: Any,
    tuning: Predictions | None = None,
    training: Predictions | None = None,
    looks: Sequence[int] = (),
) -> DrawnCases:
    """Draw the cases to label from the part of a pool that could be accepted.

    Args:
        pool: Cases like those that the policy is for. Those of the tuning and the training set,
            and others of their groups, are left out; labels of the others are not read.
        cases: Number of groups to label, of each of which one case is drawn.
        deferral: A `Deferral` with the parameters of the policy: with `max_error`, and no target of
            classes or of silent errors, which need cases of the whole pool.
        tuning: Labelled cases, for all that is fitted or chosen; None: those of the pool.
        training: Cases that the model was trained on, with features, to fit OOD detectors; None:
            those of the pool in the set `train`.
        looks: Numbers of cases of several calibrations, the last one `cases`; none: one alone.

    Returns:
        The cases, without labels; fewer than `cases` if the part has no more.

    Raises:
        DataError: The sets cannot support a policy.
        UsageError: A parameter has a value that cannot be used.

    Warns:
        UserWarning: The tuning set is not like the pool.
    """
    parameters = check_plan(pool, cases, deferral, looks)
    targets, _, guarantee = parameters
    training = pool.in_set("train") if training is None else training
    tuning = labelled_part(pool) if tuning is None else tuning
    if not len(tuning):
        raise DataError(
            "the pool has no labelled case to tune on; give some as ", Parameter("tuning")
        )
    tuning.check_labelled()
    check_same_model(tuning, pool, "pool")
    detectors, trained = fit_detectors(tuning, training)
    offered, left_out = one_of_each_group(pool, tuning, training, seed=deferral.seed)
    if not len(offered):
        raise DataError(
            "each case of the pool has a label or is of the training; empty the labels of the "
            "cases to draw from, or calibrate with all"
        )
    fitted = replace(deferral)
    own = {"ood_detector": fitted.ood_detector, "seed": fitted.seed}
    fitted.policy_, tuned = fit_policy(tuning, detectors, None, parameters, looks=looks, **own)
    unknown, of_pool = np.full(len(offered), UNKNOWN_CLASS), fitted.policy_.score(offered)
    scored = ScoredCases.of(of_pool, unknown, fitted.calibration_)
    for name, each in (("tuning", tuned), ("pool", scored)):
        each.check_usable(name)
    warn_of_choice(tuned, scored)
    certificate = fitted.certificate_
    certificate = with_ood_limit(certificate, scored.ood_scores, guarantee, certificate.targets)
    kept = scored.acceptable & certificate.above(scored.ood_scores)
    limit = limit_of_draw(scored.scores, kept, share_to_label(tuned, targets), cases)
    part = np.flatnonzero(kept & (scored.scores > limit))
    if not len(part):
        raise DataError(
            f"none of the {len(kept)} cases of the pool can be accepted: each has too high an "
            "error probability, or too low an OOD score; take a better model"
        )
    chosen = _shuffled(part, deferral.seed)[:cases]
    if looks and len(chosen) < cases:
        raise DataError(f"{len(chosen)} cases can be drawn, and {cases} are planned; plan fewer")
    drawn, of_drawn = offered.select(chosen), scored.scores[chosen].astype(float).tolist()
    order = np.argsort(-scored.scores, kind="stable")
    scores, marks = scored.scores[order].astype(float).tolist(), kept[order].tolist()
    columns = {"scores": scores, "kept": marks, "drawn": of_drawn}
    limited = Pool(limit=limit, **{name: tuple(values) for name, values in columns.items()})
    certificate = replace(certificate, pool=limited)
    fitted.policy_ = replace(fitted.policy_, certificate=certificate)
    fitted.cases_ = Cases(
        tuning=Identities.of(tuning),
        tuning_labels=tuple(tuning.labels.tolist()),
        calibration=Identities.of(drawn),
        group_columns=pool.group_columns,
        training_images=trained,
        left_out=left_out,
    )
    return DrawnCases.of_pool(drawn, fitted)


def check_plan(
    pool: Predictions, cases: int, deferral: Any, looks: Sequence[int]
) -> tuple[Targets, DecisionRule, Guarantee]:
    """Check the parameters of a draw; gives them in groups."""
    targets, rule, guarantee = deferral.check_parameters(pool.classes, looks)
    if not pool.has_ids:
        raise DataError("the pool has no column id, by which labels are joined; add it")
    if looks and looks[-1] != cases:
        raise UsageError("the last of ", Parameter("looks"), f" must be the {cases} cases")
    names = "class_max_miss", "max_silent_error", "max_deferred", "review_cost", "for_each"
    others = (getattr(targets, name) for name in names)
    if targets.max_error is None or any(others) or targets.answer == "finest":
        raise UsageError(
            *("cases are drawn for ", Parameter("max_error"), " alone; calibrate for other "),
            "targets with cases of the whole pool",
        )
    return targets, rule, guarantee


def warn_of_choice(tuning: ScoredCases, pool: ScoredCases) -> None:
    """Warn the caller of `draw` if the tuning set was probably not drawn at random."""
    gap, p_value = compare_distributions(tuning.scores, pool.scores)
    if p_value <= FALSE_WARNINGS:
        warnings.warn(
            "the tuning set is not like the pool: their acceptance scores differ by up to "
            f"{100 * gap:.0f} percentage points. If it was chosen from the pool, the rest is not "
            "like new cases",
            stacklevel=3,
        )


def draw_to_tune(pool: Predictions, cases: int, *, seed: int) -> Predictions:
    """Draw the cases to tune on from a pool of which no case has a label."""
    nothing = pool.select(np.arange(0))
    offered, _ = one_of_each_group(pool, nothing, pool.in_set("train"), seed=seed)
    return offered.select(_shuffled(np.arange(len(offered)), seed)[:cases])


def labelled_part(pool: Predictions) -> Predictions:
    """The cases of a pool that have a label, and are not of the training or only measured."""
    sets = np.array(pool.sets or ("",) * len(pool))
    return pool.select(np.flatnonzero((pool.labels != UNKNOWN_CLASS) & ~np.isin(sets, NOT_USED)))


def one_of_each_group(
    pool: Predictions, tuning: Predictions, training: Predictions, *, seed: int
) -> tuple[Predictions, Mapping[str, int]]:
    """One case of each group that can be drawn, and the number of cases left out, by set.

    It is drawn among all cases of the group, before any limit: groups that have a case above a
    limit are not like others.
    """
    sets, own = np.array(pool.sets or ("",) * len(pool), dtype=object), Identities.of(pool)
    sets[np.isin(sets, [*FREE, *OWN_SETS])] = ""
    sets[(sets == "") & np.isin(pool.units, pool.units[sets != ""])] = "excluded"
    for name, part in (("train", training), ("tune", tuning)):
        used, related = own.among(Identities.of(part))
        sets[(sets == "") & (used | related)] = name
    counts = Counter(sets.tolist())
    offered = pool.select(np.flatnonzero(sets == ""))
    left_out = {name: counts[name] for name in NOT_USED if name in counts}
    return offered.select(offered.one_per_group(seed=seed)), left_out


def share_to_label(tuned: ScoredCases, targets: Targets) -> float:
    """The share of all cases, best first, whose estimated error is a little above the target.

    The error is estimated by the error probabilities, which count as much as 100 cases, and by the
    cases. It decides how good the limit of a draw is, not whether the certificate holds.
    """
    best_first, number = np.argsort(-tuned.scores, kind="stable"), np.arange(1, len(tuned) + 1)
    estimated, observed = (
        np.where(tuned.acceptable, errors, 1.0)[best_first].cumsum()
        for errors in (tuned.error_probabilities, tuned.wrong)
    )
    risks = (ESTIMATE_CASES * estimated / number + observed) / (ESTIMATE_CASES + number)
    within = np.flatnonzero(risks <= SPARE_ERROR * (targets.max_error or 0.0))
    share = (1 + max(within.tolist(), default=0)) / len(tuned)
    return 1.0 if share > MOST_OF_POOL else share


def limit_of_draw(scores: Values, kept: Mask, share: float, cases: int) -> float:
    """The best score that is not in a share of the best cases, or in so many; -inf: all are.

    As it is a rank, the cases above it are a random sample of all that are above it.

    Args:
        scores: Acceptance scores of a pool.
        kept: True for the cases that could be accepted, by rules that were fixed before.
        share: Of the whole pool.
        cases: The fewest cases above the limit.
    """
    ranked, rank = np.sort(scores[kept])[::-1], max(math.ceil(share * len(scores)), cases)
    return float(ranked[rank]) if rank < len(ranked) else -math.inf


def label(images: PredictionsT, labels: Mapping[str, str]) -> PredictionsT:
    """Add true classes by the ids of cases; one that is empty or missing is not known.

    Raises:
        DataError: A label is of another case, or names no class.
    """
    rows = {name: row for row, name in enumerate(images.ids)}
    positions = {name: at for at, name in enumerate(images.classes)} | {"": UNKNOWN_CLASS}
    true_classes = images.labels.copy()
    for name, given in labels.items():
        if name not in rows:
            raise DataError(f"{name!r} is not among the cases to label; remove it")
        if (true_class := "" if given is None else str(given).strip()) not in positions:
            raise DataError(
                f"{name}: {true_class!r} is none of the classes {', '.join(images.classes)}; leave "
                "the label empty where the class cannot be told"
            )
        true_classes[rows[name]] = positions[true_class]
    return replace(images, labels=true_classes)


def _shuffled(rows: Rows, seed: int) -> Rows:
    """At random, independently of the draw of one case from each group."""
    return np.random.default_rng([seed, 1]).permutation(rows)
