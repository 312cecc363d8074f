"""The rows and documents that runs, evaluations and reproductions write.

Rows are NamedTuples, or dataclasses where one has the columns of another.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from misgiving.errors import require_choices

ModelName = Literal[
    "vanilla",
    "mse",
    "detached",
    "proposed",
    "proposed_halves",
    "proposed_sum",
    "proposed+logits",
]
"""The models that a reproduction compares, in the order of its tables."""


POLICY_SET = "policy_test"
"""Name of the images on which a policy is measured."""

UNSEEN_SET = "unseen_classes"
"""Name, in results, of the images of all classes that a model was not trained on."""

CHOSEN = "best_on_tuning"
"""Name, in results, of the detector with the highest AUROC on the tuning set."""


class Result(NamedTuple):
    """One row of `results.csv`: a measurement of one model in one trial; a share is a fraction.

    A value that is not defined has no row.
    """

    experiment: str
    trial: int
    model: str
    dataset: str
    detector: str
    metric: str
    value: float


class ResultInterval(NamedTuple):
    """One row of `intervals.csv`; with a baseline it is the paired difference model - baseline.

    The baseline is a model, or `msp` for the difference of the detector from MSP in one model.

    Attributes:
        lower: Of the bootstrap over trials and groups; None, as `upper`, where no interval can be
            given.
        n: Independent groups: of the smaller of two sets, and for a sensitivity of its class.
        tuned: Whether the detector was tuned on this set.
        trial_lower: Of the t-interval over trials, which judges a difference between models; None,
            as `trial_upper` and `p_value`, with a single trial.
        p_value: Two-sided, of a value of zero, by the same t-test; not adjusted.
    """

    experiment: str
    model: str
    baseline: str
    dataset: str
    detector: str
    metric: str
    estimate: float
    lower: float | None
    upper: float | None
    n: int
    trials: int
    tuned: bool
    trial_lower: float | None = None
    trial_upper: float | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class OfUnit:
    """The unit that a row is about, as its first columns."""

    experiment: str
    trial: int
    model: str


@dataclass(frozen=True)
class EpochRecord:
    """One row of a run's `history.csv`: a set, measured in evaluation mode after an epoch.

    The training set is measured without augmentation or dropout on a fixed random draw of as many
    images as the monitored set has, so that both mean the same. What concerns the estimated losses
    is undefined (NaN, None when read) where no loss is estimated: the auxiliary loss, the Spearman
    correlation of predicted and true loss, sd(predicted) / sd(true) and R2 against a constant.
    """

    epoch: int
    set: str
    primary_loss: float
    auxiliary_loss: float | None
    accuracy: float
    balanced_accuracy: float
    rank_correlation: float | None
    spread_ratio: float | None
    r_squared: float | None


@dataclass(frozen=True)
class HistoryRow(EpochRecord, OfUnit):
    """One row of `histories.csv`."""


class Confusion(NamedTuple):
    """One row of `confusions.csv`: the images of a class that were predicted as another."""

    experiment: str
    trial: int
    model: str
    true: str
    predicted: str
    images: int


@dataclass(frozen=True)
class ReliabilityBin:
    """One row of a unit's `reliability.csv`: the mean prediction of some images, and the outcome.

    The quantity is `error_probability` or `expected_loss`.
    """

    quantity: str
    predicted: float
    observed: float
    images: int


@dataclass(frozen=True)
class ReliabilityRow(ReliabilityBin, OfUnit):
    """One row of a reproduction's `reliability.csv`."""


class RiskPoint(NamedTuple):
    """One row of `risk_coverage.csv`: the mean error among the accepted, with its 95 % interval.

    The interval is None with one group, and where the bootstrap finds no variation, as of no error.
    """

    model: str
    detector: str
    coverage: float
    risk: float
    lower: float | None
    upper: float | None


class OdinPoint(NamedTuple):
    """One row of `odin_grid.csv`: a point of ODIN's grid, measured on the tuning set."""

    temperature: float
    epsilon: float
    auroc: float
    fpr_at_tpr95: float


class CaseRow(NamedTuple):
    """One row of `cases.csv`: all that policies rest on, so that others can be tried."""

    set: str
    group: str
    label: str
    wrong: bool
    acceptable: bool
    acceptance_score: float
    ood_score: float | None


class SkippedImage(NamedTuple):
    """One row of `skipped.csv`: an image that cannot be read, and why."""

    set: str
    image: str
    reason: str


class ManifestImage(NamedTuple):
    """One row of `manifests/SET.csv`: an image of a set that was measured."""

    id: str
    group: str
    sha256: str


class Unit(NamedTuple):
    """One model of one trial of one experiment.

    Units of `ood_detection` also serve `new_classes`, which measures the same models.
    """

    experiment: str
    trial: int
    model: str

    @property
    def folder(self) -> Path:
        """Folder of the unit, relative to that of the reproduction."""
        return Path("units", self.experiment, f"trial-{self.trial}", self.model)

    def __str__(self) -> str:
        return f"{self.experiment}, trial {self.trial}, {self.model}"


