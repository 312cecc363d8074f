"""Devices and processes of a training, as lightning-fabric starts them; one alone does all.

Fabric is imported late: what runs a model on a processor does not have to wait for it.
"""

import atexit
import logging
import os
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, distributed

from misgiving.errors import Parameter, UsageError, separated

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def device_named(name: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `mps`.

    Raises:
        UsageError: It is not available.
    """
    if name == "cpu" or (name == "auto" and not torch.accelerator.is_available()):
        return torch.device("cpu")
    return start_fabric(name).device


def start_fabric(
    device: str, *, devices: int = 1, nodes: int = 1, precision: str = "32-true"
) -> "Fabric":
    """Fabric with all processes of the command, each with a device.

    On one machine, the command starts itself again for every further device. torchrun and SLURM
    start all processes themselves; `devices` and `nodes` then say how many they are.

    Raises:
        UsageError: Device or precision are not available, or nothing starts other machines.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it is talkative
    # Some networks have layers for other tasks, which get no gradient.
    shared = DDPStrategy(find_unused_parameters=True) if devices * nodes > 1 else None
    try:
        fabric = Fabric(
            accelerator=device,
            strategy=shared or "auto",
            devices=devices,
            num_nodes=nodes,
            precision=precision,  # type: ignore[arg-type]  # checked by Fabric itself
        )
        if shared is not None:
            cluster = shared.cluster_environment
            launched = cluster is not None and cluster.creates_processes_externally
            if nodes > 1 and not launched and "MASTER_ADDR" not in os.environ:
                # Fabric would wait forever for other machines
                raise RuntimeError("start the command by torchrun or srun on every machine")
            fabric.launch()
            # A thread of gloo that holds exchanged tensors at the very end aborts the process.
            atexit.unregister(distributed.destroy_process_group)
            atexit.register(distributed.destroy_process_group)
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        used = {"device": device, "precision": precision, "devices": devices, "nodes": nodes}
        parameters = separated([Parameter(name, value) for name, value in used.items()], ", ")
        raise UsageError("cannot compute here with ", *parameters, f" ({error})") from error
    return fabric


def count() -> int:
    """Number of processes of this command."""
    return distributed.get_world_size() if _together() else 1


def rank() -> int:
    """Number of this process; the first, 0, writes files and prints."""
    return distributed.get_rank() if _together() else 0


def share_of(total: int) -> Int[np.ndarray, " share"]:
    """Positions of this process in a set: every `count()`-th, from its rank.

    All shares have one size, as `gathered` requires: where they would differ, the first positions
    are repeated at the end, and `gathered` leaves them out.
    """
    each = -(-total // count())
    return np.arange(rank(), each * count(), count()) % total


def gathered(share: Tensor, total: int) -> Tensor:
    """Gather the shares of all processes, (share, ...) each, to (total, ...) in the set's order.

    Gradients flow into this process's own share only. Where all processes compute the same loss
    from the gathered values, the sum of their gradients is therefore the gradient of that loss.
    """
    if not _together():
        return share
    shares = stacked(share.detach())
    if share.requires_grad:
        shares = torch.stack([share if at == rank() else shares[at] for at in range(count())])
    return shares.transpose(0, 1).flatten(0, 1)[:total]


def stacked(tensor: Tensor) -> Tensor:
    """Stack a tensor of every process by rank."""
    if not _together():
        return tensor[None]
    nccl = distributed.get_backend() == "nccl"  # which exchanges nothing but a GPU's memory
    device = torch.device("cuda", torch.cuda.current_device()) if nccl else tensor.device
    contribution = tensor.to(device).contiguous()
    gathered_tensors = [torch.empty_like(contribution) for _ in range(count())]
    distributed.all_gather(gathered_tensors, contribution)
    return torch.stack(gathered_tensors).to(tensor.device)


def wait_for_all() -> None:
    """Wait until every process has reached this line."""
    if _together():
        distributed.barrier()


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()
