"""Draw the cases to label from the part of a pool that could be accepted.

All that scores an image is fitted on the tuning set before, and kept with the draw. Then the part
is fixed by ranks among the scores of the pool, which need no labels: given the limits, its images
are a random sample of those above them, and so are the cases that are drawn of it. They certify
thresholds above the limit, and nothing is accepted at or below it; docs/explanation/guarantee.md
has the argument.
"""

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from misgiving.arrays import Mask, Rows
from misgiving.deferral.certificate import Certificate, Pool
from misgiving.deferral.certify import ood_limit_of
from misgiving.deferral.expected_performance import compare_distributions
from misgiving.deferral.guarantees import Guarantee
from misgiving.deferral.identities import Cases, Identities
from misgiving.deferral.policy import Policy
from misgiving.deferral.sets import FREE, NOT_USED, check_same_model, fit_detectors
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import ScoredCases
from misgiving.errors import DataError, Parameter, UsageError
from misgiving.files import sha256_of
from misgiving.groups import unit_of
from misgiving.predictions.record import Predictions
from misgiving.predictions.schema import UNKNOWN_CLASS

if TYPE_CHECKING:
    from misgiving.deferral.deferral import Deferral

PredictionsT = TypeVar("PredictionsT", bound=Predictions)

SPARE = 1.25  # the part's estimated error as a multiple of the target, as the estimate may be wrong
MOST_MISSING = 0.1  # of the labels of a calibration
DIFFERENT = 0.01  # probability that sets are found to differ that do not


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnCases(Predictions):
    """Cases of a pool to label, in the order in which they were drawn.

    Attributes:
        deferral: Fitted on the tuning set; its policy accepts nothing yet.
    """

    deferral: "Deferral"

    @classmethod
    def of(cls, pool: Predictions, deferral: "Deferral") -> "DrawnCases":  # type: ignore[override]
        """The cases of a pool that were drawn of it with the policy that was kept.

        Raises:
            DataError: The policy is for another model, or a case is not in the pool.
        """
        deferral.check_predictions(pool)
        rows = {key: row for row, key in enumerate(_keys(Identities.of(pool)))}
        keys = _keys(deferral.cases_.calibration)
        if missing := sum(key not in rows for key in keys):
            raise DataError(
                f"{missing} of {len(keys)} drawn cases are not in the pool; give it whole"
            )
        return _without_labels(pool.select(np.array([rows[key] for key in keys])), deferral)

    def with_labels(self, labels: Mapping[str, str] | Sequence[str]) -> "DrawnCases":
        """Add the true classes, by the id of each case or in their order.

        A case without one (missing, empty or None) counts as wrong, since whether somebody can tell
        the class depends on the image.

        Raises:
            DataError: A label is of a case that was not drawn, or names no class.
        """
        named = labels if isinstance(labels, Mapping) else dict(zip(self.ids, labels, strict=True))
        return label(replace(self, labels=np.full(len(self), UNKNOWN_CLASS)), named)

    @property
    def look(self) -> "DrawnCases":
        """The cases of this calibration: the first planned number that has all labels that there are.

        Raises:
            DataError: More than a tenth of these have no label.
        """
        labelled = self.labels != UNKNOWN_CLASS
        sizes = self.deferral.certificate_.looks or (len(self),)
        size = next(each for each in sizes if each >= min(labelled.sum(), len(self)))
        if (missing := int((~labelled[:size]).sum())) > MOST_MISSING * size:
            raise DataError(
                f"{missing} of the first {size} drawn cases have no label, and would count as "
                "wrong; label these before the others"
            )
        return self.select(np.arange(size))


