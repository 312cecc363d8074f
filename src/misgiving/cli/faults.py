"""What a person is told of a failure: one line, and no traceback where it can be explained."""

from collections.abc import Callable
from typing import Any, NamedTuple

from misgiving.errors import BadImage, BadImages, ExplainedError

EXTRAS = {
    "sklearn": "data",
    "torch": "train",
    "timm": "train",
    "lightning_fabric": "train",
    "matplotlib": "train",
    "skimage": "train",
    "onnx": "train",
    "onnxscript": "train",
    "onnxruntime": "serve",
    "pyarrow": "parquet",
    "ray": "ray",
    "fastapi": "serve",
    "httptools": "serve",
    "prometheus_client": "serve",
    "pydantic": "serve",
    "python_multipart": "serve",
    "sqlalchemy": "serve",
    "uvicorn": "serve",
}
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "alloc_failed", "unable to allocate")
SMALLER = (
    "choose a smaller --batch-size or --image-size where the command has them, --device cpu, or "
    "wait until others have left the machine"
)


class Fault(NamedTuple):
    """A failure as it is shown: a line, the exit code, and the images to list below."""

    message: str
    code: int = 1
    images: tuple[BadImage, ...] = ()


def fault_of(error: Exception) -> Fault | None:
    """How to tell a person of a failure; None for one that nobody foresaw."""
    return next((tell(error) for kind, tell in FAULTS.items() if isinstance(error, kind)), None)


def _explained(error: ExplainedError) -> Fault:
    images = error.images if isinstance(error, BadImages) else ()
    return Fault(str(error), error.exit_code, images if len(images) > 1 else ())


def _missing_extra(error: ModuleNotFoundError) -> Fault | None:
    extra = EXTRAS.get((error.name or "").split(".")[0])
    if extra is None:
        return None
    also = " (to train, too: 'misgiving[train]')" if extra == "data" else ""
    return Fault(f"{error.name} is not installed; run: pip install 'misgiving[{extra}]'{also}")


def _of_the_system(error: OSError) -> Fault:
    place = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or str(error)
    return Fault(f"{place}{reason}; check the place, its free space and its permissions")


def _memory(error: Exception) -> Fault | None:
    """Of a device, as torch says it in several ways, or of the computer."""
    text = str(error).lower()
    if isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY):
        where = "the GPU" if "cuda" in text or "mps" in text else "the machine"
        return Fault(f"{where} is out of memory; {SMALLER}")
    return None


FAULTS: dict[type[Exception], Callable[[Any], Fault | None]] = {
    ExplainedError: _explained,
    ModuleNotFoundError: _missing_extra,
    OSError: _of_the_system,
    MemoryError: _memory,
    RuntimeError: _memory,
}
"""By kind of failure; the first that fits tells."""
