"""A bundle of an ONNX graph that was made elsewhere, from images to logits; needs no torch.

The graph takes RGB images in [0, 1], as float32 of N x 3 x size x size for any N; normalisation is
part of it. It gives `logits` and, if it has outputs of these names, `features` (the input of the
last linear layer) and `predicted_losses`.
"""

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from misgiving.bundle.bundle import FACTS, Bundle
from misgiving.bundle.write import write_bundle
from misgiving.data.decoding import read_bytes
from misgiving.data.preprocessing import Preprocessing
from misgiving.deferral.deferral import Deferral
from misgiving.deferral.policy import Policy
from misgiving.errors import DataError, UsageError, explain_damage
from misgiving.files import (
    check_replaceable,
    read_json,
    sha256_of_file,
    sha256_of_json,
    whole_folder,
)
from misgiving.predictions.network import GRAPH, Network
from misgiving.predictions.record import Predictions

MAX_COMPARED = 32  # images that are predicted again
MAX_DIFFERENCE = 1e-3  # of a repeated prediction, as a share of the largest value
UNCHECKED = (
    "It was not checked that this graph, with this preprocessing, made the predictions on which "
    "the policy was calibrated: this takes predictions with the path of each image, and none were "
    "given. The guarantee holds only if it did."
)


def read_preprocessing(path: Path) -> Preprocessing:
    """Read a JSON object with every field of `Preprocessing`, as `config.json` of a run has it.

    Raises:
        DataError: The file is missing or damaged, lacks a field or has a wrong value.
    """
    remedy = "write all that the `preprocessing` in the config.json of a run has"
    with explain_damage(path, remedy=remedy):
        values = read_json(path, remedy=remedy)
        every = {field.name: values[field.name] for field in fields(Preprocessing)}
        return TypeAdapter(Preprocessing).validate_python({**values, **every})


def export_graph(
    graph: Path,
    out: Path,
    *,
    preprocessing: Preprocessing,
    policy: Path,
    predictions: Path | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write a graph as a bundle, whole or not at all.

    Where the predictions name image files, up to 32 of these are predicted again and compared.

    Args:
        graph: An ONNX file; external data are in its folder.
        out: The bundle.
        preprocessing: From an image file to the square that the graph takes.
        policy: A policy folder that was calibrated on predictions of this graph.
        predictions: A file of predictions that this graph has made.
        overwrite: Replace a bundle; anything else is refused.

    Raises:
        DataError: The graph cannot be run, or gives something else than the predictions say.
        UsageError: The policy is not for logits, or needs an output that the graph does not have,
            or a second opinion.
    """
    check_replaceable(out, FACTS, overwrite=overwrite)
    deferral = Deferral.load(policy)
    if deferral.policy_.kind == "probabilities":
        raise UsageError(f"{policy}: was calibrated on probabilities; calibrate on logits")
    if deferral.calibration_.needs_opinions:
        raise UsageError(f"{policy}: needs second opinions, which a graph lacks; calibrate without")
    classes = deferral.classes_
    network = Network(graph, size=preprocessing.image_size, num_classes=len(classes))
    _check_outputs(deferral.policy_, network.outputs)
    compared = 0
    if predictions is not None:
        table = Predictions.read(predictions)
        deferral.check_predictions(table)
        compared = _compare(network, preprocessing, table)
    with whole_folder(out) as partial:
        _copy(graph, partial / GRAPH)
        facts = {"classes": classes, "preprocessing": asdict(preprocessing)}
        fingerprint = sha256_of_json({"graph": sha256_of_file(partial / GRAPH), **facts})
        deferral.policy_ = replace(deferral.policy_, model=fingerprint)
        return write_bundle(
            partial,
            preprocessing=preprocessing,
            estimates_losses="predicted_losses" in network.outputs,
            fingerprint=fingerprint,
            classes=classes,
            deferral=deferral,
            card={
                "what": f"A classifier of {len(classes)} classes, from the ONNX graph "
                f"{graph.name}.",
                "data": {"name": "unknown", "fingerprint": "unknown"},
                "class_counts": {},
                "architecture": {"backbone": graph.name},
                "training": {},
                "versions": {
                    f"{name} at export": version(name)
                    for name in ("misgiving", "onnx", "onnxruntime")
                },
                "compared": compared,
                "limits": [] if compared else [UNCHECKED],
            },
        )


def _compare(network: Network, preprocessing: Preprocessing, table: Predictions) -> int:
    """Predict images of a table again, and give their number; 0 without paths of images."""
    with_path = np.flatnonzero([bool(path) for path in table.paths or ()])
    if not len(with_path):
        return 0
    places = np.linspace(0, len(with_path) - 1, MAX_COMPARED).round().astype(int)
    expected = table.select(with_path[np.unique(places)])
    paths = expected.paths or ()
    squares = [preprocessing.from_file(read_bytes(Path(path)), path) for path in paths]
    outputs = network(np.stack(squares))
    for name in network.outputs:
        repeated, given = getattr(outputs, name), getattr(expected, name)
        if given is None:
            continue
        margin = MAX_DIFFERENCE * np.abs(given).max()
        if repeated.shape != given.shape or not np.allclose(repeated, given, rtol=0, atol=margin):
            raise DataError(
                f"{name} of the predictions are not those of the graph: they differ by more than "
                f"{MAX_DIFFERENCE:g} of the largest; check the preprocessing, and that this graph "
                "made them"
            )
    return len(paths)


def _check_outputs(policy: Policy, outputs: Sequence[str]) -> None:
    """Check that the graph gives all that decisions depend on."""
    features, taps = policy.used_detectors.widths
    losses = policy.needs_predicted_losses
    reads = {"features": features, "predicted_losses": losses, "taps": taps}
    if missing := [name for name in reads if reads[name] and name not in outputs]:
        raise UsageError(
            f"the policy needs the output {missing[0]!r}, and the graph gives "
            f"{', '.join(outputs)}; export it with an output of this name, or calibrate without"
        )


def _copy(graph: Path, path: Path) -> None:
    """Write a graph and its external data as one file."""
    import onnx

    with explain_damage(graph, remedy="export the model again, with at most 2 GB of weights"):
        onnx.save(onnx.load(graph), path)
