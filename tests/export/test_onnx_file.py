"""Reading .onnx files from anywhere: what is no whole float32 model is refused in one line."""

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rofo.export.errors import CheckpointError
from rofo.export.source import read_source

PLACES = ["batch", 4, 8, 6]


def value(name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name: str, *shape: int) -> TensorProto:
    numbers = np.random.default_rng(0).standard_normal(shape, np.float32)
    return numpy_helper.from_array(numbers, name)


def model() -> onnx.ModelProto:
    """Two convolutions."""
    nodes = [
        helper.make_node("Conv", ["input", "w1", "b1"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["positive"]),
        helper.make_node("Conv", ["positive", "w2"], ["output"]),
    ]
    weights = [weight("w1", 5, 4, 1, 1), weight("b1", 5), weight("w2", 4, 5, 1, 1)]
    graph = helper.make_graph(nodes, "g", [value("input", PLACES)], [value("output", PLACES)], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        read_source(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and "; " in message
    return message


def test_the_plain_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(model(), path)
    source = read_source(path)
    assert source.graph == model()
    assert len(source.sha256) == 64 and len(source.tail_md5) == 32


def too_many_nodes(m: onnx.ModelProto) -> None:
    m.graph.node.append(helper.make_node("Concat", ["wide"] * 20_000, ["many"], axis=1))


def half_weights(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((5, 4, 1, 1), np.float16), "w1"))


def half_constant(m: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.ones(5, np.float16), "c")
    m.graph.node.insert(0, helper.make_node("Constant", [], ["half"], value=tensor))


def not_a_number(m: onnx.ModelProto) -> None:
    m.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.float32([1, 2, np.nan, 4, 5]), "b1"))


def infinite_constant(m: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.float32([np.inf]), "c")
    m.graph.node.insert(0, helper.make_node("Constant", [], ["constant"], value=tensor))


def more_numbers_stated(m: onnx.ModelProto) -> None:
    m.graph.initializer[1].dims[0] = 50


def fewer_numbers_stated(m: onnx.ModelProto) -> None:
    m.graph.initializer[1].dims[0] = 4


def far_more_numbers_stated(m: onnx.ModelProto) -> None:
    m.graph.initializer[1].dims[0] = 1 << 50


def negative_size(m: onnx.ModelProto) -> None:
    m.graph.initializer[1].dims[0] = -5


def missing_weight(m: onnx.ModelProto) -> None:
    del m.graph.initializer[1]


def unknown_type(m: onnx.ModelProto) -> None:
    m.graph.initializer[1].data_type = 99


def no_opset(m: onnx.ModelProto) -> None:
    m.ClearField("opset_import")


def functions(m: onnx.ModelProto) -> None:
    m.functions.add(name="Conv")


def sparse(m: onnx.ModelProto) -> None:
    m.graph.sparse_initializer.add()


def no_network(m: onnx.ModelProto) -> None:
    m.ClearField("graph")


