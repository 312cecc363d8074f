"""Writing of a bundle: everything beside its graph."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from misgiving.bundle.bundle import CARD, FACTS, FORMAT, is_bundle
from misgiving.bundle.card import markdown
from misgiving.data.preprocessing import Preprocessing
from misgiving.decisions.engine import DecisionEngine
from misgiving.errors import UsageError
from misgiving.files import write_json, write_text
from misgiving.manifests import seal
from misgiving.predictions.network import GRAPH

READABLE_CARD = "card.md"


def check_replaceable(out: Path, *, overwrite: bool) -> None:
    """Check that nothing is replaced but a bundle, and only if that is asked for.

    Raises:
        UsageError: Something else is at `out`, or a bundle that is not to be replaced.
    """
    if out.exists() and not is_bundle(out):
        raise UsageError(f"{out}: exists and is not a bundle; choose another folder")
    if out.exists() and not overwrite:
        raise UsageError(f"{out}: exists; replace it with `overwrite=True`")


def write_bundle(
    folder: Path,
    *,
    preprocessing: Preprocessing,
    estimates_losses: bool,
    fingerprint: str,
    engine: DecisionEngine,
    card: Mapping[str, Any],
) -> None:
    """Write everything else of a bundle beside the graph in `folder`, and seal it.

    Classes and thresholds are also put into the metadata of the graph, so that programs that read
    it find them without this package. Decisions need the calibrator, which is beside the graph.
    """
    facts = {
        "classes": list(engine.classes),
        "fingerprint": fingerprint,
        "preprocessing": preprocessing.to_dict(),
    }
    settings = {} if engine.policy is None else engine.policy.settings()
    _write_metadata(folder / GRAPH, facts | settings)
    write_json(folder / FACTS, {"format": FORMAT, "estimates_losses": estimates_losses, **facts})
    engine.save(folder)
    write_json(folder / CARD, dict(card))
    write_text(folder / READABLE_CARD, markdown(card))
    seal(folder)


def _write_metadata(path: Path, facts: Mapping[str, Any]) -> None:
    import onnx

    model = onnx.load(path)
    values = {f"misgiving.{name}": json.dumps(value) for name, value in facts.items()}
    onnx.helper.set_model_props(model, values)
    onnx.save(model, path)
