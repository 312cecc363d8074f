"""Checks of a graph that was made elsewhere: a dry run, and predictions that it must repeat."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from misgiving.bundle.graph_interface import GraphInterface
from misgiving.data.decoding import read_bytes
from misgiving.data.preprocessing import Preprocessing
from misgiving.errors import DataError, UsageError, reason_of
from misgiving.evaluation.network import OUTPUTS, Network, Squares
from misgiving.results.prediction_tables import PredictionTable

TRIED = 3  # images of noise in the dry run
STEADY = 1e-2  # how far outputs may vary from run to run, as a share of the largest
COMPARED = 32  # images that are predicted again
CLOSE = 1e-3  # how far predictions may be off: of the largest, or of 1 for probabilities
ADDS_UP = 1e-3  # how far probabilities in single precision may be from adding up to 1

Values = Float[np.ndarray, "..."]  # a row for each image, which is to be checked


def dry_run(
    graph: Path, network: Network, interface: GraphInterface, num_classes: int
) -> dict[str, int | None]:
    """Run a graph on images of noise, and give the width of each output by its name.

    The width is None for an output with one value for each image.

    Raises:
        DataError: It fails, or its outputs are no predictions for each image on its own.
        UsageError: They are not what the interface says.
    """
    random, size = np.random.default_rng(0), network.size
    squares = random.integers(0, 256, (TRIED, size, size, 3), dtype=np.uint8)
    found = _run(graph, network, squares)
    for name, values in found.items():
        if len(values) != TRIED:
            raise DataError(f"{graph}: gives {len(values)} {name} for {TRIED} images; export again")
        if not np.isfinite(values).all():
            raise DataError(
                f"{graph}: its {name} are NaN or infinite on images of noise; check the model, and "
                "`scale`, `mean` and `std`"
            )
    width = found["logits"].shape[1]
    if width != num_classes:
        raise DataError(
            f"{graph}: has {width} outputs, and there are {num_classes} classes; give the "
            "predictions of this graph, or name the output by `logits_output`"
        )
    _refuse_other_kind(graph, found["logits"], interface)
    _refuse_unsteady(graph, network, squares, found)
    return {name: values.shape[1] if values.ndim > 1 else None for name, values in found.items()}


def _refuse_unsteady(
    graph: Path, network: Network, squares: Squares, found: dict[str, Values]
) -> None:
    """Refuse outputs that depend on chance or on the other images of a batch, as in training."""
    again = _run(graph, network, squares)
    alone = [_run(graph, network, squares[row : row + 1]) for row in range(TRIED)]
    for name, values in found.items():
        if difference(again[name], values) > STEADY:
            raise DataError(
                f"{graph}: gives other {name} in a second run; export the model in evaluation mode"
            )
        if difference(np.concatenate([one[name] for one in alone]), values) > STEADY:
            raise DataError(
                f"{graph}: the {name} of an image depend on the other images of the batch; export "
                "the model in evaluation mode, for one image or for any number of them"
            )


def _run(graph: Path, network: Network, squares: Squares) -> dict[str, Values]:
    """The outputs that a graph has, by name."""
    try:
        values = dict(zip(OUTPUTS, network(squares), strict=True))
    except Exception as error:  # onnxruntime has a class of its own for each kind of failure
        raise DataError(
            f"{graph}: cannot be run on images of {network.size} pixels ({reason_of(error)}); "
            "check `image_size` and `layout`"
        ) from error
    return {name: values[name] for name in OUTPUTS if name in network.outputs}


def _refuse_other_kind(graph: Path, logits: Values, interface: GraphInterface) -> None:
    """Refuse probabilities that are said to be logits, and the reverse."""
    raw = np.exp(logits) if interface.outputs == "probabilities" else logits
    add_up = (raw >= 0).all() and (np.abs(raw.sum(axis=1) - 1) <= ADDS_UP).all()
    if interface.outputs == "logits" and add_up:
        raise UsageError(f'{graph}: gives probabilities; say so by `outputs="probabilities"`')
    if interface.outputs == "probabilities" and not add_up:
        raise UsageError(
            f'{graph}: its outputs do not add up to 1; choose `outputs="logits"` or '
            '`outputs="softmax"`'
        )


def difference(ours: Values, theirs: Values) -> float:
    """The largest difference as a share of the largest value of `theirs`."""
    largest = float(np.abs(theirs).max(initial=0.0))
    return float(np.abs(ours - theirs).max(initial=0.0)) / (largest or 1.0)


def compare(
    network: Network,
    preprocessing: Preprocessing,
    interface: GraphInterface,
    table: PredictionTable,
) -> int:
    """Predict up to 32 images of a table again, and give their number.

    Args:
        network: The graph.
        preprocessing: Of its images.
        interface: What its outputs mean.
        table: Predictions with paths of images; without paths, none is compared.

    Raises:
        DataError: An image cannot be read, or a prediction is not that of the graph.
    """
    images = table.images or ()
    named = np.flatnonzero([bool(name) for name in images])
    if not len(named):
        return 0
    rows = named[np.unique(np.linspace(0, len(named) - 1, COMPARED).round().astype(int))]
    predictions = table.predictions.select(rows)
    paths = [Path(images[row]) for row in rows]
    squares = [preprocessing.from_file(read_bytes(path), str(path)) for path in paths]
    logits, losses, features, _ = network(np.stack(squares))
    pairs = {"logits": (logits, predictions.logits)}
    if interface.outputs != "logits":
        pairs = {"probabilities": (np.exp(logits), np.exp(predictions.logits))}
    if "features" in network.outputs and predictions.features.shape[1]:
        pairs["features"] = (features, predictions.features)
    if "predicted_losses" in network.outputs and predictions.predicted_losses is not None:
        pairs["predicted losses"] = (losses, predictions.predicted_losses)
    for name, (ours, theirs) in pairs.items():
        _refuse_difference(name, ours, theirs, [str(path) for path in paths])
    return len(rows)


def _refuse_difference(name: str, ours: Values, theirs: Values, paths: list[str]) -> None:
    if ours.shape != theirs.shape:
        raise DataError(
            f"the predictions have {theirs.shape[1]} {name} for an image, and the graph "
            f"{ours.shape[1]}; give the predictions of this graph"
        )
    largest = 1.0 if name == "probabilities" else float(np.abs(theirs).max()) or 1.0
    off = np.abs(ours - theirs).reshape(len(ours), -1).max(axis=1) / largest
    if off.max() > CLOSE:
        raise DataError(
            f"{name} of the predictions are not those of the graph: for {np.sum(off > CLOSE)} of "
            f"{len(off)} images they differ by more than {CLOSE:g} of the largest, most for "
            f"{paths[int(off.argmax())]} ({off.max():.2g}); check how images are preprocessed "
            "(`crop_shape`, `interpolation`, `scale`, `mean`, `std`), what `outputs` are, and "
            "that this graph made the predictions"
        )
