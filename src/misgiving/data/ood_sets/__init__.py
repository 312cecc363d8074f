"""Out-of-distribution sets: derived from held-out images, from scikit-image, or from a place."""

from misgiving.data.ood_sets.lesions import locate_lesion, with_masks
from misgiving.data.ood_sets.ood_set import (
    HISTOLOGY,
    OOD_SETS,
    PAPER_COUNTS,
    PHOTOGRAPHS,
    Built,
    build,
    from_place,
    readable_set,
    write_ood_set,
)

__all__ = [
    "HISTOLOGY",
    "OOD_SETS",
    "PAPER_COUNTS",
    "PHOTOGRAPHS",
    "Built",
    "build",
    "from_place",
    "locate_lesion",
    "readable_set",
    "with_masks",
    "write_ood_set",
]
