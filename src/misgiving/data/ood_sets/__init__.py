"""Out-of-distribution sets: derived from held-out images, embedded in a package, or from a folder.

Derived sets are made as in Pacheco et al. (2020), whom the paper follows ("OOD Datasets").
"""

from misgiving.data.ood_sets.building import (
    OOD_SETS,
    OodSet,
    b_box,
    b_box_70,
    b_box_70_image,
    build,
    derm_skin,
    readable_set,
)
from misgiving.data.ood_sets.built import PAPER_COUNTS, Built
from misgiving.data.ood_sets.embedded import (
    CROP_SIZE,
    CROPS,
    HISTOLOGY,
    PHOTOGRAPHS,
    histology,
    photographs,
)
from misgiving.data.ood_sets.ink import BoxedImages, boxes
from misgiving.data.ood_sets.lesions import locate_lesion
from misgiving.data.ood_sets.manifests import ManifestRow, checksum, manifest, write_ood_set
from misgiving.data.ood_sets.places import from_place

__all__ = [
    "CROPS",
    "CROP_SIZE",
    "HISTOLOGY",
    "OOD_SETS",
    "PAPER_COUNTS",
    "PHOTOGRAPHS",
    "BoxedImages",
    "Built",
    "ManifestRow",
    "OodSet",
    "b_box",
    "b_box_70",
    "b_box_70_image",
    "boxes",
    "build",
    "checksum",
    "derm_skin",
    "from_place",
    "histology",
    "locate_lesion",
    "manifest",
    "photographs",
    "readable_set",
    "write_ood_set",
]
