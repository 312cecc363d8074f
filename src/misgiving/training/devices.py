"""Devices and processes, as lightning-fabric starts them.

It is imported late: only what trains, or runs in several processes or elsewhere than on a
processor, has to wait for it.
"""

import atexit
import logging
import os
from typing import TYPE_CHECKING

import torch
from torch import distributed

from misgiving.errors import UsageError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def device_of_process(device: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `mps`.

    Raises:
        UsageError: It is not available.
    """
    if device == "cpu" or (device == "auto" and not torch.accelerator.is_available()):
        return torch.device("cpu")
    return start_fabric(device).device


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
        raise UsageError(
            f'`device="{device}"` with `precision="{precision}"`, `devices={devices}` and '
            f"`nodes={nodes}` is not available here ({error}); "
            'try `device="cpu"` and `precision="32-true"`'
        ) from error
    return fabric
