"""A training as it goes on: where it is, and all that its later steps depend on."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from misgiving import distributed
from misgiving.errors import StoppedError
from misgiving.models.joint import JointClassifier
from misgiving.results.schema import EpochRecord
from misgiving.training.config import TrainingConfig
from misgiving.training.resume import ResumeFile, State

MODEL, OPTIMIZER, BEST, RANDOM = "model", "optimizer", "best", "random"


class Session:
    """Where a training is. It begins where an unfinished one stopped.

    Attributes:
        epoch: The running one, from 1.
        step: How many of its steps are done.
        history: Of the epochs that are done.
        augmentation: Source of the running epoch's augmentation.
    """

    def __init__(
        self,
        model: JointClassifier,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        config: TrainingConfig,
        resume: ResumeFile | None = None,
    ) -> None:
        self._model, self._optimizer, self._scheduler = model, optimizer, scheduler
        self._config, self._resume = config, resume
        self._best = _Best()
        self.history: list[EpochRecord] = []
        self._begin(epoch=1)
        if resume is not None and (state := resume.read()) is not None:
            self._restore(state)
            resume.on_resume(self.epoch, self.step)

    def end_step(self, losses: Float[np.ndarray, " 2"]) -> list[float]:
        """Count a step whose primary and auxiliary losses these were, and give the means so far."""
        self.step += 1
        self._sums += losses
        return list((self._sums / self.step).tolist())

    def end_epoch(self, records: list[EpochRecord]) -> None:
        """Count an epoch, and keep the state."""
        self.history += records
        if self._config.keep == "best":
            self._best.see(records[-1].balanced_accuracy, self._model)
        self._begin(self.epoch + 1)
        self._keep()

    def stop_if(self, asked: bool) -> None:
        """Keep the state and end, if that is asked for."""
        if not asked:
            return
        self._keep()
        place = f"in epoch {self.epoch}, after step {self.step}"
        kept = "nothing is kept" if self._resume is None else "the same command goes on there"
        raise StoppedError(f"stopped {place}; {kept}")

    def restore_best(self) -> None:
        """Give the model the weights of its best epoch, where these were asked for."""
        self._best.restore(self._model)

    def _begin(self, epoch: int) -> None:
        self.epoch, self.step, self._sums = epoch, 0, np.zeros(2)
        self.augmentation = torch.Generator()
        self.augmentation.manual_seed(stream(self._config.seed, epoch, 1))

    def _keep(self) -> None:
        if self._resume is not None:
            self._resume.write(self._state())

    def _state(self) -> State:
        """Every process takes part: each has random numbers of its own."""
        tensors = {
            **_named(MODEL, self._model.state_dict()),
            **{
                f"{OPTIMIZER}.{number}.{name}": value
                for number, values in self._optimizer.state_dict()["state"].items()
                for name, value in values.items()
            },
            **_named(BEST, self._best.state or {}),
            **_named(RANDOM, {name: distributed.stacked(s) for name, s in self._random().items()}),
        }
        facts = {
            "epoch": self.epoch,
            "step": self.step,
            "sums": self._sums.tolist(),
            "history": self.history,
            "best": self._best.value,
            "scheduler": self._scheduler.state_dict(),
        }
        return State(tensors, facts)

    def _restore(self, state: State) -> None:
        facts = state.facts
        self._begin(facts["epoch"])
        self.step, self._sums = facts["step"], np.array(facts["sums"])
        self.history = [EpochRecord(*record) for record in facts["history"]]
        self._best.value, self._best.state = facts["best"], _below(BEST, state.tensors) or None
        self._model.load_state_dict(_below(MODEL, state.tensors))
        self._scheduler.load_state_dict(facts["scheduler"])
        self._restore_optimizer(_below(OPTIMIZER, state.tensors))
        random = _below(RANDOM, state.tensors)
        torch.set_rng_state(random["cpu"][distributed.rank()])
        self.augmentation.set_state(random["augmentation"][distributed.rank()])
        if "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"][distributed.rank()])

    def _random(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state(), "augmentation": self.augmentation.get_state()}
        on_gpu = next(self._model.parameters()).is_cuda
        return states | ({"cuda": torch.cuda.get_rng_state()} if on_gpu else {})

    def _restore_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        groups = self._optimizer.state_dict()["param_groups"]
        for group, rate in zip(groups, self._scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            number, _, quantity = name.partition(".")
            laid_out = _like(parameters[int(number)], value)
            state.setdefault(int(number), {})[quantity] = laid_out
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})


class _Best:
    """Weights of the epoch with the best validation balanced accuracy (the first of equals)."""

    def __init__(self) -> None:
        self.value = -math.inf
        self.state: dict[str, Tensor] | None = None

    def see(self, value: float, model: JointClassifier) -> None:
        if value > self.value:
            self.value = value
            self.state = {name: t.detach().cpu().clone() for name, t in model.state_dict().items()}

    def restore(self, model: JointClassifier) -> None:
        if self.state is not None:
            model.load_state_dict(self.state)


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """A value laid out in memory as its parameter: another layout may round differently."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}


def stream(seed: int, *place: int) -> int:
    """A seed of its own for each place that random numbers are drawn in."""
    return int(np.random.SeedSequence([seed, *place]).generate_state(1)[0])
