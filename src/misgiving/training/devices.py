"""Devices and processes, as lightning-fabric starts them."""

import logging
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from misgiving.errors import UsageError
from misgiving.training.config import TrainingConfig


def start_processes(device: str, *, devices: int = 1, nodes: int = 1) -> torch.device:
    """Start the other processes of this command, or join those that are there; see `processes`.

    On one machine, the command starts itself again for every further device. torchrun and SLURM
    start all processes themselves; `devices` and `nodes` then say how many they are.

    Returns:
        This process's device.

    Raises:
        UsageError: The devices are not to be had.
    """
    if devices < 1 or nodes < 1:
        raise UsageError(f"devices and nodes must be at least 1, got {devices} and {nodes}")
    return fabric_for(device, devices=devices, nodes=nodes).device


def fabric_of(config: TrainingConfig) -> Fabric:
    """Fabric for a training, with all its processes."""
    return fabric_for(
        config.device, devices=config.devices, nodes=config.nodes, precision=config.precision
    )


def fabric_for(
    device: str, *, devices: int = 1, nodes: int = 1, precision: str = "32-true"
) -> Fabric:
    """Fabric with all its processes, or the reason why not."""
    options: dict[str, Any] = {"strategy": "ddp", "num_nodes": nodes} if devices * nodes > 1 else {}
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it is talkative
    try:
        fabric = Fabric(accelerator=device, devices=devices, precision=precision, **options)  # type: ignore[arg-type]  # checked by Fabric itself
        if options:
            fabric.launch()
    except (ValueError, RuntimeError, ImportError) as error:
        raise UsageError(
            f"--device {device} with --precision {precision}, --devices {devices} and --nodes "
            f"{nodes} is not to be had here ({error}); try --device cpu --precision 32-true"
        ) from error
    return fabric


def set_up(
    fabric: Fabric, model: nn.Module, optimizer: Optimizer, reached: Callable[[], Tensor]
) -> tuple[Any, Any]:
    """The model and the optimiser as Fabric wraps them.

    Args:
        fabric: With all its processes.
        model: On the processor.
        optimizer: Of its parameters.
        reached: Something that depends on every parameter that the objective depends on. Processes
            would wait for the gradient of others: `vanilla` does not use its loss estimator, and
            some networks have layers for other tasks.
    """
    if fabric.world_size == 1:
        module, wrapped = fabric.setup(model, optimizer)
        return module, wrapped
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(reached(), asking, allow_unused=True)
    others = [p for p, gradient in zip(asking, gradients, strict=True) if gradient is None]
    for parameter in others:
        parameter.requires_grad_(False)
    module, wrapped = fabric.setup(model, optimizer)
    for parameter in others:
        parameter.requires_grad_(True)
    return module, wrapped


def compiled(module: Any, device: torch.device) -> Any:
    """The module with its steps compiled; its parameters, and their names, stay what they are.

    Raises:
        UsageError: There is no compiler.
    """
    candidates = (os.environ.get("CXX"), "c++", "g++", "clang++")
    if device.type == "cpu" and not any(shutil.which(name) for name in candidates if name):
        raise UsageError("--compile needs a C++ compiler; install one, name it in CXX, or leave it")
    return torch.compile(module)


def device_named(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `mps` stands for on this machine."""
    return fabric_for(name).device
