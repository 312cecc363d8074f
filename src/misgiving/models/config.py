"""Configuration of the network."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from misgiving.options import option


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of the network and its initial weights."""

    backbone: str = option("vgg16", "Any timm model, or vgg16_mini.", panel="Model")
    pretrained: bool = option(True, "Start from timm's ImageNet weights.", panel="Model")
    weights: Path | None = option(
        None,
        "Start from a local safetensors file or torch state dict (timm's names) instead.",
        panel="Model",
        metavar="FILE",
    )
    dropout: float = option(0.4, "Dropout rate.", panel="Model")
    taps: tuple[int, ...] | None = option(
        None,
        "timm feature levels that the loss estimator reads. Default: the paper's four of a VGG, "
        "the last four of other backbones.",
        panel="Model",
        metavar="I,J,...",
    )
    hidden: int = 128  # units of the loss estimator for each tap
    reads_logits: bool = option(
        False,
        "Give the loss estimator one more tap: the classifier's own output, detached.",
        panel="Model",
    )

    def to_dict(self) -> dict[str, Any]:
        """The values as a run's configuration holds them, with the weights file's name alone."""
        return {**asdict(self), "weights": self.weights.name if self.weights else None}
