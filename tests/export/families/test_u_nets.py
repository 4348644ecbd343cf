"""Engines of the convolutional families in every form: near the network, in range, of the types promised."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from loaded import Loaded, mdx_net, spectrum, tfc_tdf
from onnx import TensorProto
from oracle import snr_db

from rofo.errors import UsageError
from rofo.export.families.tfc_tdf import engine as tfc_tdf_engine
from rofo.export.graph.rounded import RoundedGraph
from rofo.export.graph.types import Form, Precision

KINDS: dict[Precision, int] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
Make = Callable[..., Loaded]
CASES: dict[str, tuple[Make, dict[str, object]]] = {
    "MDX-Net": (mdx_net, {}),
    "MDX-Net, linear bias": (mdx_net, {"bias": True}),
    "MDX-Net, one linear layer": (mdx_net, {"bn": 0, "bias": True}),
    "MDX-Net, no linear layer": (mdx_net, {"bn": None}),
    "MDX-Net, GroupNorm": (mdx_net, {"optimizer": "adamw"}),
    "TFC-TDF": (tfc_tdf, {}),
    "TFC-TDF, BatchNorm": (tfc_tdf, {"norm": "BatchNorm"}),
    "TFC-TDF, GroupNorm": (tfc_tdf, {"norm": "GroupNorm2"}),
    "TFC-TDF, ReLU": (tfc_tdf, {"act": "relu"}),
    "TFC-TDF, ELU": (tfc_tdf, {"act": "elu0.3"}),
    "TFC-TDF, bins only": (tfc_tdf, {"scale": [1, 2]}),
}


@pytest.mark.parametrize("name", CASES)
def test_engines_on_the_cpu_are_the_network(name: str, tmp_path: Path) -> None:
    make, options = CASES[name]
    case = make(tmp_path, **options)
    mix = spectrum(case.shape, 1000.0, batch=2)
    wanted, path = case.run(mix), case.write(tmp_path, batch=2)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert snr_db(wanted, session.run(["stems"], {"mix": mix})[0]) > 100
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert snr_db(wanted, compiled({"mix": mix})["stems"]) > 100


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Precision], tuple[Loaded, Path]]:
    """A network of CASES and its graph in 16 bits, traced once: that takes most of the time."""
    made: dict[tuple[str, Precision], tuple[Loaded, Path]] = {}

    def get(name: str, precision: Precision) -> tuple[Loaded, Path]:
        if (name, precision) not in made:
            folder, (make, options) = tmp_path_factory.mktemp("typed"), CASES[name]
            case = make(folder, **options)
            made[name, precision] = case, case.write(folder, precision)
        return made[name, precision]

    return get


# What differs in 16 bits: norms, the steps of scales, the way along the bins. Both types go the same way.
IN_16_BITS = [(name, "fp16", 55) for name in CASES if name not in ("MDX-Net, linear bias", "TFC-TDF, ReLU")]


@pytest.mark.parametrize(
    ("name", "precision", "least"), [*IN_16_BITS, ("MDX-Net", "bf16", 38), ("TFC-TDF", "bf16", 38)]
)
def test_in_16_bits_they_are_near_it(name, precision, least, typed) -> None:
    case, path = typed(name, precision)
    mix = spectrum(case.shape, 1000.0)
    outputs = RoundedGraph(path).run({"mix": mix})[0]
    # Not so near that it could be float32.
    assert least < snr_db(case.run(mix), outputs["stems"]) < 90


@pytest.mark.parametrize("make", [mdx_net, tfc_tdf])
def test_an_engine_leaves_the_network_as_it_was(make: Make, tmp_path: Path) -> None:
    case = make(tmp_path)
    mix = spectrum(case.shape, 1000.0)
    wanted = case.run(mix)
    for precision in ("fp32", "fp16"):
        case.family.engine(case.network, case.facts, Form("tensorrt", precision))
    np.testing.assert_array_equal(case.run(mix), wanted)


@pytest.mark.parametrize(("make", "transposes"), [(mdx_net, 2), (tfc_tdf, 2)])
def test_the_cpu_never_turns_frames_and_bins(make: Make, transposes: int, tmp_path: Path) -> None:
    """One transpose takes the parts of a complex number apart, one puts them together."""
    operators = Counter(node.op_type for node in onnx.load(make(tmp_path).write(tmp_path)).graph.node)
    assert operators["Transpose"] == transposes
    assert "BatchNormalization" not in operators


def test_norms_are_folded_where_a_convolution_is_before_them(tmp_path: Path) -> None:
    """What a norm behind a linear layer leaves is one product and one sum."""
    nodes = onnx.load(mdx_net(tmp_path).write(tmp_path)).graph.node
    makers = {name: node.op_type for node in nodes for name in node.output}
    scaled = [node for node in nodes if node.op_type == "Mul" and makers.get(node.input[0]) == "MatMul"]
    assert len(scaled) == 2 * 5
    assert all(
        makers[node.input[0]] in ("Conv", "ConvTranspose", "Add") for node in nodes if node.op_type == "Relu"
    )


def test_the_product_of_two_streams_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full-scale tone reaches 4096 with n_fft 8192; here the stream it is multiplied by is over 100."""
    case = tfc_tdf(tmp_path, num_blocks_per_scale=2)
    last = case.network.get_submodule("decoder_blocks.1.tfc_tdf.blocks.1")
    for name in ("tfc2.2", "shortcut"):
        last.get_submodule(name).weight *= 100
    mix = spectrum(case.shape, 4096.0)
    stems = RoundedGraph(case.write(tmp_path, "fp16")).run({"mix": mix})[0]["stems"]
    assert snr_db(case.run(mix), stems) > 50
    monkeypatch.setattr(tfc_tdf_engine, "SHARE", 1.0)
    (tmp_path / "in full").mkdir()
    stems = RoundedGraph(case.write(tmp_path / "in full", "fp16")).run({"mix": mix})[0]["stems"]
    assert not np.isfinite(stems).all()


