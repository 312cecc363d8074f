"""The ONNX graph of a model: from model inputs to its outputs."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from misgiving.errors import UsageError, explain_damage

GRAPH = "model.onnx"
INPUT = "images"
OUTPUTS = ("logits", "predicted_losses", "features", "taps")
AXES = (2, 1, 2, 2)  # of each output
BATCH = 32  # images in one run of the graph, which bounds its memory
SILENT = 4  # of onnxruntime's levels: an error is raised as well

ModelInputs = UInt8[np.ndarray, "n size size 3"]


class Network:
    """A graph that runs on processors; any number of threads may call it at once.

    Args:
        path: An ONNX file with one input, images in [0, 1], and `logits` and others of `OUTPUTS`
            among its outputs.
        size: Side of the model inputs in pixels.
        num_classes: Number of logits.
        threads: Of one run; None for as many as there are cores.

    Raises:
        DataError: The file is missing, damaged, or of another kind.
    """

    def __init__(
        self, path: Path, *, size: int, num_classes: int, threads: int | None = None
    ) -> None:
        import onnxruntime  # late: a table of predictions needs none

        self.size = size
        onnxruntime.disable_telemetry_events()  # some builds report events to their vendor
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = SILENT
        # Threads that wait without spinning: a busy neighbour then costs little.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        needed = f"images N x 3 x {size} x {size} and `logits` N x {num_classes}"
        with explain_damage(path, remedy=f"export it again, with {needed} for any N"):
            self._session: Any = onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
            given = [output.name for output in self._session.get_outputs()]
            self.outputs = tuple(name for name in OUTPUTS if name in given)
            self._input = self._session.get_inputs()[0].name
            if "logits" not in given:
                raise ValueError(f"has no output `logits`, but {', '.join(given)}")
            for count in (1, 2):
                outputs = self(np.zeros((count, size, size, 3), dtype=np.uint8))
                if not np.isfinite(outputs[0]).all():
                    raise ValueError("gives logits of a blank image that are not finite")
                for name, output, axes in zip(OUTPUTS, outputs, AXES, strict=True):
                    columns = (num_classes,) if name == "logits" else output.shape[1:]
                    if output.shape != (count, *columns) or output.ndim != axes:
                        raise ValueError(f"gives {name} of shape {output.shape} for {count} images")

    def __call__(self, inputs: ModelInputs) -> tuple[Float[np.ndarray, "n ..."], ...]:
        """Logits, predicted losses, features and tap averages of preprocessed images.

        Of what the graph does not have, predicted losses are NaN, and the others have no columns.
        """
        if inputs.dtype != np.uint8 or inputs.shape[1:] != (self.size, self.size, 3):
            raise UsageError(
                f"model inputs are {inputs.dtype} of shape {inputs.shape}; give 8-bit RGB images "
                f"of {self.size} pixels, as n x {self.size} x {self.size} x 3"
            )
        shapes = dict.fromkeys(OUTPUTS, (BATCH, 0)) | {"predicted_losses": (BATCH,)}
        empty = {name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()}
        runs = []
        for start in range(0, max(1, len(inputs)), BATCH):
            batch = inputs[start : start + BATCH].transpose(0, 3, 1, 2)
            images = np.ascontiguousarray(batch).astype(np.float32) / 255
            outputs = self._session.run(self.outputs, {self._input: images})
            values = dict(zip(self.outputs, outputs, strict=True))
            runs.append([values.get(name, empty[name][: len(images)]) for name in OUTPUTS])
        return tuple(np.concatenate(parts) for parts in zip(*runs, strict=True))
