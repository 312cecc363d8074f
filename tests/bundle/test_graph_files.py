import numpy as np
import onnx
import pytest
from graphs import tensorflow_graph
from onnx import helper, numpy_helper

from misgiving.bundle import graph_files
from misgiving.bundle.graph_files import read_graph
from misgiving.errors import DataError


def external(path, location, *, inside=None):
    """A graph whose weights are said to be in another file."""
    model = tensorflow_graph()
    tensor = model.graph.initializer[0]
    if inside == "node":
        tensor = model.graph.node.add().attribute.add().t
    elif inside == "branch":
        branch = model.graph.node.add().attribute.add().g
        tensor = branch.initializer.add()
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_beside_the_graph_are_read(tmp_path):
    model = tensorflow_graph()
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    path = tmp_path / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
    assert (tmp_path / "net.data").exists()
    (found,) = read_graph(path).graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(found), weight)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "folder/../../secret", "link"])
@pytest.mark.parametrize("inside", [None, "node", "branch"])
def test_a_file_outside_the_folder_is_refused_before_it_is_read(tmp_path, location, inside):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(36))
    (folder / "link").symlink_to(tmp_path / "secret")
    path = external(folder / "net.onnx", location, inside=inside)
    with pytest.raises(DataError, match="is outside its folder"):
        read_graph(path)


def test_external_data_that_are_missing_or_no_file_are_named(tmp_path):
    (tmp_path / "place").mkdir()
    for location in ("net.data", "place"):
        with pytest.raises(DataError, match=f"the file '{location}' with its weights is missing"):
            read_graph(external(tmp_path / "net.onnx", location))


@pytest.mark.parametrize(("opset", "version"), [(999, 8), (17, 999)])
def test_a_graph_for_a_newer_onnx_says_what_to_do(tmp_path, opset, version):
    model = tensorflow_graph()
    model.opset_import[0].version, model.ir_version = opset, version
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(DataError, match=f"needs opset {opset} .*with an older opset, such as 17"):
        read_graph(tmp_path / "net.onnx")


def test_a_graph_for_an_old_onnx_is_refused(tmp_path):
    model = tensorflow_graph()
    model.opset_import[0].version = 7
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(DataError, match="has opset 7; export it with 9 or newer"):
        read_graph(tmp_path / "net.onnx")


def test_a_graph_that_is_too_large_is_refused_with_its_external_data(tmp_path, monkeypatch):
    onnx.save(
        tensorflow_graph(),
        tmp_path / "net.onnx",
        save_as_external_data=True,
        location="net.data",
        size_threshold=0,
    )
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    monkeypatch.setattr(graph_files, "LARGEST", size)
    read_graph(tmp_path / "net.onnx")
    monkeypatch.setattr(graph_files, "LARGEST", size - 1)
    with pytest.raises(DataError, match="GiB with its weights"):
        read_graph(tmp_path / "net.onnx")


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x08\x08" * 50])
def test_what_is_no_graph_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(DataError, match=r"net\.onnx: ") as refused:
        read_graph(tmp_path / "net.onnx")
    assert "\n" not in str(refused.value)


def test_a_graph_whose_nodes_do_not_fit_is_refused(tmp_path):
    model = tensorflow_graph()
    model.graph.node.append(helper.make_node("Relu", ["nothing"], ["there"]))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(DataError, match="missing or damaged"):
        read_graph(tmp_path / "net.onnx")


def test_a_folder_or_a_missing_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.onnx"):
        with pytest.raises(DataError, match="no such file, or not an ordinary file"):
            read_graph(path)
