"""The ONNX graph of a model: from model inputs to its outputs."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from misgiving.errors import UsageError, explain_damage
from misgiving.scores.outputs import Outputs

GRAPH = "model.onnx"
INPUT = "images"
OUTPUTS = {"logits": 2, "predicted_losses": 1, "features": 2, "taps": 2}
"""Number of axes of each output of a graph, by its name."""
GRAPH_BATCH = 32  # views in one run of the graph, which bounds its memory
ENDING_SECONDS = 5.0  # that a graph has to end after a signal
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
            views = self._session.get_modelmeta().custom_metadata_map.get("views", 1)
            self._batch = max(1, GRAPH_BATCH // int(views))
            if "logits" not in given:
                raise ValueError(f"has no output `logits`, but {', '.join(given)}")
            for count in (1, 2):
                outputs = self._run(np.zeros((count, size, size, 3), dtype=np.uint8))
                if not np.isfinite(outputs["logits"]).all():
                    raise ValueError("gives logits of a blank image that are not finite")
                for name, output in outputs.items():
                    columns = (num_classes,) if name == "logits" else output.shape[1:]
                    if output.shape != (count, *columns) or output.ndim != OUTPUTS[name]:
                        raise ValueError(f"gives {name} of shape {output.shape} for {count} images")

    def __call__(self, inputs: ModelInputs) -> Outputs:
        """Outputs for preprocessed images; None for one that the graph does not have."""
        if inputs.dtype != np.uint8 or inputs.shape[1:] != (self.size, self.size, 3):
            raise UsageError(
                f"model inputs are {inputs.dtype} of shape {inputs.shape}; give 8-bit RGB images "
                f"of {self.size} pixels, as n x {self.size} x {self.size} x 3"
            )
        outputs = self._run(inputs)
        return Outputs(**{name: x for name, x in outputs.items() if 0 not in x.shape[1:]})

    def _run(self, inputs: ModelInputs) -> dict[str, Any]:
        runs = []
        for start in range(0, max(1, len(inputs)), self._batch):
            batch = inputs[start : start + self._batch].transpose(0, 3, 1, 2)
            images = np.ascontiguousarray(batch).astype(np.float32)
            images /= 255  # in place: to allocate a second array takes longer than all of this
            runs.append(self._run_batch(images))
        together = map(np.concatenate, zip(*runs, strict=True))
        return dict(zip(self.outputs, together, strict=True))

    def _run_batch(self, images: np.ndarray) -> Any:
        """Run the graph in a thread that a signal can end: the main thread would not hear it."""
        from onnxruntime import RunOptions

        options, result = RunOptions(), Future[Any]()
        run = partial(self._session.run, self.outputs, {self._input: images}, options)
        if threading.current_thread() is not threading.main_thread():
            return run()
        thread = threading.Thread(target=_settle, args=(result, run), daemon=True)
        try:
            thread.start()
            return result.result()
        except KeyboardInterrupt:
            options.terminate = True
            if thread.is_alive():  # else it never started
                thread.join(ENDING_SECONDS)
            raise


def _settle(result: "Future[Any]", run: Callable[[], Any]) -> None:
    try:
        result.set_result(run())
    except BaseException as error:  # the caller raises it
        result.set_exception(error)
