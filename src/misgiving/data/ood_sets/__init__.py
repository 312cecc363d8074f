"""Out-of-distribution sets: derived from held-out images, from scikit-image, or from a place."""

from misgiving.data.ood_sets.build import (
    OOD_SETS,
    PAPER_COUNTS,
    ManifestRow,
    OodSet,
    build,
    checksum,
    from_place,
    manifest,
    readable_set,
    write_ood_set,
)
from misgiving.data.ood_sets.derived import Built
from misgiving.data.ood_sets.lesions import locate_lesion, with_masks
from misgiving.data.ood_sets.scikit_image import HISTOLOGY, PHOTOGRAPHS, photographs

__all__ = [
    "HISTOLOGY",
    "OOD_SETS",
    "PAPER_COUNTS",
    "PHOTOGRAPHS",
    "Built",
    "ManifestRow",
    "OodSet",
    "build",
    "checksum",
    "from_place",
    "locate_lesion",
    "manifest",
    "photographs",
    "readable_set",
    "with_masks",
    "write_ood_set",
]
