"""Which lesion masks go with a dermoscopic image set."""

from dataclasses import replace
from pathlib import Path

from misgiving.data.datasets import Dataset
from misgiving.errors import DataError

AUTOMATIC = "automatic"


def with_masks(dataset: Dataset, masks: str | None) -> Dataset:
    """The set with the masks of a folder, or with none so that lesions are located automatically.

    Args:
        dataset: Dermoscopic images.
        masks: A folder of `ID_segmentation.png`; `automatic`; None for the masks beside the data.
    """
    if masks is None:
        return dataset
    if masks == AUTOMATIC:
        return replace(dataset, masks=None)
    folder = Path(masks).expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of masks; name another, or say automatic")
    return replace(dataset, masks=folder)
