"""Devices and processes, as lightning-fabric starts them.

It is imported late: only what trains, or runs in several processes or elsewhere than on a
processor, has to wait for it.
"""

import atexit
import logging
import os
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from misgiving.errors import UsageError

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.parallel import ParallelStrategy


def device_named(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `mps` stands for on this machine."""
    if name == "cpu" or (name == "auto" and not torch.accelerator.is_available()):
        return torch.device("cpu")
    return start_fabric(name).device


def start_processes(device: str, *, devices: int = 1, nodes: int = 1) -> torch.device:
    """Start the other processes of this command, or join them, and return this one's device.

    On one machine, the command starts itself again for every further device. torchrun and SLURM
    start all processes themselves; `devices` and `nodes` then say how many they are.

    Raises:
        UsageError: The devices are not available.
    """
    if devices == nodes == 1:
        return device_named(device)
    return start_fabric(device, devices=devices, nodes=nodes).device


def _check_launcher(fabric: "Fabric", nodes: int) -> None:
    """Check for a launcher, without which Fabric would wait forever for other machines."""
    environment = cast("ParallelStrategy", fabric.strategy).cluster_environment
    launched = environment is not None and environment.creates_processes_externally
    if nodes > 1 and not launched and "MASTER_ADDR" not in os.environ:
        raise UsageError(
            f"`nodes={nodes}` needs a launcher that starts the processes of every machine; "
            "start the command with torchrun or srun"
        )


def start_fabric(
    device: str, *, devices: int = 1, nodes: int = 1, precision: str = "32-true"
) -> "Fabric":
    """Fabric with all processes of the command."""
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it is talkative
    several = devices * nodes > 1
    try:
        fabric = Fabric(
            accelerator=device,
            strategy="ddp" if several else "auto",
            devices=devices,
            num_nodes=nodes,
            precision=precision,  # type: ignore[arg-type]  # checked by Fabric itself
        )
        if several:
            _check_launcher(fabric, nodes)
            fabric.launch()
            # A thread of gloo that holds exchanged tensors at the very end aborts the process.
            atexit.unregister(distributed.destroy_process_group)
            atexit.register(distributed.destroy_process_group)
    except UsageError:
        raise
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        raise UsageError(
            f'`device="{device}"` with `precision="{precision}"`, `devices={devices}` and '
            f"`nodes={nodes}` is not available here ({error}); "
            'try `device="cpu"` and `precision="32-true"`'
        ) from error
    return fabric


def wrap_for_processes(
    fabric: "Fabric", model: nn.Module, optimizer: Optimizer, used_outputs: Callable[[], Tensor]
) -> tuple[nn.Module, Optimizer]:
    """Wrap the model and its optimiser in Fabric.

    Args:
        fabric: With all its processes.
        model: Moved to the device of Fabric.
        optimizer: Of its parameters.
        used_outputs: Gives a number that depends on every parameter that the objective depends on.
            Processes would wait for the gradients of others: `vanilla` does not use its loss
            estimator, and some networks have layers for other tasks.
    """
    unused = []
    if fabric.world_size > 1:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(used_outputs(), trained, allow_unused=True)
        unused = [p for p, gradient in zip(trained, gradients, strict=True) if gradient is None]
    for parameter in unused:
        parameter.requires_grad_(False)
    module, wrapped = fabric.setup(model, optimizer)
    for parameter in unused:
        parameter.requires_grad_(True)
    return module, wrapped


def compiled(module: nn.Module, device: torch.device) -> nn.Module:
    """Compile the steps of a module; its parameters and their names stay the same.

    Raises:
        UsageError: There is no compiler.
    """
    candidates = (os.environ.get("CXX"), "c++", "g++", "clang++")
    if device.type == "cpu" and not any(shutil.which(name) for name in candidates if name):
        raise UsageError(
            "`compiled=True` needs a C++ compiler; install one, or name it in the environment "
            "variable CXX"
        )
    return cast(nn.Module, torch.compile(module))
