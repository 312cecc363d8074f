"""Images of cases: recent ones in memory, files on disk, and the regions a class depends on."""

import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from jaxtyping import Float, UInt8

from misgiving.errors import UsageError
from misgiving.files import force_to_disk, whole_file
from misgiving.serve.problems import ImageNotStoredError

ModelInput = UInt8[np.ndarray, "size size 3"]
ModelInputs = UInt8[np.ndarray, "n size size 3"]

CELLS = 8  # of a saliency map along each side: 64 predictions for an image
GREY = 128


class RecentImages:
    """The newest model inputs up to a number of bytes; for the event loop's thread."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._inputs: OrderedDict[str, ModelInput] = OrderedDict()

    def put(self, id: str, model_input: ModelInput) -> None:
        """Add a model input, all of which have one size, and drop the oldest beyond the limit."""
        self._inputs[id] = model_input
        self._inputs.move_to_end(id)  # the same file, sent again
        while len(self._inputs) * model_input.nbytes > self._max_bytes:
            self._inputs.popitem(last=False)

    def get(self, id: str) -> ModelInput | None:
        """The model input of a case, unless it was dropped."""
        return self._inputs.get(id)


class ImageFiles:
    """Image files named by the hash of their content, never by the name that the sender gave."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, sha256: str, data: bytes) -> None:
        """Store a file durably; equal files are stored once.

        Raises:
            ImageNotStoredError: There is no room for it, or no permission.
        """
        path = self._path(sha256)
        with image_failures():
            for folder in (self._folder, path.parent):
                if not folder.is_dir():
                    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                    force_to_disk(folder.parent)
            if not path.exists():
                with whole_file(path, mode=0o600) as partial:
                    partial.write_bytes(data)
                    force_to_disk(partial)
            force_to_disk(path.parent)

    def check(self, size: int) -> None:
        """Raise OSError where there is no room for a file of this size."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with TemporaryFile(dir=self._folder) as file:
            if sys.platform == "linux":
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.write(bytes(size))
                file.flush()

    def read(self, sha256: str) -> bytes | None:
        """The content of a file, or None if there is none."""
        try:
            return self._path(sha256).read_bytes()
        except FileNotFoundError:
            return None

    def _path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256


@contextmanager
def image_failures() -> Iterator[None]:
    """Raise ImageNotStoredError from failures of the disk."""
    try:
        yield
    except (OSError, UsageError) as failure:
        raise ImageNotStoredError from failure


def occlusion(
    model_input: ModelInput,
    whole: float,
    probabilities_of: Callable[[ModelInputs], Sequence[float]],
    *,
    cells: int = CELLS,
    batch_size: int = 16,
) -> Float[np.ndarray, "cells cells"]:
    """Drop in the probability of a class where a grey patch covers each cell.

    The patch is twice as wide as a cell, so that patches overlap and borders are covered (Zeiler
    and Fergus, 2014). Negative where the class becomes more probable.

    Args:
        model_input: An image as the model sees it.
        whole: The probability of the class for it.
        probabilities_of: The probability of the class for each of some model inputs.
        cells: Number of cells along each side.
        batch_size: Maximum number of model inputs at once.
    """
    edges = (np.arange(cells)[:, None] + [-0.5, 1.5]) * len(model_input) / cells
    spans = [slice(max(0, round(start)), round(end)) for start, end in edges.tolist()]
    inputs = np.repeat(model_input[None], cells**2, axis=0)
    for covered, (rows, columns) in zip(inputs, product(spans, spans), strict=True):
        covered[rows, columns] = GREY
    batches = [inputs[start : start + batch_size] for start in range(0, cells**2, batch_size)]
    probabilities = np.concatenate([probabilities_of(batch) for batch in batches])
    return whole - probabilities.reshape(cells, cells)
