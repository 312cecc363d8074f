"""Check of a labelled image set before training: damage, duplicates and contradictions."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from misgiving.data.cache import Report
from misgiving.data.datasets.dataset import Dataset
from misgiving.data.decoding import in_order
from misgiving.data.duplicates import PICTURE_HASH, Hashes, near_duplicates, picture_hash
from misgiving.errors import reason_of
from misgiving.files import sha256_of

FINDINGS_FILE = "findings.csv"
FINDING_COLUMNS = ("check", "image", "other", "detail")  # by their ids; the other one compared
DARK_LEVEL = 16  # of 255: the brightest value of 12 bits that are stored as 16

COPIES = SAME_CONTENT, SAME_PIXELS, NEAR_DUPLICATES = (
    *("files of the same content", "files of the same pixels alone", "near duplicates"),
)
Pair = tuple[int, int, str]
"""Position of an image, of the earlier one it is compared with or else its own, and the detail."""

Facts = tuple[tuple[str, str], Hashes, int]
"""SHA-256 of an image's content and of its pixels, its picture hash and its brightest value."""


Check = tuple[str, Sequence[Pair], int, str]
"""Name of a check, the images concerned, its count and a remark."""

Summary = tuple[str, int, str]
"""Name, count and remark of the images, of a class or of a check; the count of a check is the
number of images, pairs or groups concerned."""

Finding = tuple[str, str, str, str]
"""An image with a problem: a row of `FINDING_COLUMNS`."""


def data_check(
    dataset: Dataset, *, report: Report | None = None
) -> tuple[list[Summary], list[Finding]]:
    """Check every image and label of a set; an unreadable image is a finding.

    Only hashes and a thumbnail of each image are kept.
    """
    images: dict[int, Facts] = {}
    unreadable: list[Pair] = []
    for index, facts in enumerate(in_order(partial(_facts_of, dataset), len(dataset))):
        if isinstance(facts, str):
            unreadable.append((index, index, facts))
        else:
            images[index] = facts
        if report:
            report(index + 1, len(dataset))
    dark = [
        (index, index, f"brightest value {brightest} of 255")
        for index, (*_, brightest) in images.items()
        if brightest <= DARK_LEVEL
    ]
    advice = "as 12 bits in 16; save them with the whole range of values" if dark else ""
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes)).tolist()
    sizes = zip(dataset.classes, counts, strict=True)
    checks: list[Check] = [
        ("images", (), len(dataset), f"in {len(dataset.classes)} classes"),
        *((f"images of {name}", (), count, "") for name, count in sizes),
        ("unreadable files", unreadable, len(unreadable), unreadable[0][2] if unreadable else ""),
        *_checks_of_relations(dataset, _copies(images)),
        ("nearly black images", dark, len(dark), advice),
    ]
    ids = dataset.ids
    findings = [
        (name, ids[index], "" if other == index else ids[other], detail)
        for name, pairs, _, _ in checks
        for index, other, detail in pairs
    ]
    return [(name, count, remark) for name, _, count, remark in checks], findings


def _facts_of(dataset: Dataset, index: int) -> Facts | str:
    """Facts of an image, or in one line the reason why it cannot be read."""
    try:
        content, image = dataset.images.read(index)
        pixels = sha256_of(f"{image.shape}".encode() + image.tobytes())
        return (content, pixels), picture_hash(image), int(image.max())
    except Exception as failure:  # whatever happens, the other images are still checked
        return reason_of(failure).encode(errors="backslashreplace").decode()


def _copies(images: Mapping[int, Facts]) -> list[Pair]:
    """Each image that repeats an earlier one, with the first such; then near duplicates.

    A pair is listed once, by its closest agreement.
    """
    first_with: dict[tuple[str, str], int] = {}
    distinct: dict[int, Hashes] = {}
    exact: list[Pair] = []
    for index, (hashes, picture, _) in images.items():
        for key in zip((SAME_CONTENT, SAME_PIXELS), hashes, strict=True):
            if (first := first_with.setdefault(key, index)) != index:
                exact.append((index, first, key[0]))
                break
        else:
            distinct[index] = picture
    positions = list(distinct)
    near = near_duplicates(np.array([*distinct.values()], dtype=PICTURE_HASH))
    pairs = [(positions[second], positions[first]) for first, second in near]
    return exact + [(*pair, NEAR_DUPLICATES) for pair in pairs]


def _checks_of_relations(dataset: Dataset, copies: Sequence[Pair]) -> Iterator[Check]:
    """Checks of copies and of groups; the count is that of pairs, and that of groups."""
    units, labels = dataset.units.tolist(), [dataset.classes[label] for label in dataset.labels]
    first: dict[int, int] = {}
    members = [
        (index, first.setdefault(unit, index), dataset.groups[index])
        for index, unit in enumerate(units)
    ]
    groups = sorted((pair for pair in members if pair[0] != pair[1]), key=lambda pair: pair[1])

    def of_copies(name: str, pairs: Sequence[Pair]) -> Check:
        apart = sum(units[index] != units[other] for index, other, _ in pairs)
        return name, pairs, len(pairs), f"{apart} of different groups" if pairs else ""

    def of_groups(name: str, pairs: Sequence[Pair], remark: str = "") -> Check:
        return name, pairs, len({earliest for _, earliest, _ in pairs}), remark

    for name in COPIES:
        yield of_copies(name, [pair for pair in copies if pair[2] == name])
    grouped = len(groups) + len({earliest for _, earliest, _ in groups})
    remark = f"{grouped} images; {len(first)} groups in all"
    yield of_groups("groups with several images", groups, remark)
    yield of_copies("copies with different labels", _differing(copies, labels))
    yield of_groups("groups with different labels", _differing(groups, labels))


def _differing(pairs: Sequence[Pair], values: Sequence[str]) -> list[Pair]:
    """The pairs of images whose values differ, which are added to the detail."""
    return [
        (index, other, f"{detail}: {values[index]}, {values[other]}")
        for index, other, detail in pairs
        if values[index] != values[other]
    ]
