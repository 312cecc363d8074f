"""How a classifier and its loss estimator are trained: every setting, and what it may be."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from misgiving.errors import UsageError

Weighting = Literal["inverse", "sqrt", "none"]

LARGEST = 1e30  # what single precision can still multiply a little


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train; the defaults are the paper's settings (4.1), or ours where it is silent.

    Attributes:
        epochs: Passes over as many images as the training part has.
        batch_size: Images in one step, of all processes together; at least 2: one image has no
            pair.
        learning_rate: Adam's, at the start.
        decay_every: Epochs between two reductions of the learning rate.
        decay_factor: What each reduction multiplies it by.
        beta1: Adam's first moment ("momentum").
        weight_decay: Adam's L2 penalty.
        auxiliary: `ranking` (Eq. 1), `mse`, or `none` for the plain classifier.
        auxiliary_weight: Lambda of Eq. 2.
        margin: Gamma of Eq. 1.
        pairs: `all` ordered pairs of the batch, or `halves`.
        reduction: `mean` or `sum` over the pairs.
        target: The estimator learns the loss as `trained` on (with class weights) or `plain`.
        joint_epochs: Epochs in which the estimator's gradient enters the backbone: None for
            always, 0 for never (`detached`), or a number.
        estimator_rate: The estimator's learning rate as a multiple of the classifier's.
        sampling: Draw images with weights 1 / n_k (`inverse`), 1 / sqrt(n_k) (`sqrt`), or each
            once (`none`).
        class_weights: Weigh the loss by N / (K n_k) (`inverse`), its square root, or not.
        primary_mean: torch's `weighted` mean of the weighted losses, or the `plain` one.
        keep: Keep the weights of the `last` epoch, or of the one with the `best` balanced accuracy
            on the validation part (which is then no longer an honest test).
        seed: Of the first weights, the order of images, augmentation and dropout.
        device: `auto`, `cpu`, `cuda` or `mps`.
        precision: lightning-fabric's name, such as `32-true` or `bf16-mixed`.
        compiled: Compile the steps with `torch.compile`: slow to begin, faster where it pays.
        devices: Processes on each node, one for each device; each sees a share of every batch.
        nodes: Machines that train together.
    """

    epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 1e-4
    decay_every: int = 10
    decay_factor: float = 0.5
    beta1: float = 0.9
    weight_decay: float = 5e-4
    auxiliary: str = "ranking"
    auxiliary_weight: float = 0.5
    margin: float = 1.0
    pairs: Literal["all", "halves"] = "all"
    reduction: Literal["mean", "sum"] = "mean"
    target: Literal["trained", "plain"] = "trained"
    joint_epochs: int | None = None
    estimator_rate: float = 1.0
    sampling: Weighting = "inverse"
    class_weights: Weighting = "inverse"
    primary_mean: Literal["weighted", "plain"] = "weighted"
    keep: Literal["last", "best"] = "last"
    seed: int = 0
    device: str = "auto"
    precision: str = "32-true"
    compiled: bool = False
    devices: int = 1
    nodes: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "decay_every", "devices", "nodes"):
            _require(self, name, "be at least 1", getattr(self, name) >= 1)
        _require(self, "batch_size", "be at least 2", self.batch_size >= 2)
        processes = self.devices * self.nodes
        rule = f"be a multiple of the {processes} processes, and at least 2 for each"
        divisible = self.batch_size % processes == 0 and self.batch_size >= 2 * processes
        _require(self, "batch_size", rule, divisible)
        for name in ("learning_rate", "decay_factor", "estimator_rate"):
            _require(self, name, "be positive, at most 1e30", 0 < getattr(self, name) <= LARGEST)
        for name in ("weight_decay", "auxiliary_weight", "margin"):
            _require(self, name, "be from 0 to 1e30", 0 <= getattr(self, name) <= LARGEST)
        _require(self, "seed", "be from 0 to 2**32 - 1", 0 <= self.seed < 2**32)
        _require(self, "beta1", "be in [0, 1)", 0 <= self.beta1 < 1)
        _require(self, "joint_epochs", "not be negative", (self.joint_epochs or 0) >= 0)
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            _require(self, name, f"be one of {', '.join(choices)}", value in choices)

    @property
    def estimates_losses(self) -> bool:
        """Whether the loss estimator is trained at all."""
        return self.auxiliary != "none" and self.auxiliary_weight > 0

    def to_dict(self) -> dict[str, Any]:
        """As written to `config.json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainingConfig":
        """From `config.json`; unknown names are refused."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise UsageError(f"unknown training settings {', '.join(unknown)}")
        return cls(**values)


_WEIGHTINGS = ("inverse", "sqrt", "none")
_CHOICES: dict[str, tuple[str, ...]] = {
    "auxiliary": ("ranking", "mse", "none"),
    "pairs": ("all", "halves"),
    "reduction": ("mean", "sum"),
    "target": ("trained", "plain"),
    "sampling": _WEIGHTINGS,
    "class_weights": _WEIGHTINGS,
    "primary_mean": ("weighted", "plain"),
    "keep": ("last", "best"),
    "device": ("auto", "cpu", "cuda", "mps"),
}


def _require(config: TrainingConfig, name: str, rule: str, holds: bool) -> None:
    if not holds:
        raise UsageError(f"{name} must {rule}, got {getattr(config, name)!r}")