@pytest.mark.parametrize(("name", "silent"), [("MDX-Net", False), ("TFC-TDF", True)])
def test_silence(name, silent, typed) -> None:
    """A TFC-TDF multiplies by a convolution without bias; an MDX-Net adds its biases to silence."""
    case, path = typed(name, "fp16")
    nothing = np.zeros((1, *case.shape), np.float32)
    stems = RoundedGraph(path).run({"mix": nothing})[0]["stems"]
    assert np.isfinite(stems).all()
    assert (
        (stems == 0).all()
        == (case.run(nothing) == 0).all()
        == silent
        == case.family.keeps_silence(case.facts)
    )


@pytest.mark.parametrize("precision", KINDS)
@pytest.mark.parametrize("name", ["MDX-Net", "TFC-TDF"])
def test_types(name, precision, typed) -> None:
    """16 bits into convolutions and out of them, and from product to product; norms in float32."""
    half = KINDS[precision]
    graph = onnx.shape_inference.infer_shapes(onnx.load(typed(name, precision)[1])).graph
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


def test_every_reader_widens_for_itself(typed) -> None:
    """A common cast to float32 would be stored by the plan."""
    for name in ("MDX-Net", "TFC-TDF"):
        graph = onnx.load(typed(name, "fp16")[1]).graph
        reads = Counter(name for node in graph.node for name in node.input)
        casts = [
            node for node in graph.node if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT
        ]
        assert len(casts) > 40
        assert all(reads[node.output[0]] <= 1 for node in casts)


@pytest.mark.parametrize("make", [mdx_net, tfc_tdf])
def test_attention_is_for_others(make: Make, tmp_path: Path) -> None:
    case = make(tmp_path)
    with pytest.raises(UsageError, match="--attention"):
        case.family.engine(case.network, case.facts, Form("tensorrt", "fp16", "bf16"))
