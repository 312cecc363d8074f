"""`misgiving export model.onnx`: a bundle of a graph that was made elsewhere; needs no torch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from misgiving.bundle.bundle import LIMITS, Bundle, refuse_existing, write_bundle
from misgiving.bundle.graph_files import opset_of, read_graph
from misgiving.bundle.graph_interface import GraphInterface
from misgiving.bundle.wrapped_graph import declare_outputs, image_input, wrap_graph
from misgiving.calibration.apply import ERROR_ESTIMATOR
from misgiving.decisions.engine import CASES, DecisionEngine, load_policy
from misgiving.errors import DataError, UsageError
from misgiving.evaluation.network import GRAPH, Network
from misgiving.files import whole_folder
from misgiving.manifests import sha256_of, sha256_of_json
from misgiving.results.formats import read_document
from misgiving.results.policy_cases import PolicyCases
from misgiving.results.prediction_tables import UNKNOWN, PredictionTable
from misgiving.scores.features import FEATURE_SCORES
from misgiving.workflows.deferral import Deferral
from misgiving.workflows.graph_checks import compare, dry_run

UNCHECKED = (
    "It was not checked that this graph, with this preprocessing, made the predictions on which "
    "the policy was calibrated: this takes predictions with the path of each image, and none were "
    "given. The guarantee holds only if it did."
)
VERSIONS = ("misgiving", "onnx", "onnxruntime")


class ExportedGraph(NamedTuple):
    """A bundle, and sentences on what was checked and left out."""

    bundle: Bundle
    summary: list[str]


class _Wrapped(NamedTuple):
    """A graph that was written as a bundle has it.

    Attributes:
        network: Runs it.
        made_by: The program and the opset that it was made with.
        fingerprint: Of its nodes and weights.
    """

    network: Network
    made_by: str
    fingerprint: str


def export_graph(
    graph: Path,
    out: Path,
    *,
    interface: GraphInterface,
    predictions: Path | None = None,
    deferral: Deferral | None = None,
    policy: Path | None = None,
    classes: Sequence[str] | None = None,
    overwrite: bool = False,
) -> ExportedGraph:
    """Write a bundle of an ONNX graph, whole or not at all, after a dry run.

    Where the predictions name image files, up to 32 of these are predicted again and compared.

    Args:
        graph: An ONNX file; external data are in its folder.
        out: The bundle.
        interface: What the graph's input and outputs mean.
        predictions: A file of predictions that this graph has made.
        deferral: Is fitted to them.
        policy: Instead of `deferral`, a policy folder that was calibrated on such predictions.
        classes: Names of the classes in the order of the graph's outputs; None: the order of the
            policy, or else of the predictions.
        overwrite: Replace a bundle; anything else is refused.

    Raises:
        DataError: The graph cannot be run, or gives something else than the predictions say.
        UsageError: Settings do not go together, or not with the graph.
    """
    refuse_existing(out, overwrite=overwrite)
    if deferral is not None and policy is not None:
        raise UsageError("`policy` has its own targets; leave out those of a new one")
    table = None if predictions is None else PredictionTable.read(predictions)
    engine = None if policy is None else _engine_of(policy, interface)
    known = _known_classes(engine, table)
    with whole_folder(out) as partial:
        wrapped = _wrap(graph, partial / GRAPH, interface, _order(known, classes or known))
        preprocessing = interface.preprocessing(wrapped.network.size)
        summary: list[str] = []
        compared = 0
        if table is not None and predictions is not None:
            _refuse_other_kind(table.outputs, interface, predictions)
            compared = compare(wrapped.network, preprocessing, interface, table)
            table, summary = _computable(table, wrapped.network.outputs)
            if deferral is not None:
                engine = deferral.fit(table, data=str(predictions)).engine_
                summary += deferral.cases_.notes
        facts = {"classes": known, "preprocessing": preprocessing.to_dict()}
        fingerprint = sha256_of_json({"graph": wrapped.fingerprint, **facts})
        engine = _engine_of_graph(engine, wrapped.network.outputs, fingerprint)
        unchecked = [] if compared else [UNCHECKED]
        card = {
            "what": f"A classifier of {len(known)} classes, from the ONNX graph {graph.name}. By "
            "its policy it accepts an image, defers it, or calls it out-of-distribution.",
            **facts,
            **_origin(wrapped, engine, table, str(predictions or policy)),
            "fingerprint": fingerprint,
            "limits": [*unchecked, *LIMITS],
        }
        write_bundle(
            partial,
            preprocessing=preprocessing,
            estimates_losses="predicted_losses" in wrapped.network.outputs,
            fingerprint=fingerprint,
            engine=engine,
            card=card,
        )
        bundle = Bundle.load(partial)
    checked = f"the graph gives the predictions of the {compared} images that were compared"
    return ExportedGraph(bundle, [*summary, checked if compared else f"Warning: {UNCHECKED}"])


def _engine_of(policy: Path, interface: GraphInterface) -> DecisionEngine:
    """The engine of a policy, refused if it was fitted on another kind of outputs."""
    engine = load_policy(policy)
    _refuse_other_kind(read_document(policy / CASES, PolicyCases).outputs, interface, policy)
    return engine


def _refuse_other_kind(outputs: str, interface: GraphInterface, path: Path) -> None:
    """Refuse logits for probabilities, and the reverse, where the kind is known."""
    if outputs and (outputs == "logits") != (interface.outputs == "logits"):
        raise UsageError(
            f"{path} has {outputs}, and `outputs` is {interface.outputs}; give the predictions "
            "that the bundle would make, or a policy of them"
        )


def _known_classes(engine: DecisionEngine | None, table: PredictionTable | None) -> tuple[str, ...]:
    """The classes of the policy and of the predictions, in their order."""
    if table is None:
        if engine is None:
            raise UsageError("give `predictions` of the graph to calibrate on, or a `policy`")
        return engine.classes
    if engine is not None:
        engine.refuse_other_classes(table.predictions.classes)
    return table.predictions.classes


def _order(known: Sequence[str], given: Sequence[str]) -> list[int]:
    """The position of each known class among the graph's outputs."""
    if sorted(known) != sorted(given):
        raise UsageError(
            f"`classes` are {', '.join(given)}, and those of the predictions {', '.join(known)}; "
            "name the same, in the order of the graph's outputs"
        )
    return [list(given).index(name) for name in known]


