"""The ONNX graph of a trained model, which scores images on a processor faster than torch does.

onnxruntime joins convolutions with what follows them, and does not ask for memory at each step.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from misgiving.checkpoint import Checkpoint, versions
from misgiving.errors import DataError
from misgiving.files import whole_file
from misgiving.manifests import sha256_of_json
from misgiving.models import processes
from misgiving.models.joint import full_outputs_of
from misgiving.models.onnx_export import write_graph
from misgiving.predictions.inference import device_of, fingerprint_of
from misgiving.predictions.network import INPUT, OUTPUTS, Network

CLOSE = 1e-4  # how far an output may be off, as a share of the largest
TRIED = 5  # images on which graph and model are compared
PAYS = 16_000_000  # pixels; for fewer, writing a graph takes longer than it saves
KEPT = 4  # graphs in a cache; those that were not used for longest are removed
MADE_BY = ("misgiving", "torch", "onnx", "onnxscript")


def cached_network(checkpoint: Checkpoint, count: int, cache: Path) -> Network | None:
    """The graph of a run that is to score so many images; None where the model itself is to.

    That is on other devices than processors, with several processes, for few images, and where the
    backbone cannot be exported. It depends on the images and not on what the cache has, so that the
    same command gives the same numbers again.

    Args:
        checkpoint: The run.
        count: Number of images in all.
        cache: Folder for prepared images, in which graphs have a folder.
    """
    size = checkpoint.architecture.image_size
    on_processor = device_of(checkpoint.model).type == "cpu" and processes.count() == 1
    if not on_processor or count * size**2 < PAYS:
        return None
    facts = {"model": fingerprint_of(checkpoint), **versions(MADE_BY)}
    path = cache / "graphs" / f"{sha256_of_json(facts)}.onnx"
    try:
        return _kept(checkpoint, path) or _written(checkpoint, path)
    except DataError:  # the model gives the same answers in more time
        return None


def _kept(checkpoint: Checkpoint, path: Path) -> Network | None:
    """The graph of an earlier command, unless it is damaged."""
    if not path.exists():
        return None
    try:
        network = _opened(checkpoint, path)
        _refuse_other_outputs(checkpoint, network)
        path.touch()
    except (DataError, OSError):
        return None
    return network


def _written(checkpoint: Checkpoint, path: Path) -> Network:
    with whole_file(path) as partial:
        network = write_compared_graph(checkpoint, partial)
    by_use = sorted(path.parent.glob("*.onnx"), key=lambda one: one.stat().st_mtime)
    for old in by_use[:-KEPT]:
        old.unlink(missing_ok=True)
    return network


def _opened(checkpoint: Checkpoint, path: Path) -> Network:
    return Network(
        path,
        size=checkpoint.architecture.image_size,
        num_classes=len(checkpoint.classes),
        threads=torch.get_num_threads(),
    )


def write_compared_graph(checkpoint: Checkpoint, path: Path) -> Network:
    """Write the graph of a run, compare its outputs with those of the model, and give it.

    Raises:
        DataError: The graph cannot be exported, or its outputs differ from the model's.
    """
    size = checkpoint.architecture.image_size
    write_graph(checkpoint.model, path, size=size, inputs=INPUT, outputs=OUTPUTS)
    network = _opened(checkpoint, path)
    _refuse_other_outputs(checkpoint, network)
    return network


def _refuse_other_outputs(checkpoint: Checkpoint, network: Network) -> None:
    """Compare graph and model on images of noise and of one colour."""
    random, size = np.random.default_rng(0), checkpoint.architecture.image_size
    squares = random.integers(0, 256, (TRIED, size, size, 3), dtype=np.uint8)
    squares[0], squares[1] = 0, random.integers(0, 256, 3)
    images = torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 255
    expected = full_outputs_of(checkpoint.model, [images])
    for name, ours, theirs in zip(OUTPUTS, network(squares), expected, strict=True):
        off = _relative_difference(ours, theirs.numpy())
        if not off <= CLOSE:
            raise DataError(
                f"the exported graph differs from the model in its {name} (by {off:.1g} of the "
                f"largest, and {CLOSE:g} is allowed); this backbone cannot be exported"
            )


def _relative_difference(ours: Float[np.ndarray, "*n"], theirs: Float[np.ndarray, "*n"]) -> float:
    """The largest difference as a share of the largest value; NaN agrees with NaN alone."""
    if ours.shape != theirs.shape or (np.isnan(ours) != np.isnan(theirs)).any():
        return float("inf")
    known = ~np.isnan(theirs)
    if not known.any():
        return 0.0
    largest = float(np.abs(theirs[known]).max())
    difference = float(np.abs(ours[known] - theirs[known]).max())
    return difference / largest if largest else difference