@dataclass(frozen=True, kw_only=True)
class UnitTiming:
    """`timing.json`: how long a unit took."""

    seconds: float
    threads: int


@dataclass(frozen=True, kw_only=True)
class SetFacts:
    """A set of images in `datasets.json`.

    Attributes:
        groups: Independent groups, such as lesions or source pictures.
        checksum: Of all images.
        paper_set: The set of the paper's Table 1 that it is or stands in for; empty for none.
        paper_images: Images of that set in the paper.
        left_out: Images from which no sample of this set could be made.
        origin: `published set` if it was given under the paper's name, `given` under another, or
            `made here`; empty for the images of the data.
    """

    contents: str
    images: int
    groups: int
    checksum: str
    paper_set: str
    paper_images: int | None
    left_out: int
    origin: str


@dataclass(frozen=True, kw_only=True)
class OdinGrid:
    """ODIN's grid, and the OOD set and the criterion by which its best point was chosen.

    Attributes:
        tuning_set: OOD set on which it is tuned.
        temperatures: Temperatures of the grid.
        epsilons: Perturbations of the grid, in units of a pixel in [0, 1].
        criterion: Tune ODIN for the highest AUROC, or for the lowest FPR@TPR95; the paper names
            neither.
    """

    tuning_set: str
    temperatures: tuple[float, ...]
    epsilons: tuple[float, ...]
    criterion: Literal["auroc", "fpr_at_tpr95"] = "auroc"

    def __post_init__(self) -> None:
        require_choices(self)


class SplitSize(NamedTuple):
    """The images of an experiment in each trial: all, those trained on and those measured."""

    experiment: str
    images: int
    trained: int
    measured: int


class SplitLeakage(NamedTuple):
    """Groups and identical images that the sets of a split share.

    Attributes:
        experiment: Of the trial; empty for a single training.
        shared_groups: Groups with images in more than one set.
        leaking_images: Measured images whose group, or a copy of which, is in the training set.
        measured_images: Images of the measured set.
        separate: Whether neither a group nor an identical image is in two sets.
    """

    experiment: str
    trial: int
    shared_groups: int
    leaking_images: int
    measured_images: int
    separate: bool

    def sentence(self, measured: str) -> str:
        """Summary, given the name of the measured set."""
        if self.separate:
            return (
                "no group and no identical image is in two sets "
                f"({self.measured_images} images in {measured})"
            )
        return (
            f"{self.shared_groups} groups have images in more than one set; of "
            f"{self.measured_images} {measured} images, {self.leaking_images} have another image "
            "of their group, or a copy, in the training set"
        )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`settings.json`: the data, the settings and the provenance of a reproduction.

    Attributes:
        images: Those of 4.1; `in_distribution_images` are those of 4.2 and 4.3.
        classes: Of 4.1, in the order of the data; 4.2 has those of `in_distribution`.
        class_counts: Images by class and set, in the first trial of 4.1.
        split: `paper` (by image) or `grouped`.
        monitored_set: Measured after each epoch of training.
        tuning_set: In-distribution images on which detectors were tuned.
        measured_set: In-distribution images of every table.
        odin: The grid, and the OOD set on which ODIN was tuned.
        learning_rates: All that were tried in 4.1, the protocol's own among them.
        model: `ModelConfig`, and so with the next three.
        training: `TrainingConfig` before what each model changes.
        preprocessing: `Preprocessing`.
        augmentation: `AugmentationSettings`.
        compares_with_paper: Whether the data are dermoscopic images with the paper's classes.
        fingerprint: Of the images of 4.1.
        unit_seconds: Training and measuring, summed over units.
        unit_threads: Each number of threads that units had.
    """

    data: str
    images: int
    in_distribution_images: int
    classes: tuple[str, ...]
    in_distribution: tuple[str, ...]
    unseen: tuple[str, ...]
    class_counts: dict[str, dict[str, int]]
    split: str
    validation_share: float
    monitored_set: str
    tuning_set: str
    measured_set: str
    sizes: tuple[SplitSize, ...]
    odin: OdinGrid
    models: tuple[str, ...]
    trials: int
    seed: int
    learning_rates: tuple[float, ...]
    model: dict[str, Any]
    training: dict[str, Any]
    preprocessing: dict[str, Any]
    augmentation: dict[str, Any]
    compares_with_paper: bool
    versions: dict[str, str]
    fingerprint: str
    leakage: tuple[SplitLeakage, ...]
    missing_units: tuple[Unit, ...]
    skipped: tuple[SkippedImage, ...]
    unit_seconds: float
    unit_threads: tuple[int, ...]
    notes: tuple[str, ...]
