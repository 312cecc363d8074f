"""Resumable training: its state is stored after every epoch in one file beside the run.

The file appears whole or not at all. It holds all that later steps depend on, so that a training
that was interrupted ends, on a CPU, in the same weights as one that was not.
"""

import json
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from misgiving.checkpoint import EpochRecord
from misgiving.errors import DataError, Parameter, explain_damage
from misgiving.files import whole_file
from misgiving.models.joint import JointClassifier
from misgiving.training import processes

SUFFIX = ".unfinished.safetensors"
START_OVER = ("remove it or use ", Parameter("overwrite", True), " to start over")


@dataclass(kw_only=True)
class TrainingState:
    """All that the later steps of a training depend on.

    Attributes:
        model: The model that is trained.
        optimizer: Its optimizer.
        epoch: The current epoch, from 1.
        step: Finished steps of the current epoch.
        loss_sums: Sums of the primary and the auxiliary loss over these steps.
        history: Records of the finished epochs, two for each, the monitored set's last.
        best_weights: Those of the epoch with the highest balanced accuracy on the monitored set so
            far, where they are to be kept.
        augmentation: Random numbers of the current epoch's augmentation.
    """

    model: JointClassifier
    optimizer: Optimizer
    epoch: int = 1
    step: int = 0
    loss_sums: Float[np.ndarray, " 2"] = field(default_factory=lambda: np.zeros(2))
    history: list[EpochRecord] = field(default_factory=list)
    best_weights: Mapping[str, Tensor] = field(default_factory=dict)
    augmentation: torch.Generator = field(default_factory=torch.Generator)


def resume_path(folder: Path) -> Path:
    """The file for a training whose run folder does not exist yet."""
    return folder.with_name(folder.name + SUFFIX)


@dataclass(frozen=True, kw_only=True)
class ResumeFile:
    """The file of an unfinished training.

    Attributes:
        path: Where it is; None for a training that cannot resume.
        identity: Settings, data and versions, as JSON; a training resumes only where they are the
            same.
        overwrite: Start over where the file is damaged or another training's, instead of refusing.
        on_resume: Called with the epoch and the step after which training resumes.
    """

    path: Path | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    overwrite: bool = False
    on_resume: Callable[[int, int], None] = lambda *_: None

    def restore(self, state: TrainingState) -> None:
        """Bring a new training to where the file's was interrupted, if there is a file.

        Raises:
            DataError: The file is damaged or another training's, and `overwrite` is not set.
        """
        if self.path is None or not self.path.exists():
            return
        try:
            with explain_damage(self.path, remedy=START_OVER):
                tensors, facts = self._read(self.path)
        except DataError:
            if self.overwrite:
                return
            raise
        state.model.load_state_dict(tensors["model"])
        _restore_optimizer(state.optimizer, tensors["optimizer"])
        state.epoch, state.step = facts["epoch"], facts["step"]
        state.loss_sums = np.array(facts["loss_sums"])
        state.history = [EpochRecord(*record) for record in facts["history"]]
        state.best_weights = tensors["best"]
        random = {name: states[processes.rank()] for name, states in tensors["random"].items()}
        torch.set_rng_state(random["cpu"])
        state.augmentation.set_state(random["augmentation"])
        if "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"])
        self.on_resume(state.epoch, state.step)

    def _read(self, path: Path) -> tuple[Mapping[str, Mapping[str, Tensor]], dict[str, Any]]:
        """Tensors by group and name, and what is no tensor."""
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["facts"])
            saved = facts["identity"]
            names = sorted(saved.keys() | self.identity.keys())
            if other := [name for name in names if saved.get(name) != self.identity.get(name)]:
                raise DataError(
                    f"{path}: belongs to a training with different settings ({', '.join(other)}); ",
                    *START_OVER,
                )
            tensors: dict[str, dict[str, Tensor]] = defaultdict(dict)
            for key in file.keys():  # noqa: SIM118  # not a dict
                group, _, name = key.partition(".")
                tensors[group][name] = file.get_tensor(key)
        return tensors, facts

    def save(self, state: TrainingState) -> None:
        """Replace the file by the current state.

        All processes take part, since each has its own random numbers; the first one writes.
        """
        if self.path is None:
            return
        random = {"cpu": torch.get_rng_state(), "augmentation": state.augmentation.get_state()}
        if next(state.model.parameters()).is_cuda:
            random["cuda"] = torch.cuda.get_rng_state()
        random = {name: processes.stacked(value) for name, value in random.items()}
        if processes.rank() > 0:
            return
        optimizer = state.optimizer.state_dict()["state"]
        groups: dict[str, Mapping[str, Tensor]] = {
            "model": state.model.state_dict(),
            "best": state.best_weights,
            "random": random,
            **{f"optimizer.{number}": values for number, values in optimizer.items()},
        }
        facts = {
            "identity": self.identity,
            "epoch": state.epoch,
            "step": state.step,
            "loss_sums": state.loss_sums.tolist(),
            "history": list(map(astuple, state.history)),
        }
        tensors = {
            f"{group}.{name}": value.contiguous().cpu()
            for group, values in groups.items()
            for name, value in values.items()
        }
        with whole_file(self.path) as partial:
            save_file(tensors, partial, {"facts": json.dumps(facts)})


def _restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, value in tensors.items():
        number, _, quantity = name.partition(".")
        parameter = parameters[int(number)]
        # In the memory layout of its parameter: another layout may round differently.
        like = value if quantity == "step" else parameter
        restored = torch.empty_like(like, device=parameter.device).copy_(value)
        optimizer.state[parameter][quantity] = restored


NO_FILE = ResumeFile()


@contextmanager
def stop_on_sigterm() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns true once SIGTERM has arrived.

    Clusters send it before they take a machine away. The first one only asks, so that the running
    step can end and be kept; a second one acts as before. Only the main thread receives signals:
    in another it always returns false.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = threading.Event()

    def handle(number: int, _: FrameType | None) -> None:
        asked.set()
        signal.signal(number, before)

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
