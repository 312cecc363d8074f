"""What `misgiving predict` does: answers of a run or a bundle for image files.

Nothing here needs torch, unless it is a run that answers.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from misgiving.bundle import Answer, Bundle, is_bundle_not_run
from misgiving.data.bad_images import FAIL, ON_BAD_IMAGE, collected
from misgiving.data.datasets import Dataset, preprocessed, unlabelled
from misgiving.data.parallel import LOOK_AHEAD, in_order
from misgiving.data.preprocessing import Preprocessing
from misgiving.errors import BadImage, DataError, UsageError
from misgiving.workflows.unfinished_answers import Kept

Report = Callable[[int, int], None]
Squares = UInt8[np.ndarray, "n size size 3"]
Key = TypeVar("Key")
Value = TypeVar("Value")


@runtime_checkable
class Team(Protocol):
    """Processes that share the images."""

    @property
    def is_first(self) -> bool:
        """Whether this process keeps and writes what is found."""

    def share(self, todo: list[int]) -> list[int]:
        """The part that is this process's."""

    def together(self, found: Mapping[Key, Value]) -> dict[Key, Value]:
        """What all have found."""


class Alone:
    """One process does all of it."""

    is_first = True

    def share(self, todo: list[int]) -> list[int]:
        return todo

    def together(self, found: Mapping[Key, Value]) -> dict[Key, Value]:
        return dict(found)


@dataclass(frozen=True, eq=False, kw_only=True)
class Answerer:
    """A run or a bundle.

    Attributes:
        answer: From preprocessed images to answers.
        preprocessing: What an image goes through before.
        decides: Whether there is a policy.
        fingerprint: Of all that answers depend on, the policy included.
        team: The processes that answer.
    """

    answer: Callable[[Squares], list[Answer]]
    preprocessing: Preprocessing
    decides: bool
    fingerprint: str
    team: Team = field(default_factory=Alone)


class Predicted(NamedTuple):
    """An image file and its answer; None for one that cannot be read, and why."""

    path: str
    answer: Answer | None
    unreadable: str = ""


def answerer_of(place: Path, *, device: str = "auto", devices: int = 1, nodes: int = 1) -> Answerer:
    """What answers: the bundle or run in a folder.

    Raises:
        DataError: It is neither, or damaged.
        UsageError: Several processes are asked of a bundle, which takes all cores in one.
    """
    if not is_bundle_not_run(place):
        from misgiving.workflows.answering import answerer_of_run

        return answerer_of_run(place, device=device, devices=devices, nodes=nodes)
    if devices * nodes > 1:
        raise UsageError("--devices and --nodes are for a run; a bundle takes all cores already")
    bundle = Bundle.load(place)
    return Answerer(
        answer=bundle.answer_squares,
        preprocessing=bundle.preprocessing,
        decides=bundle.policy is not None,
        fingerprint=bundle.fingerprint + policy_mark(bundle.policy),
    )


def policy_mark(policy: object) -> str:
    """What tells one policy of a model from another; nothing where there is none."""
    return "" if policy is None else f"|{policy!r}"


def predict_images(
    place: Path | Answerer,
    places: Sequence[Path],
    *,
    device: str = "auto",
    batch_size: int = 64,
    on_image: Report = lambda *_: None,
    on_bad_image: str = FAIL,
    kept: Kept | None = None,
) -> list[Predicted]:
    """Answers for image files and all images in folders, in their order.

    Args:
        place: A run, a bundle, or what has been made of one.
        places: Files, and folders.
        device: Where a run computes.
        batch_size: Images that are answered at once.
        on_image: Told how many images are done, of how many.
        on_bad_image: `skip` gives an image that cannot be read a place in the list too.
        kept: Answers of an earlier attempt, which takes up those that are found now.

    Raises:
        BadImages: Images cannot be read, and they are not to be skipped, or none can.
    """
    rule = ON_BAD_IMAGE[on_bad_image]
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, got {batch_size}")
    dataset = unlabelled(places, name="images")
    answerer = place if isinstance(place, Answerer) else answerer_of(place, device=device)
    memory = Kept() if kept is None else kept
    team = answerer.team
    found = team.together(_known(dataset, memory))
    todo = team.share([index for index in range(len(dataset)) if index not in found])
    bad: dict[str, BadImage] = {}
    if found:
        on_image(len(found), len(dataset))
    for batch in _batches(dataset, todo, answerer.preprocessing, batch_size):
        bad |= {one.image: one for one in batch if isinstance(one, BadImage)}
        images = [one for one in batch if isinstance(one, _ReadImage)]
        answers = _answers(answerer, images)
        memory.add({image.key: one for image, one in zip(images, answers, strict=True)})
        found |= {image.row: one for image, one in zip(images, answers, strict=True)}
        on_image(len(found) + len(bad), len(dataset))
    found, bad = team.together(found), team.together(bad)
    rule(list(bad.values()), len(dataset))
    return [
        Predicted(name, found.get(index), bad[name].reason if name in bad else "")
        for index, name in enumerate(dataset.ids)
    ]


class _ReadImage(NamedTuple):
    """An image that is ready for the model, its row in the set, and what its answer is kept by."""

    row: int
    key: str
    pixels: UInt8[np.ndarray, "size size 3"]


def _known(dataset: Dataset, memory: Kept) -> dict[int, Answer]:
    """Answers that are kept for files as they are now, by place in the set."""
    if not memory.answers:
        return {}
    keys = ((index, _key(dataset, index)) for index in range(len(dataset)))
    return {index: memory.answers[key] for index, key in keys if key in memory.answers}


def _key(dataset: Dataset, index: int) -> str:
    """Place, size and time of change; nothing is known of a file that is gone."""
    try:
        return dataset.images.key(index)
    except DataError:
        return ""


def _batches(
    dataset: Dataset, todo: Sequence[int], preprocessing: Preprocessing, batch_size: int
) -> Iterator[list[_ReadImage | BadImage]]:
    """Threads make the next batch while this one is answered."""
    ahead = max(batch_size, LOOK_AHEAD)
    with closing(_read(dataset, todo, preprocessing, ahead=ahead)) as readings:
        while batch := list(islice(readings, batch_size)):
            yield batch


def _read(
    dataset: Dataset, todo: Sequence[int], preprocessing: Preprocessing, *, ahead: int
) -> Generator[_ReadImage | BadImage]:
    def work(position: int) -> _ReadImage:
        index = todo[position]
        key = dataset.images.key(index)  # before it is read: one that changes then is met again
        return _ReadImage(index, key, preprocessed(dataset.images, index, preprocessing).image)

    names = [dataset.ids[index] for index in todo]
    return in_order(collected(work, names), len(todo), ahead=ahead)


def _answers(answerer: Answerer, images: Sequence[_ReadImage]) -> list[Answer]:
    return answerer.answer(np.stack([image.pixels for image in images])) if images else []
