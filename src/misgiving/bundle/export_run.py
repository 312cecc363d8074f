"""A bundle that decides as its run does, without torch; needs torch to be made."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from misgiving.bundle.bundle import FACTS, Bundle, used_opinions
from misgiving.bundle.export import write_bundle
from misgiving.checkpoint import Checkpoint, load, versions
from misgiving.deferral.deferral import Deferral
from misgiving.files import check_replaceable, whole_folder
from misgiving.predictions.inference import fingerprint_of, write_compared_graph
from misgiving.predictions.network import GRAPH

EXPORTED_WITH = ("misgiving", "torch", "onnx", "onnxscript", "onnxruntime")


def export_run(
    run: Path, out: Path, *, opinions: Mapping[str, Path] | None = None, overwrite: bool = False
) -> Bundle:
    """Write a run as a bundle, whole or not at all, after comparing the outputs of both.

    Args:
        run: A run folder.
        out: The bundle.
        opinions: Runs whose second opinions the policy uses, by name; each becomes a graph.
        overwrite: Replace a bundle; anything else is refused.

    Raises:
        DataError: A graph cannot be exported or its outputs differ from the model's; or a second
            opinion is of another model than that of the policy.
        UsageError: A second opinion is missing.
    """
    check_replaceable(out, FACTS, overwrite=overwrite)
    checkpoint = load(run)
    fingerprint = fingerprint_of(checkpoint)
    deferral = Deferral.of_run(run, model=fingerprint)
    used = used_opinions(None if deferral is None else deferral.policy_, opinions or {})
    others = {name: load(folder) for name, folder in used.items()}
    with whole_folder(out) as partial:
        write_compared_graph(checkpoint, partial / GRAPH)
        graphs = {}
        for number, (name, other) in enumerate(others.items(), 1):
            write_compared_graph(other, partial / (graph := f"opinion_{number}.onnx"))
            seen = asdict(other.preprocessing)
            identity = {"name": name, "fingerprint": fingerprint_of(other)}
            graphs[graph] = {**identity, "preprocessing": seen}
        facts = {
            "classes": checkpoint.classes,
            "fingerprint": fingerprint,
            "preprocessing": asdict(checkpoint.preprocessing),
            "estimates_losses": checkpoint.estimates_losses,
            "opinions": graphs,
        }
        return write_bundle(partial, facts, _card(checkpoint), deferral)


def _card(checkpoint: Checkpoint) -> dict[str, Any]:
    """Facts on a run for the model card, as JSON values."""
    split = checkpoint.split
    counts = Counter(zip(split.sets, split.labels, strict=True))
    installed = versions(EXPORTED_WITH).items()
    return {
        "data": {"name": checkpoint.data.name, "fingerprint": checkpoint.data.fingerprint},
        "class_counts": {
            set_name: {name: counts[set_name, name] for name in checkpoint.classes}
            for set_name in dict.fromkeys(split.sets)
        },
        "architecture": asdict(checkpoint.architecture),
        "views": checkpoint.views,
        "training": checkpoint.settings.get("training", {}),
        "versions": {
            **checkpoint.versions,
            **{f"{name} at export": number for name, number in installed},
        },
    }
