"""ONNX files from elsewhere: read with their external data, refused if they cannot be trusted."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from misgiving.errors import DataError, explain_damage

LARGEST = 2**31 - 1  # bytes of one ONNX file, which is a protocol buffer
OLDEST_OPSET = 9
REMEDY = "export the model to ONNX again"


def read_graph(path: Path) -> Any:
    """Read an ONNX file and its external data as one model, after checks of both.

    Raises:
        DataError: It is missing, damaged or too large, needs a newer version of ONNX, or names a
            file outside its folder.
    """
    import onnx

    if not path.is_file():
        raise DataError(f"{path}: no such file, or not an ordinary file; check the path")
    _refuse_size(path, path.stat().st_size)
    with explain_damage(path, remedy=REMEDY):
        model = onnx.load(path, load_external_data=False)
        _refuse_newer(path, model)
        external = _external_files(path, model)
        _refuse_size(path, path.stat().st_size + sum(file.stat().st_size for file in external))
        onnx.load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
    return model


def _refuse_size(path: Path, size: int) -> None:
    if size > LARGEST:
        raise DataError(
            f"{path}: has {size / 2**30:.1f} GiB with its weights, and a graph of a bundle at most "
            "2; export a smaller model, or one in half precision"
        )


def _refuse_newer(path: Path, model: Any) -> None:
    import onnx

    known = onnx.defs.onnx_opset_version()
    opset = opset_of(model)
    if opset > known or model.ir_version > onnx.IR_VERSION:
        raise DataError(
            f"{path}: needs opset {opset} (IR version {model.ir_version}), and the installed onnx "
            f"{onnx.__version__} knows opset {known} (IR version {onnx.IR_VERSION}); export it "
            "with an older opset, such as 17, or upgrade onnx and onnxruntime"
        )
    if opset < OLDEST_OPSET:
        raise DataError(f"{path}: has opset {opset}; export it with {OLDEST_OPSET} or newer")


def write_metadata(path: Path, facts: Mapping[str, Any]) -> None:
    """Put facts into the metadata of an ONNX file, as JSON by their names.

    Programs that read it find the classes and the thresholds without this package. Decisions need
    the calibrator, which is beside the graph.
    """
    import onnx

    model = onnx.load(path)
    values = {f"misgiving.{name}": json.dumps(value) for name, value in facts.items()}
    onnx.helper.set_model_props(model, values)
    onnx.save(model, path)


def opset_of(model: Any) -> int:
    """The version of the standard operators of a model; 0 if it uses none."""
    versions = [one.version for one in model.opset_import if one.domain in ("", "ai.onnx")]
    return max(versions, default=0)


def _external_files(path: Path, model: Any) -> set[Path]:
    """Files with weights, each an ordinary file in the folder of the graph or below it."""
    folder, files = path.parent.resolve(), set()
    for tensor in _tensors(model.graph, *model.functions):
        for entry in tensor.external_data:
            if entry.key != "location":
                continue
            file = (folder / entry.value).resolve()
            if not file.is_relative_to(folder):
                raise DataError(
                    f"{path}: its weights are to be read from {entry.value!r}, which is outside "
                    "its folder; this is refused, whoever made the file"
                )
            if not file.is_file():
                raise DataError(
                    f"{path}: the file {entry.value!r} with its weights is missing; put it beside "
                    "the graph, or export the model to one file"
                )
            files.add(file)
    return files


def _tensors(*graphs: Any) -> Iterator[Any]:
    """All tensors of graphs and functions, also of graphs inside their nodes."""
    for graph in graphs:
        yield from getattr(graph, "initializer", ())
        yield from _dense(getattr(graph, "sparse_initializer", ()))
        for attribute in (one for node in graph.node for one in node.attribute):
            yield from (attribute.t, *attribute.tensors)
            yield from _dense((attribute.sparse_tensor, *attribute.sparse_tensors))
            yield from _tensors(attribute.g, *attribute.graphs)


def _dense(tensors: Iterable[Any]) -> Iterator[Any]:
    for sparse in tensors:
        yield from (sparse.values, sparse.indices)
