"""A labelled image set that is not yet decoded."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from misgiving.data.datasets.images import ImageSource, Indices
from misgiving.data.datasets.metadata import Metadata
from misgiving.data.preprocessing import AugmentationSettings, Preprocessing
from misgiving.errors import DataError, UsageError

PAPER_PREPROCESSING = Preprocessing()
DERMOSCOPY_AUGMENTATION = AugmentationSettings()


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A labelled image set and the settings that suit it.

    Attributes:
        name: The set as it was asked for, such as `folder:photos`.
        classes: Class names; a label is a position in it.
        labels: One per image.
        ids: Unique: the path inside the folder, or the image's own name.
        groups: Images of one group show the same thing (lesion, source picture); the id where
            nothing else is known.
        images: Where the pixels come from.
        preprocessing: Suits this kind of data.
        augmentation: Suits this kind of data.
        contents: One sentence for a report, where the name does not say enough.
        masks: Folder of lesion masks, named by an image's id and `_segmentation.png`, as large as
            the image and white on the lesion; None where there is none.
        metadata: What else is known of each image, such as its patient's age band, by column.
    """

    name: str
    classes: tuple[str, ...]
    labels: Int[np.ndarray, " n"]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    images: ImageSource
    preprocessing: Preprocessing = PAPER_PREPROCESSING
    augmentation: AugmentationSettings = DERMOSCOPY_AUGMENTATION
    contents: str = ""
    masks: Path | None = None
    metadata: Metadata = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = self.metadata.values()
        sizes = {len(self.labels), len(self.ids), len(self.groups), len(self.images)}
        if len(sizes.union(map(len, columns))) > 1:
            raise UsageError(
                f"{self.name}: labels, ids, groups, images and metadata differ in number"
            )
        for identity, count in Counter(self.ids).most_common(1):
            if count > 1:
                raise DataError(f"{self.name}: {identity!r} occurs {count} times; keep it once")
        for identity in self.ids:
            if any("\ud800" <= letter <= "\udfff" for letter in identity):  # undecodable bytes
                raise DataError(f"{self.name}: the name {identity!a} is not UTF-8; rename the file")

    def __len__(self) -> int:
        return len(self.labels)

    def refuse_single_images(self) -> None:
        """Refuse a set that cannot be learnt from: of one class, or with a class of one image."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        if np.count_nonzero(counts) < 2:
            raise DataError(f"{self.name}: has fewer than two classes; add images of another")
        for name, count in zip(self.classes, counts, strict=True):
            if count == 1:
                raise DataError(
                    f"{self.name}: class {name!r} has one image, which cannot be in both parts;"
                    " add images of it or leave the class out"
                )

    def select(self, indices: Indices) -> "Dataset":
        """Set of these images alone, in this order."""
        return replace(
            self,
            labels=self.labels[indices],
            ids=tuple(self.ids[index] for index in indices),
            groups=tuple(self.groups[index] for index in indices),
            images=self.images.select(indices),
            metadata={
                column: tuple(values[index] for index in indices)
                for column, values in self.metadata.items()
            },
        )

    def restrict(self, classes: Sequence[str]) -> "Dataset":
        """Images of exactly these classes, whose labels are positions in `classes`."""
        for name in classes:
            if name not in self.classes:
                known = ", ".join(self.classes)
                raise UsageError(f"unknown class {name!r} of {self.name}; choose from {known}")
        if not classes or len(set(classes)) < len(classes):
            raise UsageError(f"classes must be named once each, got {', '.join(classes) or 'none'}")
        relabelled = np.full(len(self.classes), -1, dtype=np.int64)
        relabelled[[self.classes.index(name) for name in classes]] = np.arange(len(classes))
        labels = relabelled[self.labels]
        kept = self.select(np.flatnonzero(labels >= 0))
        return replace(kept, classes=tuple(classes), labels=labels[labels >= 0])
