"""Several processes that work on one thing: who does what, and how the parts come together.

Everything here is also right in a process that is alone, where it changes nothing. Processes are
started by `misgiving.training.start_processes`, torchrun or SLURM.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, distributed

from misgiving.errors import ProcessLostError

Key = TypeVar("Key")
Value = TypeVar("Value")


def count() -> int:
    """How many processes work together."""
    return distributed.get_world_size() if _together() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if _together() else 0


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return rank() == 0


def share_of(total: int) -> Int[np.ndarray, " share"]:
    """Positions of a set that are this process's: every `count()`-th, from its rank.

    All shares are of one size, as `gathered` needs; where they would differ, the last positions are
    followed by the first again, which `gathered` leaves out.
    """
    each = -(-total // count())
    return np.arange(rank(), each * count(), count()) % total


def gathered(share: Tensor, total: int) -> Tensor:
    """What all processes have of a set of this size: (share, ...) each, (total, ...) in its order.

    A gradient goes into this process's own share alone. Where all processes compute one loss from
    the gathered values, the sum of their gradients is therefore the gradient of that loss.
    """
    if not _together():
        return share
    parts = stacked(share.detach())
    if share.requires_grad:
        parts = torch.stack([share if at == rank() else part for at, part in enumerate(parts)])
    return parts.transpose(0, 1).flatten(0, 1)[:total]


def stacked(tensor: Tensor) -> Tensor:
    """The tensor that every process has under one name, one after the other by rank."""
    if not _together():
        return tensor[None]
    ours = tensor.to(_place(tensor)).contiguous()
    parts = [torch.empty_like(ours) for _ in range(count())]
    distributed.all_gather(parts, ours)
    return torch.stack(parts).to(tensor.device)


def merged(found: Mapping[Key, Value]) -> dict[Key, Value]:
    """What all processes have found, each under keys of its own or with equal values."""
    if not _together():
        return dict(found)
    parts: list[Any] = [None] * count()
    distributed.all_gather_object(parts, dict(found))
    return {key: value for part in parts for key, value in part.items()}


def any_of(flag: bool) -> bool:
    """Whether any process says yes."""
    return bool(stacked(torch.tensor(flag)).any()) if _together() else flag


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if _together():
        distributed.barrier()


@contextmanager
def losses_explained() -> Iterator[None]:
    """Inside the block, the end of another process is an explained failure of this one."""
    try:
        yield
    except RuntimeError as error:
        exchange = isinstance(error, distributed.DistError) or "gloo" in str(error)
        if not (_together() and exchange):
            raise
        raise ProcessLostError(
            "another process of this command has ended; see what it said, and run the same again"
        ) from error


def _place(tensor: Tensor) -> torch.device:
    """Where the processes can exchange it: NCCL knows no memory but a GPU's."""
    nccl = distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if nccl else tensor.device


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()
