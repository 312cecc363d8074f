"""Recipes: settings of a training that belong together."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from misgiving.registry import Registry
from misgiving.training.config import (
    DataConfig,
    EstimatorConfig,
    ModelConfig,
    TrainingConfig,
    check_share_has_effect,
)

RecipeName = Literal["modern", "paper"]


class TrainingConfigs(NamedTuple):
    """The three configurations of a training."""

    images: DataConfig
    model: ModelConfig
    training: TrainingConfig


class Recipe(NamedTuple):
    """Settings that differ from the paper's, which the configurations have by default."""

    images: Mapping[str, Any] = {}
    model: Mapping[str, Any] = {}
    training: Mapping[str, Any] = {}

    def configure(
        self,
        images: Mapping[str, Any] = {},
        model: Mapping[str, Any] = {},
        training: Mapping[str, Any] = {},
    ) -> TrainingConfigs:
        """The configurations of this recipe, with the given settings in place of its own."""
        configured = DataConfig(**{**self.images, **images})
        check_share_has_effect(configured.split, images)
        return TrainingConfigs(
            configured,
            ModelConfig(**{**self.model, **model}),
            TrainingConfig(**{**self.training, **training}),
        )


RECIPES: Registry[Recipe] = Registry(
    "recipe",
    modern=Recipe(
        images={"color_constancy": "none", "crop": 1.0, "split": "grouped"},
        model={"backbone": "tf_efficientnet_lite0", "dropout": 0.2},
        training={
            "optimizer": "adamw",
            "weight_decay": 0.05,
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "warmup": 0.08,
            "epochs": 12,
            "batch_size": 32,
            "class_weights": "none",
            "sampling": "none",
            "target": "plain",
            "estimator_rate": 10.0,
        },
    ),
    paper=Recipe(),
)
"""`paper` is section 4.1 of the paper, and the default of `reproduce`; `modern` that of `train`,
chosen in trainings on half of ISIC 2019 (docs/explanation/loss_estimator.md)."""

ATTACHED = EstimatorConfig(
    optimizer="adamw",
    weight_decay=0.05,
    learning_rate=1e-3,
    schedule="cosine",
    warmup=0.08,
    epochs=50,
    class_weights="none",
    sampling="none",
    target="plain",
)
"""Default for the loss estimator of a classifier that was trained elsewhere."""
