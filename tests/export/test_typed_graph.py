"""Typed graphs of convolutional networks: near the network, in range, and of the types promised."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from oracle import snr_db
from typed_cases import Case, mdx_net, tfc_tdf

from rofo.export.graph import typed_graph
from rofo.export.graph.rounded import RoundedGraph
from rofo.export.graph.typed_graph import type_graph
from rofo.export.graph.types import Precision

KINDS: dict[Precision, int] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
CASES: dict[str, Callable[[], Case]] = {
    "MDX-Net": mdx_net,
    "MDX-Net, linear bias": lambda: mdx_net(bias=True),
    "MDX-Net, one linear layer": lambda: mdx_net(bn=0, bias=True),
    "MDX-Net, no linear layer": lambda: mdx_net(bn=None),
    "MDX-Net, GroupNorm": lambda: mdx_net(optimizer="adamw"),
    "TFC-TDF": tfc_tdf,
    "TFC-TDF, BatchNorm": lambda: tfc_tdf(norm="BatchNorm"),
    "TFC-TDF, GroupNorm": lambda: tfc_tdf(norm="GroupNorm2"),
    "TFC-TDF, ReLU": lambda: tfc_tdf(act="relu"),
    "TFC-TDF, ELU": lambda: tfc_tdf(act="elu0.3"),
    "TFC-TDF, bins only": lambda: tfc_tdf(scale=[1, 2]),
}


def spectrogram(case: Case, peak: float) -> NDArray[np.float32]:
    """Magnitudes as different as in music, up to `peak`."""
    rng = np.random.default_rng(3)
    mix = rng.standard_normal((1, *case.shape)) * np.exp(2 * rng.standard_normal((1, *case.shape[:-1], 1)))
    return (mix * (peak / np.abs(mix).max())).astype(np.float32)


def typed(case: Case, folder: Path, precision: Precision) -> Path:
    inside = folder / precision
    inside.mkdir()
    type_graph(case.write(folder), inside / "typed.onnx", precision)
    return inside / "typed.onnx"


def output(case: Case, mix: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return case.network(torch.from_numpy(mix)).numpy()


@pytest.mark.parametrize(("precision", "least"), [("fp16", 55), ("bf16", 38)])
@pytest.mark.parametrize("name", CASES)
def test_near_the_network(name: str, precision: Precision, least: float, tmp_path: Path) -> None:
    case = CASES[name]()
    mix = spectrogram(case, 1000.0)
    stems, _, headroom = RoundedGraph(typed(case, tmp_path, precision)).run(mix)
    wanted = output(case, mix)
    # Not so near that it could be float32.
    assert least < snr_db(wanted, stems) < 90
    assert headroom is None


@pytest.mark.parametrize("make", [mdx_net, tfc_tdf])
def test_fp32_stays_as_it_is(make: Callable[[], Case], tmp_path: Path) -> None:
    case = make()
    plain, graph = tmp_path / "plain-1" / "plain.onnx", typed(case, tmp_path, "fp32")
    assert onnx.load(graph) == onnx.load(plain)


def test_the_product_of_two_streams_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full-scale tone reaches 4096 with n_fft 8192; here the stream it is multiplied by is over 100."""
    case = tfc_tdf()
    last = case.network.decoder[-1][-1]
    for convolution in (last.after[-1], last.shortcut):
        convolution.weight *= 100
    mix = spectrogram(case, 4096.0)
    stems = RoundedGraph(typed(case, tmp_path, "fp16")).run(mix)[0]
    assert snr_db(output(case, mix), stems) > 50
    monkeypatch.setattr(typed_graph, "_SHARE", np.float32(1))
    (tmp_path / "in full").mkdir()
    stems = RoundedGraph(typed(case, tmp_path / "in full", "fp16")).run(mix)[0]
    assert not np.isfinite(stems).all()


