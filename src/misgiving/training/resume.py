"""Training that was stopped goes on: its state after each epoch, in one file beside the run.

The file appears whole or not at all. It holds all that later steps depend on, so that a training
that goes on ends, on a processor, in the same weights as one that was never stopped.
"""

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from misgiving import distributed
from misgiving.errors import DataError
from misgiving.files import whole_file

FORMAT = 1
SUFFIX = ".unfinished.safetensors"


class State(NamedTuple):
    """Tensors by name, and what JSON can say."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def resume_path(folder: Path) -> Path:
    """The file for the training whose folder is not there yet."""
    return folder.with_name(folder.name + SUFFIX)


@dataclass(frozen=True, kw_only=True)
class ResumeFile:
    """Where an unfinished training is kept.

    Attributes:
        path: Its file.
        identity: Settings, data and versions, as JSON would hold them: only a training of the same
            ones goes on.
        overwrite: Begin anew where the file is another training's or damaged, instead of refusing.
        on_resume: Called with the epoch and the step after which training goes on.
    """

    path: Path
    identity: Mapping[str, Any]
    overwrite: bool = False
    on_resume: Callable[[int, int], None] = lambda *_: None

    def read(self) -> State | None:
        """The state to go on from; None where there is none.

        Raises:
            DataError: The file is another training's or damaged, and is not to be replaced.
        """
        if not self.path.exists():
            return None
        try:
            state = _read(self.path)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            return self._other(f"damaged ({' '.join(str(error).split())[:200]})")
        if different := _different(state.facts.get("identity"), self.identity):
            return self._other(f"an unfinished training that differs in {different}")
        return state

    def _other(self, what: str) -> State | None:
        if self.overwrite:
            return None
        raise DataError(f"{self.path}: {what}; remove it, or say --overwrite, to begin anew")

    def write(self, state: State) -> None:
        """Keep a state in place of the last one; only the first process writes."""
        if not distributed.is_first():
            return
        facts = {"format": FORMAT, "identity": self.identity, **state.facts}
        tensors = {name: tensor.contiguous().cpu() for name, tensor in state.tensors.items()}
        with whole_file(self.path) as partial:
            save_file(tensors, partial, {"facts": json.dumps(facts)})


def _read(path: Path) -> State:
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
        if facts["format"] != FORMAT:
            raise ValueError(f"of format {facts['format']}, not {FORMAT}")
        return State({name: file.get_tensor(name) for name in file.keys()}, facts)  # noqa: SIM118  # not a dict


def _different(found: Any, wanted: Mapping[str, Any]) -> str:
    """Names of what differs."""
    known = found if isinstance(found, dict) else {}
    names = sorted(known.keys() | wanted.keys())
    return ", ".join(name for name in names if known.get(name) != wanted.get(name))


@contextmanager
def stop_on_sigterm() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM has come, as clusters send it before they take a machine away.

    The first one only asks, so that a step can end and be kept; a second one does what it did
    before. Threads cannot hear signals: there the answer is always no.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = threading.Event()

    def hear(number: int, _: FrameType | None) -> None:
        asked.set()
        signal.signal(number, before)

    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
