"""Configuration of how images are prepared and split."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from misgiving.options import option, require, require_choices


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Preparation and split of the images of a training; None keeps the data set's own setting."""

    image_size: int | None = option(
        None, "Side of the square images in pixels. Default: 224; digits: 16.", panel="Data"
    )
    crop: float | None = option(
        None,
        "Share of both sides that the centre crop keeps. Default: 0.85; digits: 1.",
        panel="Data",
    )
    color_constancy: Literal["shades_of_gray", "gray_world", "none"] | None = option(
        None, "Colour correction. Default: shades_of_gray; digits: none.", panel="Data"
    )
    augment: bool = option(
        True, "Augment by flips, colour jitter, rotation and translation.", panel="Data"
    )
    split: Literal["paper", "grouped"] = option(
        "paper",
        "Random by image and stratified by class, into train and validation (paper); or by group "
        "and near duplicate, into train, tune, calibrate and test (grouped).",
        panel="Data",
    )
    validation_share: float = option(
        0.1,
        "Share of the images, drawn by class, that the paper's split holds out.",
        panel="Data",
    )
    on_bad_image: Literal["fail", "skip"] = option(
        "fail",
        "If images cannot be read: list all of them and fail, or list them, record them and "
        "continue without them.",
        panel="Data",
    )

    def __post_init__(self) -> None:
        require_choices(self)
        require(self, "validation_share", 0 < self.validation_share < 1, "be in (0, 1)")

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Changes of the data set's own preprocessing."""
        changes = {name: getattr(self, name) for name in ("image_size", "crop", "color_constancy")}
        return {name: value for name, value in changes.items() if value is not None}


def default_cache() -> Path:
    """Folder for prepared images: `misgiving` in XDG_CACHE_HOME, or else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "misgiving"
