"""The ONNX graph of a model: from squares to its outputs."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from jaxtyping import Float, UInt8

from misgiving.errors import DataError, UsageError, reason_of

GRAPH = "model.onnx"
INPUT = "images"
OUTPUTS = ("logits", "predicted_losses", "features", "taps")
BATCH = 32  # images in one run of the graph, which bounds its memory
ONLY_ERRORS = 3  # of onnxruntime's levels

Squares = UInt8[np.ndarray, "n size size 3"]


class Network:
    """A graph that runs on processors; any number of threads may call it at once.

    Args:
        path: An ONNX file whose input is `images`, and whose outputs are among `OUTPUTS`.
        size: Side of the squares in pixels.
        num_classes: Number of logits; None if it is to be found out.
        threads: Of one run; None for as many as there are cores.

    Raises:
        DataError: The file is missing, damaged, or of another kind.
    """

    def __init__(
        self, path: Path, *, size: int, num_classes: int | None, threads: int | None = None
    ) -> None:
        self.size = size
        self._session = _session(path, threads)
        _refuse_other_graph(path, self._session, size, num_classes)
        self.outputs = tuple(one.name for one in self._session.get_outputs())
        count = self._session.get_inputs()[0].shape[0]
        self.batch: int | None = count if isinstance(count, int) else None

    def __call__(self, squares: Squares) -> tuple[Float[np.ndarray, "n ..."], ...]:
        """Logits, predicted losses, features and tap averages of preprocessed images.

        Of what the graph does not have, predicted losses are NaN, and the others have no columns.
        """
        if squares.dtype != np.uint8 or squares.shape[1:] != (self.size, self.size, 3):
            raise UsageError(
                f"squares are {squares.dtype} of shape {squares.shape}; give 8-bit RGB images of "
                f"{self.size} pixels, as n x {self.size} x {self.size} x 3"
            )
        batch = self.batch or BATCH
        starts = range(0, max(1, len(squares)), batch)
        runs = [self._run(squares[start : start + batch]) for start in starts]
        return tuple(np.concatenate(parts) for parts in zip(*runs, strict=True))

    def _run(self, squares: Squares) -> list[Float[np.ndarray, "n ..."]]:
        count = len(squares)
        if self.batch is not None and count < self.batch:
            filling = np.zeros((self.batch - count, *squares.shape[1:]), dtype=np.uint8)
            squares = np.concatenate([squares, filling])
        images = np.ascontiguousarray(squares.transpose(0, 3, 1, 2)).astype(np.float32) / 255
        values = self._session.run(self.outputs, {INPUT: images})
        found = {name: of[:count] for name, of in zip(self.outputs, values, strict=True)}
        unknown = {"predicted_losses": np.full(count, np.nan, dtype=np.float32)}
        nothing = np.zeros((count, 0), dtype=np.float32)
        return [found.get(name, unknown.get(name, nothing)) for name in OUTPUTS]


def _session(path: Path, threads: int | None) -> Any:
    if threads is not None and threads < 1:
        raise UsageError(f"`threads` must be at least 1, got {threads}")
    onnxruntime.disable_telemetry_events()  # some builds report events to their vendor
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = ONLY_ERRORS
    # Threads that wait without spinning: a busy neighbour then costs little.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime has a class of its own for each kind of failure
        raise DataError(
            f"{path}: not a readable graph ({reason_of(error)}); export again"
        ) from error


def _refuse_other_graph(path: Path, session: Any, size: int, num_classes: int | None) -> None:
    inputs = [(one.name, one.shape[1:]) for one in session.get_inputs()]
    outputs = [one.name for one in session.get_outputs()]
    widths = [(one.shape or [None])[-1] for one in session.get_outputs() if one.name == OUTPUTS[0]]
    fits = (
        inputs == [(INPUT, [3, size, size])] and set(outputs) <= set(OUTPUTS) and len(widths) == 1
    )
    if not fits or num_classes not in (None, widths[0]):
        raise DataError(
            f"{path}: is not the graph of this bundle ({num_classes} classes, {size} pixels); "
            "export again"
        )