def test_silence(tmp_path: Path) -> None:
    """A TFC-TDF multiplies by a convolution without bias; an MDX-Net adds its biases to silence."""
    for make, silent in ((tfc_tdf, True), (mdx_net, False)):
        case, folder = make(), tmp_path / make.__name__
        folder.mkdir()
        nothing = np.zeros((1, *case.shape), np.float32)
        stems = RoundedGraph(typed(case, folder, "fp16")).run(nothing)[0]
        assert not (stems == 0).all() if not silent else (stems == 0).all()
        assert np.isfinite(stems).all()


@pytest.mark.parametrize("precision", KINDS)
@pytest.mark.parametrize("make", [mdx_net, tfc_tdf])
def test_types(make: Callable[[], Case], precision: Precision, tmp_path: Path) -> None:
    """16 bits into convolutions and out of them, and from product to product; norms in float32."""
    half = KINDS[precision]
    graph = onnx.shape_inference.infer_shapes(onnx.load(typed(make(), tmp_path, precision))).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    kinds |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    sources = {name: node for node in graph.node for name in node.output}
    assert kinds["mix"] == kinds["stems"] == TensorProto.FLOAT
    for node in graph.node:
        if node.op_type == "Conv":
            assert {kinds[name] for name in (*node.input, *node.output)} == {half}
        if node.op_type == "MatMul":
            casts = [sources[name] for name in node.input]
            assert [cast.op_type for cast in casts] == ["Cast", "Cast"]
            assert [kinds[cast.input[0]] for cast in casts] == [half, half]
        if node.op_type in ("ReduceMean", "Gelu", "Sqrt"):
            assert kinds[node.input[0]] == TensorProto.FLOAT
    assert {"ConvTranspose", "InstanceNormalization"}.isdisjoint(node.op_type for node in graph.node)
    wide = [t for t in graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) > 1]
    assert all(max(tensor.dims) == np.prod(tensor.dims) for tensor in wide)  # a number per channel


def test_large_weights_lie_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typed_graph, "INLINE_BYTES", 1000)
    case = tfc_tdf()
    plain, target = case.write(tmp_path), tmp_path / "typed" / "typed.onnx"
    target.parent.mkdir()
    data = type_graph(plain, target, "fp16")
    assert data == target.parent / "typed.onnx.data"
    assert data is not None and data.stat().st_size > 10_000
    assert sorted(target.parent.iterdir()) == [target, data]


def test_a_batch_norm_that_is_left(tmp_path: Path) -> None:
    """As in a given ONNX file: behind a linear layer, where no convolution can take it in."""
    rng = np.random.default_rng(5)
    shapes = {"conv": (8, 3, 3, 3), "linear": (12, 12), "last": (3, 8, 1, 1)}
    weights = {name: rng.standard_normal(shape) / 4 for name, shape in shapes.items()}
    weights |= {name: rng.uniform(0.5, 1.5, 8) for name in ("gamma", "beta", "mean", "variance")}
    nodes = [
        helper.make_node("Conv", ["mix", "conv"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("MatMul", ["a", "linear"], ["b"]),
        helper.make_node(
            "BatchNormalization", ["b", "gamma", "beta", "mean", "variance"], ["c"], epsilon=0.1
        ),
        helper.make_node("Add", ["a", "c"], ["d"]),
        helper.make_node("Conv", ["d", "last"], ["stems"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3, 16, 12)) for name in ("mix", "stems")
    ]
    tensors = [numpy_helper.from_array(v.astype(np.float32), name) for name, v in weights.items()]
    made = helper.make_graph(nodes, "given", ends[:1], ends[1:], tensors)
    plain = tmp_path / "given.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), plain)
    type_graph(plain, tmp_path / "typed.onnx", "fp16")
    mix = rng.standard_normal((1, 3, 16, 12)).astype(np.float32)
    session = onnxruntime.InferenceSession(plain, providers=["CPUExecutionProvider"])
    wanted = session.run(["stems"], {"mix": mix})[0]
    assert 55 < snr_db(wanted, RoundedGraph(tmp_path / "typed.onnx").run(mix)[0]) < 90
