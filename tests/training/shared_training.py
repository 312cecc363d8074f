"""Trains for 20 steps in as many processes as asked for, in double precision; the first writes.

python shared_training.py DEVICES FOLDER OPTIONS, which are a list of values of `TrainingConfig`.
At its end each process says whether it is still in the exchange with the others.
"""

import atexit
import json
import os
import sys
from dataclasses import astuple
from pathlib import Path

import torch
import torch.distributed
from coloured import coloured_set
from safetensors.torch import save_file

from misgiving.models.joint import JointClassifier
from misgiving.predictions.inference import predictions_of
from misgiving.training import processes
from misgiving.training.config import TrainingConfig
from misgiving.training.loop import seeded, train
from misgiving.training.processes import start_fabric


def train_once(devices, out, options):
    with seeded(3):  # layer normalisation: batch normalisation sees each share alone
        model = JointClassifier("test_convnext", num_classes=3, pretrained=False, dropout=0.0)
    config = TrainingConfig(
        epochs=4, batch_size=8, device="cpu", precision="64-true", devices=devices, **options
    )
    steps = []
    images, validation = coloured_set(size=41, side=32), coloured_set(size=13, side=32, seed=1)
    history = train(model, images, validation, config, on_step=steps.append)
    predicted = predictions_of(model.double(), validation)
    if processes.rank() == 0:
        save_file(
            {name: t.contiguous() for name, t in model.state_dict().items()}, f"{out}.weights"
        )
        records = [astuple(record) for record in history]
        told = {"steps": steps, "history": records, "logits": predicted.logits.tolist()}
        Path(f"{out}.json").write_text(json.dumps(told))
    processes.wait_for_all()


def train_all(devices, folder, every):
    """Train by each of the options, and leave the files of each under its number."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        for number, options in enumerate(every):
            train_once(devices, folder / str(number), options)
    finally:
        torch.set_default_dtype(before)


def say_at_the_end():
    # in one write, as the processes share the pipe
    os.write(1, f"in the exchange: {torch.distributed.is_initialized()}\n".encode())


if __name__ == "__main__":
    atexit.register(say_at_the_end)
    start_fabric("cpu", devices=int(sys.argv[1]))  # and once more to train
    train_all(int(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
