"""Which lesion masks go with a dermoscopic image set."""

from dataclasses import replace
from pathlib import Path

from misgiving.data.datasets import Dataset
from misgiving.errors import DataError

AUTOMATIC = "automatic"
ENDING = "_segmentation.png"


def mask_of(folder: Path, identity: str) -> Path | None:
    """The mask of an image by its id, or by its file name without folders and suffix."""
    for name in (identity, Path(identity).stem):
        path = folder / f"{name}{ENDING}"
        if path.is_file():
            return path
    return None


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
    if not any(mask_of(folder, identity) for identity in dataset.ids):
        raise DataError(
            f"{folder}: holds no mask of these images; it must be named as in "
            f"{Path(dataset.ids[0]).stem}{ENDING}"
        )
    return replace(dataset, masks=folder)