def _wrap(graph: Path, path: Path, interface: GraphInterface, order: Sequence[int]) -> _Wrapped:
    """Write a graph between nodes for its input and outputs, after a dry run of it."""
    import onnx

    model = read_graph(graph)
    images = image_input(graph, model, interface)
    tried = wrap_graph(graph, model, images, interface, range(len(order)))
    onnx.save(tried, path)
    try:
        network = Network(path, size=images.size, num_classes=None)
    except DataError as error:
        raise DataError(str(error).replace(str(path), str(graph))) from error
    widths = dry_run(graph, network, interface, len(order))
    wrapped = wrap_graph(graph, model, images, interface, order)
    declare_outputs(wrapped.graph, images.batch, widths)
    onnx.save(wrapped, path)
    producer = " ".join(filter(None, (model.producer_name, model.producer_version)))
    return _Wrapped(
        network=Network(path, size=images.size, num_classes=len(order)),
        made_by=f"{producer or 'an unknown program'}, opset {opset_of(model)}",
        fingerprint=sha256_of(wrapped.SerializeToString(deterministic=True)),
    )


def _computable(
    table: PredictionTable, outputs: Sequence[str]
) -> tuple[PredictionTable, list[str]]:
    """Predictions without what no output of the graph gives, and sentences on what is left out."""
    predictions, left_out = table.predictions, []
    if predictions.features.shape[1] and "features" not in outputs:
        predictions = replace(predictions, features=np.zeros((len(predictions), 0)))
        left_out.append("features are not used: name the graph's output by `features_output`")
    if predictions.predicted_losses is not None and "predicted_losses" not in outputs:
        predictions = replace(predictions, predicted_losses=None)
        left_out.append("predicted losses are not used: name the graph's output by `loss_output`")
    return replace(table, predictions=predictions), left_out


def _engine_of_graph(
    engine: DecisionEngine | None, outputs: Sequence[str], fingerprint: str
) -> DecisionEngine:
    """The engine of a policy as that of this graph, refused if it reads what the graph lacks."""
    if engine is None or engine.policy is None or engine.calibrator is None or engine.used is None:
        raise UsageError("give `max_error`, to calibrate on the predictions, or a `policy`")
    taps = {name for name in engine.used.names if FEATURE_SCORES[name].reads_taps}
    probes = engine.used.probes
    of_taps = probes is not None and probes.reads_taps
    of_features = {ERROR_ESTIMATOR} if probes is not None and not of_taps else set()
    needs = {
        "loss_output": ("predicted_losses", engine.needed & {"predicted_loss"}),
        "features_output": ("features", engine.needed & FEATURE_SCORES.keys() | of_features),
        "taps_output": ("taps", taps | ({ERROR_ESTIMATOR} if of_taps else set())),
    }
    for parameter, (output, scores) in needs.items():
        if scores and output not in outputs:
            raise UsageError(
                f"the policy needs the {output.replace('_', ' ')} of an image, for "
                f"{', '.join(sorted(scores))}; name the graph's output by `{parameter}`"
            )
    policy = replace(engine.policy, model_fingerprint=fingerprint)
    return replace(engine, policy=policy, detectors=engine.used)


def _origin(
    wrapped: _Wrapped, engine: DecisionEngine, table: PredictionTable | None, source: str
) -> dict[str, Any]:
    """Model-card entries on the graph, the data and the policy."""
    policy = engine.policy
    counts: Counter[tuple[str, str]] = Counter()
    if table is not None:
        sets = table.sets or ("all",) * len(table)
        labels = table.predictions.labels.tolist()
        counts.update(
            (name, engine.classes[label])
            for name, label in zip(sets, labels, strict=True)
            if label != UNKNOWN
        )
    return {
        "data": {"name": source, "fingerprint": policy.calibration_fingerprint if policy else ""},
        "class_counts": {
            name: {of: counts[name, of] for of in engine.classes}
            for name in dict.fromkeys(name for name, _ in counts)
        },
        "architecture": {"backbone": wrapped.made_by},
        "training": {},
        "targets": policy.summary() if policy else [],
        "versions": {f"{name} at export": version(name) for name in VERSIONS},
    }
