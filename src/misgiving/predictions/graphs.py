"""The ONNX graph of a trained model, which scores images on a processor faster than torch does.

onnxruntime joins convolutions with what follows them, and does not ask for memory at each step.
"""

from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from misgiving.checkpoint import Checkpoint, versions
from misgiving.errors import DataError
from misgiving.files import whole_file
from misgiving.manifests import sha256_of_json
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

    That is on other devices than processors, for few images, and where the backbone cannot be
    exported. It depends on the images and not on what the cache has, so that the same command gives
    the same numbers again.

    Args:
        checkpoint: The run.
        count: Number of images in all.
        cache: Folder for prepared images, in which graphs have a folder.
    """
    pixels = count * checkpoint.architecture.image_size**2
    if device_of(checkpoint.model).type != "cpu" or pixels < PAYS:
        return None
    facts = {"model": fingerprint_of(checkpoint), **versions(MADE_BY)}
    path = cache / "graphs" / f"{sha256_of_json(facts)}.onnx"
    with suppress(DataError, OSError):  # there is none, or it is damaged
        network = _compared(checkpoint, path)
        path.touch()
        return network
    try:
        with whole_file(path) as partial:
            network = write_compared_graph(checkpoint, partial)
    except DataError:  # the model gives the same answers in more time
        return None
    by_use = sorted(path.parent.glob("*.onnx"), key=lambda graph: graph.stat().st_mtime)
    for old in by_use[:-KEPT]:
        old.unlink(missing_ok=True)
    return network


def write_compared_graph(checkpoint: Checkpoint, path: Path) -> Network:
    """Write the graph of a run, compare its outputs with those of the model, and give it.

    Raises:
        DataError: The graph cannot be exported, or its outputs differ from the model's.
    """
    size = checkpoint.architecture.image_size
    write_graph(checkpoint.model, path, size=size, inputs=INPUT, outputs=OUTPUTS)
    return _compared(checkpoint, path)


def _compared(checkpoint: Checkpoint, path: Path) -> Network:
    """The graph in a file, compared with the model on images of noise and of one colour."""
    size = checkpoint.architecture.image_size
    network = Network(
        path, size=size, num_classes=len(checkpoint.classes), threads=torch.get_num_threads()
    )
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (TRIED, size, size, 3), dtype=np.uint8)
    images[0], images[1] = 0, random.integers(0, 256, 3)
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    outputs = full_outputs_of(checkpoint.model, [inputs])
    for name, values, expected in zip(OUTPUTS, network(images), outputs, strict=True):
        largest = float(expected.nan_to_num().abs().max()) if expected.numel() else 0.0
        if values.shape != expected.shape or not np.allclose(
            values, expected, rtol=0, atol=CLOSE * largest, equal_nan=True
        ):
            raise DataError(
                f"the exported graph differs from the model in its {name} by more than {CLOSE:g} "
                "of the largest; this backbone cannot be exported"
            )
    return network
