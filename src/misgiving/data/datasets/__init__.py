"""Labelled image sets, not yet decoded, and how `digits`, `folder:` and the like are read."""

from misgiving.data.datasets.dataset import (
    DERMOSCOPY_AUGMENTATION,
    PAPER_PREPROCESSING,
    Dataset,
)
from misgiving.data.datasets.folders import SUFFIXES, unlabelled
from misgiving.data.datasets.images import (
    HashedImage,
    ImageArray,
    ImageFiles,
    ImageSource,
    preprocessed,
)
from misgiving.data.datasets.isic2019 import TRUTH
from misgiving.data.datasets.loaders import DATASETS, Loader, load_dataset
from misgiving.data.datasets.published import published_counts

__all__ = [
    "DATASETS",
    "DERMOSCOPY_AUGMENTATION",
    "PAPER_PREPROCESSING",
    "SUFFIXES",
    "TRUTH",
    "Dataset",
    "HashedImage",
    "ImageArray",
    "ImageFiles",
    "ImageSource",
    "Loader",
    "load_dataset",
    "preprocessed",
    "published_counts",
    "unlabelled",
]