def draw(
    pool: Predictions,
    cases: int,
    *,
    deferral: "Deferral",
    tuning: Predictions | None = None,
    training: Predictions | None = None,
    looks: Sequence[int] = (),
) -> DrawnCases:
    """Draw the cases to label from the part of a pool that could be accepted.

    Args:
        pool: Images like those that the policy is for. Those of the tuning and the training set,
            and others of their groups, are left out; labels of the others are not read.
        cases: Number of groups to label, of each of which one image is drawn.
        deferral: Parameters of the policy; with `max_error`, and no target of classes or of silent
            errors, which need cases of the whole pool.
        tuning: Labelled images, for all that is fitted or chosen; None: those of the pool that have
            a label, or are in the set `tune`.
        training: Images that the model was trained on, with features, to fit OOD detectors; None:
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
    targets, _, guarantee = deferral.check_parameters(pool.classes, looks)
    if targets.max_error is None or targets.class_max_miss or targets.max_silent_error is not None:
        raise UsageError(
            *("cases are drawn for ", Parameter("max_error"), " alone; with ", "other targets, "),
            "calibrate with cases of the whole pool",
        )
    if looks and looks[-1] != cases:
        raise UsageError(Parameter("looks"), f" must end with the {cases} cases that are drawn")
    training = pool.in_set("train") if training is None else training
    tuning = labelled_part(pool) if tuning is None else tuning
    tuning.check_labelled()
    check_same_model(tuning, pool, "pool")
    detectors, trained = fit_detectors(tuning, training)
    offered, left_out = one_of_each_group(pool, tuning, training, seed=deferral.seed)
    fitted = replace(deferral)
    scorer, tuned, targets = fitted.fit_scorer(tuning, detectors)
    tuned.check_usable("tuning")
    scored = ScoredCases.of(scorer.score(offered), np.full(len(offered), UNKNOWN_CLASS))
    scored.check_usable("pool")
    gap, p_value = compare_distributions(tuned.scores, scored.scores)
    if p_value <= DIFFERENT:
        warnings.warn(
            f"the labelled images are not like the others: their acceptance scores differ by up to "
            f"{100 * gap:.0f} percentage points. The certificate is about the others: if the "
            "labelled ones were chosen, put as many back as chance would have left",
            stacklevel=2,
        )
    certificate, part = choose_part(scored, tuned, cases, targets, guarantee, pool.classes)
    fitted.policy_ = Policy(
        **vars(scorer),
        certificate=replace(certificate, looks=tuple(looks)),
        model=tuning.model or "unnamed",
        unit=unit_of(pool.group_columns),
        kind=pool.kind,
        seed=deferral.seed,
    )
    drawn = offered.select(_shuffled(part, deferral.seed)[:cases])
    if looks and len(drawn) < cases:
        raise DataError(f"{len(drawn)} images can be drawn, and {cases} are planned; plan fewer")
    fitted.cases_ = Cases(
        tuning=Identities.of(tuning),
        calibration=Identities.of(drawn),
        group_columns=pool.group_columns,
        training_images=trained,
        left_out=left_out,
        tuning_digest=digest_of(tuning),
    )
    return _without_labels(drawn, fitted)


def draw_to_tune(pool: Predictions, cases: int, *, seed: int) -> Predictions:
    """Draw the cases to tune on from a pool of which no image has a label."""
    nothing = pool.select(np.arange(0))
    offered, _ = one_of_each_group(pool, nothing, pool.in_set("train"), seed=seed)
    return offered.select(_shuffled(np.arange(len(offered)), seed)[:cases])


def labelled_part(pool: Predictions) -> Predictions:
    """The images of a pool that have a label, and are not of the training or only measured."""
    labelled = pool.labels != UNKNOWN_CLASS
    if pool.sets is not None:
        labelled &= ~np.isin(np.array(pool.sets), NOT_USED)
    return pool.select(np.flatnonzero(labelled))


def one_of_each_group(
    pool: Predictions, tuning: Predictions, training: Predictions, *, seed: int
) -> tuple[Predictions, Mapping[str, int]]:
    """One image of each group that can be drawn, and the number of the other images by their set.

    It is drawn among all images of the group, before any limit: groups that have an image above a
    limit are not like others.
    """
    own = Identities.of(pool)
    kinds = np.array(pool.sets or ("",) * len(pool), dtype=object)
    kinds[np.isin(kinds, [*FREE, "tune", "calibrate"])] = ""
    unused = np.unique(pool.units[kinds != ""])
    kinds[(kinds == "") & np.isin(pool.units, unused)] = "excluded"
    for name, part in (("train", training), ("tune", tuning)):
        used, related = own.among(Identities.of(part))
        kinds[(kinds == "") & (used | related)] = name
    counts = Counter(kinds.tolist())
    left_out = {name: counts[name] for name in NOT_USED if name in counts}
    offered = pool.select(np.flatnonzero(kinds == ""))
    return offered.select(offered.one_per_group(seed=seed)), left_out


def share_to_label(tuned: ScoredCases, targets: Targets) -> float:
    """The share of images, best first, whose estimated error is a little above the target.

    It decides how good the limit is, not whether the certificate holds.
    """
    best_first = np.argsort(-tuned.scores, kind="stable")
    errors = np.where(tuned.acceptable, tuned.error_probabilities, 1.0)[best_first]
    risks = errors.cumsum() / np.arange(1, len(tuned) + 1)
    within = np.flatnonzero(risks <= SPARE * (targets.max_error or 0.0))
    return float(max(within, default=0) + 1) / len(tuned)


def choose_part(
    pool: ScoredCases,
    tuned: ScoredCases,
    cases: int,
    targets: Targets,
    guarantee: Guarantee,
    classes: Sequence[str],
) -> tuple[Certificate, Rows]:
    """Fix the limits by ranks among the images of a pool, and the part above both.

    Returns:
        A certificate that accepts nothing yet, and the positions of the part.
    """
    ood = ood_limit_of(pool.ood_scores, targets, guarantee)
    kept: Mask = pool.acceptable & (
        pool.ood_scores > (-np.inf if ood.rank is None else ood.threshold)
    )
    order = np.argsort(-pool.scores, kind="stable")
    ranked = pool.scores[order][kept[order]]
    rank = max(math.ceil(share_to_label(tuned, targets) * len(pool)), cases)
    limit = float(ranked[rank]) if rank < len(ranked) else -math.inf
    certificate = Certificate(
        targets=targets,
        guarantee=guarantee.name,
        classes=tuple(classes),
        cases=0,
        tuning_cases=len(tuned),
        accept_threshold=math.inf,
        selection=None,
        ood_threshold=ood.threshold,
        ood_rank=ood.rank,
        ood_scores=ood.scores,
        smallest_certifiable=None,
        **dict.fromkeys(("accepted", "wrong", "accepted_on_average"), 0),
        **dict.fromkeys(("class_outcomes", "class_errors", "thresholds"), ()),
        **dict.fromkeys(("scores", "errors", "kept", "error_probabilities"), ()),
        pool=Pool(
            limit=limit,
            scores=tuple(pool.scores[order].astype(float).tolist()),
            kept=tuple(kept[order].tolist()),
        ),
    )
    return certificate, np.flatnonzero(kept & (pool.scores > limit))


def label(images: PredictionsT, labels: Mapping[str, str]) -> PredictionsT:
    """Add true classes to images, by their ids; an empty one is not known.

    Raises:
        DataError: A label is of another image, or names no class.
    """
    rows = {name: row for row, name in enumerate(images.ids)}
    positions = {name: at for at, name in enumerate(images.classes)} | {"": UNKNOWN_CLASS}
    known = images.labels.copy()
    for name, given in labels.items():
        if name not in rows:
            raise DataError(f"{name!r} is not among the images to label; give these alone")
        true_class = str(given or "").strip()
        if true_class not in positions:
            raise DataError(
                f"{name}: {true_class!r} is none of the classes {', '.join(images.classes)}; leave "
                "the label empty where the class cannot be told"
            )
        known[rows[name]] = positions[true_class]
    return replace(images, labels=known)


def digest_of(tuning: Predictions) -> str:
    """SHA-256 of the ids and true classes of a tuning set, in any order."""
    return sha256_of(repr(sorted(zip(tuning.ids, tuning.labels.tolist(), strict=True))).encode())


def _shuffled(rows: Rows, seed: int) -> Rows:
    """At random, independently of the draw of one image from each group."""
    return np.random.default_rng([seed, 1]).permutation(rows)


def _keys(identities: Identities) -> list[tuple[str, str]]:
    return list(zip(identities.ids, identities.outputs, strict=True))


def _without_labels(cases: Predictions, deferral: "Deferral") -> DrawnCases:
    values = {each.name: getattr(cases, each.name) for each in fields(Predictions)}
    values["labels"] = np.full(len(cases), UNKNOWN_CLASS)
    return DrawnCases(**values, deferral=deferral)