FAULTS: dict[Callable[[onnx.ModelProto], None], str] = {
    too_many_nodes: "4 nodes or more are no MDX-Net",
    half_weights: "weights of type FLOAT16, needed is FLOAT",
    half_constant: "weights of type FLOAT16, needed is FLOAT",
    not_a_number: "weights not finite: b1",
    infinite_constant: "weights not finite: c",
    more_numbers_stated: "not a valid ONNX model (",
    fewer_numbers_stated: "not a valid ONNX model (",
    far_more_numbers_stated: "states weights of more than 1073741824 bytes",
    negative_size: "states weights of more than 1073741824 bytes",
    missing_weight: "not a valid ONNX model (",
    unknown_type: "weights of type number 99, needed is FLOAT",
    no_opset: "not a valid ONNX model (",
    functions: "holds functions or sparse weights",
    sparse: "holds functions or sparse weights",
    no_network: "an ONNX file without a network",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_what_is_no_such_model_is_named(fault: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    damaged, path = model(), tmp_path / "net.onnx"
    fault(damaged)
    path.write_bytes(damaged.SerializeToString())
    assert FAULTS[fault] in refusal(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a git-lfs pointer"),
        (b"<!DOCTYPE html><html></html>", "a web page (HTML)"),
        (b"PK\x03\x04" + bytes(60), "cut short or damaged"),
        (b"\x00" * 600, "download it again"),
    ],
)
def test_what_is_no_onnx_file_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    assert message in refusal(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "net.onnx")
    assert "directory" in refusal(tmp_path)


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    whole, path = model().SerializeToString(), tmp_path / "net.onnx"
    for length in range(3, len(whole), 7):
        path.write_bytes(whole[:length])
        refusal(path)


def test_constants_are_not_multiplied(tmp_path: Path) -> None:
    """Joined a thousand times, these 80 kB would be 80 MB."""
    joined, path = model(), tmp_path / "net.onnx"
    joined.graph.initializer.append(weight("long", 20_000))
    joined.graph.node.append(helper.make_node("Concat", ["long"] * 1000, ["unused"], axis=0))
    path.write_bytes(joined.SerializeToString())
    tracemalloc.start()
    read_source(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6


def test_hostile_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    hostile, path = model(), tmp_path / "net.onnx"
    hostile.graph.node[0].op_type = "\x1b[2J\nConv"
    path.write_bytes(hostile.SerializeToString())
    assert refusal(path).isprintable()
    hostile = model()
    not_a_number(hostile)
    hostile.graph.initializer[1].name = hostile.graph.node[0].input[2] = "\x1b[2J\nb"
    path.write_bytes(hostile.SerializeToString())
    message = refusal(path)
    assert r"not finite: \x1b[2J\nb" in message and message.isprintable()


def save_external(folder: Path, location: str = "net.data") -> tuple[Path, onnx.ModelProto]:
    """All weights in `location`, one after another; the model that says so is not saved yet."""
    split, data = model(), b""
    for tensor in split.graph.initializer:
        place = {"location": location, "offset": str(len(data)), "length": str(len(tensor.raw_data))}
        data += tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in place.items():
            tensor.external_data.add(key=key, value=text)
    (folder / "net.data").write_bytes(data)
    return folder / "net.onnx", split


def test_weights_in_a_file_beside_it_are_read(tmp_path: Path) -> None:
    path, split = save_external(tmp_path)
    path.write_bytes(split.SerializeToString())
    read = read_source(path).graph.graph.initializer
    for got, wanted in zip(read, model().graph.initializer, strict=True):
        assert got.raw_data == wanted.raw_data and got.data_location == TensorProto.DEFAULT


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """A folder in a folder that holds the weights."""
    folder = tmp_path / "inside"
    folder.mkdir()
    save_external(tmp_path)
    return folder


@pytest.mark.parametrize(
    "location", ["../net.data", "sub/../../net.data", "sub/../net.data", "ABSOLUTE", "\0"]
)
def test_weights_outside_its_folder_are_not_opened(location: str, inside: Path) -> None:
    named = location.replace("ABSOLUTE", str(inside.parent / "net.data"))
    path, split = save_external(inside, named)
    path.write_bytes(split.SerializeToString())
    assert "its weights lie outside its folder" in refusal(path)


def test_links_that_lead_outside_are_not_followed(inside: Path) -> None:
    path, split = save_external(inside)
    path.write_bytes(split.SerializeToString())
    (inside / "net.data").unlink()
    (inside / "net.data").symlink_to(inside.parent / "net.data")
    assert "its weights lie outside its folder (net.data)" in refusal(path)
    (inside / "net.data").unlink()
    (inside / "net.data").symlink_to("net.data")
    assert "net.data" in refusal(path)


def test_missing_short_and_misplaced_weights_are_named(tmp_path: Path) -> None:
    path, split = save_external(tmp_path)
    path.write_bytes(split.SerializeToString())
    data = tmp_path / "net.data"
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    assert "its weights, net.data, are cut short" in refusal(path)
    data.unlink()
    assert "its weights, net.data, are missing" in refusal(path)
    os.mkfifo(data)  # reading it would wait forever
    assert "its weights, net.data, are missing" in refusal(path)
    data.unlink()
    data.write_bytes(whole)
    for key, text in (("offset", "-4"), ("offset", "four"), ("length", "8"), ("offset", str(len(whole)))):
        _, wrong = save_external(tmp_path)
        next(entry for entry in wrong.graph.initializer[0].external_data if entry.key == key).value = text
        path.write_bytes(wrong.SerializeToString())
        assert "are cut short or damaged" in refusal(path)
