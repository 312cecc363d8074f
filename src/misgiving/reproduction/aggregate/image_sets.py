"""The sets of images in the report: contents, counts, manifests and examples."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from misgiving.data.cache import ImageSet
from misgiving.data.ood_sets import PAPER_COUNTS
from misgiving.files import whole_folder
from misgiving.reproduction.new_classes import TOGETHER, unseen_images, unseen_sets
from misgiving.reproduction.ood_sources import PAPER_SETS
from misgiving.reproduction.protocol import Unit
from misgiving.reproduction.trial_data import TrialData
from misgiving.results.formats import write_document, write_table
from misgiving.results.schema import ManifestImage, SetFacts

EXAMPLES = 6


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """A set of images as the report shows it; of the first trial where it differs between trials.

    Attributes:
        images: Prepared, as the models see them.
        contents: One sentence.
        row: The row of the paper's Table 1 beside which it belongs; empty outside 4.2.
        left_out: Images from which no sample of this set could be made.
    """

    images: ImageSet
    contents: str
    row: str = ""
    left_out: int = 0


def exhibits(trial_data: TrialData) -> dict[str, Exhibit]:
    """All sets that are measured on, by name."""
    protocol, measured = trial_data.protocol, trial_data.evaluation_sets.measured
    unit = Unit("ood_detection", 0, protocol.models[0])
    all_classes = trial_data.run(unit._replace(experiment="generalization")).images_of(measured)
    shown = {
        measured: Exhibit(images=all_classes, contents="held-out images of all classes (4.1)"),
        f"{measured} (in-distribution classes)": Exhibit(
            images=trial_data.run(unit).images_of(measured),
            contents=f"held-out images of the classes {', '.join(protocol.in_distribution)} "
            "(in-distribution in 4.2 and 4.3)",
        ),
    }
    for name, (built, images) in trial_data.outliers(0).items():
        shown[name] = Exhibit(
            images=images,
            contents=built.dataset.contents,
            row=protocol.row(name),
            left_out=built.left_out,
        )
    together = unseen_images(trial_data.images, protocol.unseen)
    for name, rows in unseen_sets(together, protocol.unseen).items():
        classes = "all unseen classes" if name == TOGETHER else f"class {name.split('/')[1]}"
        contents = f"images of {classes}, on which no model of 4.3 was trained"
        shown[name] = Exhibit(images=together.select(rows), contents=contents)
    return shown


def write_datasets(out: Path, shown: Mapping[str, Exhibit]) -> None:
    """Write `datasets.json`, and the images of each set into `manifests/`."""
    write_document(
        out / "datasets.json", {name: _facts(exhibit) for name, exhibit in shown.items()}
    )
    with whole_folder(out / "manifests") as partial:
        for name, exhibit in shown.items():
            images = exhibit.images
            rows = map(ManifestImage, images.ids, images.groups, images.hashes)
            write_table(partial / f"{name.replace('/', '-')}.csv", ManifestImage, rows)


def _facts(exhibit: Exhibit) -> SetFacts:
    return SetFacts(
        contents=exhibit.contents,
        images=len(exhibit.images),
        groups=len(set(exhibit.images.groups)),
        checksum=exhibit.images.fingerprint,
        paper_set=exhibit.row if exhibit.row in PAPER_SETS else "",
        paper_images=PAPER_COUNTS.get(exhibit.row),
        left_out=exhibit.left_out,
    )


def write_examples(folder: Path, shown: Mapping[str, Exhibit]) -> None:
    """Write a few images of each set as PNG files."""
    with whole_folder(folder) as partial:
        for name, exhibit in shown.items():
            examples = partial / name.replace("/", "-")
            examples.mkdir()
            for number, pixels in enumerate(_spread(exhibit.images)):
                Image.fromarray(pixels).save(examples / f"{number}.png")


def _spread(images: ImageSet) -> UInt8[np.ndarray, "n size size 3"]:
    """A few images at even distances, so that several classes or source pictures are among them."""
    positions = np.linspace(0, len(images) - 1, min(EXAMPLES, len(images)))
    return images.read(positions.round().astype(np.int64))
