"""A typed graph on the CPU rounds wherever its types say so, and overflows where a GPU would."""

import ml_dtypes
import numpy as np
import onnx
import onnx.helper
import pytest
from onnx import TensorProto, numpy_helper

from rofo.export.graph.rounded import RoundedGraph

KINDS = {TensorProto.FLOAT16: np.float16, TensorProto.BFLOAT16: ml_dtypes.bfloat16}
SHAPE = (2, 3, 8, 4)


def save(folder, nodes, constants=(), shape=SHAPE):
    info = [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("mix", "stems")]
    info[0] = onnx.helper.make_tensor_value_info("mix", TensorProto.FLOAT, shape)
    tensors = [numpy_helper.from_array(value, name) for name, value in constants]
    made = onnx.helper.make_graph(
        [
            onnx.helper.make_node(op, inputs, [output], name=f"part/{op}_{n}", **attributes)
            for n, (op, inputs, output, attributes) in enumerate(nodes)
        ],
        "typed",
        info[:1],
        info[1:],
        tensors,
    )
    onnx.save(
        onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10),
        folder / "typed.onnx",
    )
    return folder / "typed.onnx"


def mix(scale=1.0, shape=SHAPE):
    return (scale * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_is_rounded_not_only_the_last(kind, tmp_path):
    half = KINDS[kind]
    path = save(
        tmp_path,
        [
            ("Cast", ["mix"], "a", {"to": kind}),
            ("Mul", ["a", "third"], "b", {}),
            ("Reshape", ["b", "flat"], "c", {}),
            ("Mul", ["c", "three"], "d", {}),
            ("Cast", ["d"], "stems", {"to": TensorProto.FLOAT}),
        ],
        [
            ("third", np.array(1 / 3, half)),
            ("three", np.array(3, half)),
            ("flat", np.array([-1], np.int64)),
        ],
    )
    x = mix()
    outputs, _, headroom = RoundedGraph(path).run({"mix": x})
    stems = outputs["stems"]
    wanted = (x.astype(half) * half(1 / 3)).astype(half).ravel() * half(3)
    np.testing.assert_array_equal(stems, wanted.astype(np.float32))
    assert (stems != x.ravel()).any()
    assert headroom is None


def test_fp16_overflows_where_bf16_does_not(tmp_path):
    x = np.full(SHAPE, 300, np.float32)
    for kind, finite in ((TensorProto.FLOAT16, False), (TensorProto.BFLOAT16, True)):
        nodes = [
            ("Cast", ["mix"], "a", {"to": kind}),
            ("Mul", ["a", "a"], "b", {}),
            ("Mul", ["b", "small"], "c", {}),  # back in range: what came between counts
            ("Cast", ["c"], "stems", {"to": TensorProto.FLOAT}),
        ]
        outputs, _, _ = RoundedGraph(save(tmp_path, nodes, [("small", np.array(0.001, KINDS[kind]))])).run(
            {"mix": x}
        )
        stems = outputs["stems"]
        assert np.isfinite(stems).all() == finite


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_headroom_is_the_largest_sum_of_values(scale, tmp_path):
    path = save(
        tmp_path,
        [
            ("Cast", ["mix"], "v", {"to": TensorProto.FLOAT16}),
            ("Attention", ["v", "v", "v"], "out", {"scale": 1e-9}),
            ("Cast", ["out"], "stems", {"to": TensorProto.FLOAT}),
        ],
    )
    x = mix(scale)
    _, _, headroom = RoundedGraph(path).run({"mix": x})
    sums = np.abs(x.astype(np.float16).astype(np.float32)).sum(axis=2)
    assert headroom.worst == pytest.approx(sums.max(), rel=1e-5)
    assert headroom.where == "part/Attention_1"
    assert (headroom.worst > 65504) == (scale > 1)


def test_large_weights_and_probes(tmp_path):
    weight = np.random.default_rng(1).standard_normal((4, 600)).astype(np.float16)
    path = save(
        tmp_path,
        [
            ("Cast", ["weight"], "w", {"to": TensorProto.FLOAT}),
            ("MatMul", ["mix", "w"], "product", {}),
            ("Cast", ["product"], "half", {"to": TensorProto.FLOAT16}),
            ("Cast", ["half"], "stems", {"to": TensorProto.FLOAT}),
        ],
        [("weight", weight)],
    )
    x = mix()
    outputs, probed, _ = RoundedGraph(path, {"product": 7}).run({"mix": x})
    stems = outputs["stems"]
    wanted = x @ weight.astype(np.float32)
    np.testing.assert_allclose(probed["product"], wanted.ravel()[::7], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(stems, wanted, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_convolutions_take_and_give_16_bits_and_sum_in_32(kind, tmp_path):
    half = KINDS[kind]
    rng = np.random.default_rng(2)
    weight, bias = rng.standard_normal((5, 3, 1, 1)).astype(half), rng.standard_normal(5).astype(half)
    path = save(
        tmp_path,
        [
            ("Cast", ["mix"], "a", {"to": kind}),
            ("Conv", ["a", "weight", "bias"], "b", {}),
            ("Cast", ["b"], "stems", {"to": TensorProto.FLOAT}),
        ],
        [("weight", weight), ("bias", bias)],
    )
    x = mix(100.0)
    outputs, _, _ = RoundedGraph(path).run({"mix": x})
    stems = outputs["stems"]
    exact = np.einsum(
        "oc,bcft->boft", weight[:, :, 0, 0].astype(np.float64), x.astype(half).astype(np.float64)
    )
    exact += bias.astype(np.float64)[:, None, None]
    # Half a step of the type, and float32's own sum.
    step = np.spacing(np.abs(exact).astype(half)).astype(np.float64)
    assert (np.abs(stems - exact) <= 0.51 * step).all()
    np.testing.assert_array_equal(stems, stems.astype(half).astype(np.float32))
