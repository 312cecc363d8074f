"""`misgiving export`: a bundle that decides as its run does, without torch."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from misgiving.bundle.bundle import LIMITS, NO_GUARANTEE, Bundle, refuse_existing, write_bundle
from misgiving.bundle.network import GRAPH, INPUT, OUTPUTS
from misgiving.checkpoint import POLICY_FOLDER, Checkpoint, load, versions
from misgiving.decisions.engine import load_engine
from misgiving.deferral.policy import DeferralPolicy
from misgiving.errors import DataError
from misgiving.evaluation.inference import fingerprint_of
from misgiving.files import whole_folder
from misgiving.models.joint import full_outputs_of
from misgiving.models.onnx_export import write_graph

CLOSE = 1e-4  # how far an output may be off, as a share of the largest
TRIED = 5  # images on which graph and model are compared
EXPORTED_WITH = ("misgiving", "torch", "onnx", "onnxscript", "onnxruntime")


def export_run(run: Path, out: Path, *, overwrite: bool = False) -> Bundle:
    """Write a run as a bundle, whole or not at all, after comparing the outputs of both.

    Args:
        run: A run folder.
        out: The bundle.
        overwrite: Replace a bundle; anything else is refused.

    Raises:
        DataError: The graph cannot be exported or its outputs differ from the model's.
    """
    refuse_existing(out, overwrite=overwrite)
    checkpoint = load(run)
    fingerprint = fingerprint_of(checkpoint)
    engine = load_engine(run / POLICY_FOLDER, checkpoint.classes, model=fingerprint)
    engine = replace(engine, detectors=engine.used)
    with whole_folder(out) as partial:
        write_graph(
            checkpoint.model,
            partial / GRAPH,
            size=checkpoint.architecture.image_size,
            inputs=INPUT,
            outputs=OUTPUTS,
        )
        write_bundle(
            partial,
            preprocessing=checkpoint.preprocessing,
            estimates_losses=checkpoint.estimates_losses,
            fingerprint=fingerprint,
            engine=engine,
            card=card_of(run, checkpoint, engine.policy, fingerprint),
        )
        bundle = Bundle.load(partial)
        _refuse_other_outputs(checkpoint, bundle)
    return bundle


def _refuse_other_outputs(checkpoint: Checkpoint, bundle: Bundle) -> None:
    """Compare graph and model on images of noise and of one colour."""
    random, size = np.random.default_rng(0), checkpoint.architecture.image_size
    squares = random.integers(0, 256, (TRIED, size, size, 3), dtype=np.uint8)
    squares[0], squares[1] = 0, random.integers(0, 256, 3)
    images = torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 255
    expected = full_outputs_of(checkpoint.model, [images])
    for name, ours, theirs in zip(OUTPUTS, bundle.network(squares), expected, strict=True):
        off = _relative_difference(ours, theirs.numpy())
        if not off <= CLOSE:
            raise DataError(
                f"the exported graph differs from the model in its {name} (by {off:.1g} of the "
                f"largest, and {CLOSE:g} is allowed); this backbone cannot be exported"
            )


def _relative_difference(ours: Float[np.ndarray, "*n"], theirs: Float[np.ndarray, "*n"]) -> float:
    """The largest difference as a share of the largest value; NaN agrees with NaN alone."""
    if ours.shape != theirs.shape or (np.isnan(ours) != np.isnan(theirs)).any():
        return float("inf")
    known = ~np.isnan(theirs)
    if not known.any():
        return 0.0
    largest = float(np.abs(theirs[known]).max())
    difference = float(np.abs(ours[known] - theirs[known]).max())
    return difference / largest if largest else difference


def card_of(
    run: Path, checkpoint: Checkpoint, policy: DeferralPolicy | None, fingerprint: str
) -> dict[str, Any]:
    """The model card as JSON values."""
    trained = json.loads((run / "config.json").read_text(encoding="utf-8"))
    data = checkpoint.configuration.get("data", {})
    exported_with = {f"{name} at export": of for name, of in versions(EXPORTED_WITH).items()}
    return {
        "what": _description(checkpoint, policy),
        "classes": list(checkpoint.classes),
        "data": {
            "name": str(data.get("name", "unknown")),
            "fingerprint": str(data.get("fingerprint", "unknown")),
        },
        "class_counts": _class_counts(checkpoint),
        "architecture": trained["architecture"],
        "training": checkpoint.configuration.get("training", {}),
        "preprocessing": checkpoint.preprocessing.to_dict(),
        "versions": {**trained.get("versions", {}), **exported_with},
        "fingerprint": fingerprint,
        "targets": [NO_GUARANTEE] if policy is None else policy.summary(),
        "limits": list(LIMITS),
    }


def _description(checkpoint: Checkpoint, policy: DeferralPolicy | None) -> str:
    estimates = " that estimates its own loss" if checkpoint.estimates_losses else ""
    decides = (
        "It has no policy and defers every image."
        if policy is None
        else "By its policy it accepts an image, defers it, or calls it out-of-distribution."
    )
    return (
        f"A classifier ({checkpoint.architecture.backbone}) of {len(checkpoint.classes)} "
        f"classes{estimates}. {decides}"
    )


def _class_counts(checkpoint: Checkpoint) -> dict[str, dict[str, int]]:
    """Images of each class in each set of the split."""
    split = checkpoint.split
    counts = Counter(zip(split.sets, split.labels, strict=True))
    return {
        set_name: {name: counts[set_name, name] for name in checkpoint.classes}
        for set_name in dict.fromkeys(split.sets)
    }
