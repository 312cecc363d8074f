"""Write a bundle: what every bundle has, and that of an ONNX graph made elsewhere; needs no torch.

Such a graph takes RGB images in [0, 1], as float32 of N x 3 x size x size for any N; normalisation
is part of it. It gives `logits` and, if it has outputs of these names, `features` (the input of the
last linear layer) and `predicted_losses`.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from misgiving.bundle.bundle import CARD, FACTS, FORMAT, Bundle
from misgiving.data.decoding import read_bytes
from misgiving.data.preprocessing import OF_DICOM, Preprocessing
from misgiving.deferral.deferral import Deferral
from misgiving.deferral.sentences import certificate_sentences
from misgiving.errors import DataError, UsageError, explain_damage
from misgiving.files import (
    README,
    check_replaceable,
    read_json,
    seal,
    sha256_of_file,
    sha256_of_json,
    whole_folder,
    write_json,
    write_text,
)
from misgiving.predictions.network import GRAPH, Network
from misgiving.predictions.record import Predictions
from misgiving.report.rendering import environment, lines

MAX_COMPARED = 32  # images that are predicted again
MAX_DIFFERENCE = 1e-3  # of a repeated prediction, as a share of the largest value


def write_bundle(
    folder: Path, facts: Mapping[str, Any], card: Mapping[str, Any], deferral: Deferral | None
) -> Bundle:
    """Write everything else of a bundle beside the graphs in `folder`, seal it, and read it.

    Args:
        folder: It has the graphs.
        facts: Fields of `Bundle`, and by graph the name, fingerprint and preprocessing of each
            model of a second opinion.
        card: On the model, its data and its making.
        deferral: It has the policy.
    """
    write_json(folder / FACTS, {"format": FORMAT, **facts})
    uncertified = lines("model_card.txt", "uncertified")
    if deferral is not None:
        deferral.write(folder, deferral.policy_.used_detectors)
    card = {**card, **facts}
    names = [opinion["name"] for opinion in facts["opinions"].values()]
    card["what"] = " ".join(lines("model_card.txt", "what", card, names, deferral is not None))
    card["targets"] = uncertified if deferral is None else certificate_sentences(deferral)
    card["limits"] = lines("model_card.txt", "limits", card)
    del card["estimates_losses"]
    write_json(folder / CARD, card)
    seal(folder)
    readme = environment(html=False).get_template("model_card.md").render(card)
    write_text(folder / README, readme)
    return Bundle.load(folder)


def read_preprocessing(path: Path) -> Preprocessing:
    """Read a JSON object with every field of `Preprocessing`, as `config.json` of a run has it.

    Those of files with several frames and tags may be missing.

    Raises:
        DataError: The file is missing or damaged, lacks a field or has a wrong value.
    """
    remedy = "write all that the `preprocessing` in the config.json of a run has"
    with explain_damage(path, remedy=remedy):
        values = read_json(path, remedy=remedy)
        needed = [field.name for field in fields(Preprocessing) if field.name not in OF_DICOM]
        every = {name: values[name] for name in needed}
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
    size, classes = preprocessing.image_size, deferral.classes_
    network = Network(graph, size=size, num_classes=len(classes))
    try:
        deferral.policy_.check_outputs(network(np.zeros((1, size, size, 3), dtype=np.uint8)))
    except DataError as failure:
        raise UsageError(
            f"{policy}: calibrate on the outputs of the graph ({', '.join(network.outputs)}), or "
            f"export it with others: {failure}"
        ) from failure
    compared = 0
    if predictions is not None:
        table = Predictions.read(predictions)
        deferral.check_predictions(table)
        compared = _compare(network, preprocessing, table)
    with whole_folder(out) as partial:
        with explain_damage(graph, remedy="export the model again, with at most 2 GB of weights"):
            import onnx

            onnx.save(onnx.load(graph), partial / GRAPH)  # with its external data
        facts: dict[str, Any] = {"classes": classes, "preprocessing": asdict(preprocessing)}
        fingerprint = sha256_of_json({"graph": sha256_of_file(partial / GRAPH), **facts})
        deferral.policy_ = replace(deferral.policy_, model=fingerprint)
        facts |= {"fingerprint": fingerprint, "opinions": {}}
        facts["estimates_losses"] = "predicted_losses" in network.outputs
        made_with = ("misgiving", "onnx", "onnxruntime")
        card = {
            "data": {"name": "unknown", "fingerprint": "unknown"},
            "class_counts": {},
            "architecture": {"backbone": graph.name},
            "training": {},
            "versions": {f"{name} at export": version(name) for name in made_with},
            "compared": compared,
        }
        return write_bundle(partial, facts, card, deferral)


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
