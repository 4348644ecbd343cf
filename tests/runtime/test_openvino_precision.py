"""OpenVINO in fp32 on the norms of convolutional networks, against float64."""

import json

import numpy as np
import onnx
import onnx.helper
import openvino
import pytest

from rofo.engines import EngineSettings, open_engine
from rofo.manifest import file_sha256, load_manifest

WIDTH, EPSILON = 16, 1e-5
CHUNK = 64_000  # 1001 frames of 129 bins: enough for OpenVINO's own norm to lose 20 dB
BATCH, CHANNELS, FRAMES, BINS = 2, 2, 1001, 129
MIX = (BATCH, CHANNELS, FRAMES, BINS, 2)


def weights():
    """Of two 1x1 convolutions, into and out of WIDTH channels, and of the norm between them."""
    rng = np.random.default_rng(0)
    return {
        "into": rng.normal(0, 1, (WIDTH, 2 * CHANNELS, 1, 1)),
        "scale": rng.uniform(0.5, 1.5, WIDTH),
        "shift": rng.normal(0, 0.3, WIDTH),
        "out": rng.normal(0, 0.3, (2 * CHANNELS, WIDTH, 1, 1)),
    }


def network(norm, *parameters, **attributes):
    """The graph: real and imaginary parts as channels, convolution, norm, convolution, and back."""
    node = onnx.helper.make_node
    shapes = {"planes": (BATCH, 2 * CHANNELS, FRAMES, BINS), "pairs": (BATCH, 1, CHANNELS, 2, FRAMES, BINS)}
    constants = [
        onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, array.shape, array.ravel())
        for name, array in weights().items()
    ] + [
        onnx.helper.make_tensor(name, onnx.TensorProto.INT64, (len(shape),), shape)
        for name, shape in shapes.items()
    ]
    nodes = [
        node("Transpose", ["mix"], ["apart"], perm=[0, 1, 4, 2, 3]),
        node("Reshape", ["apart", "planes"], ["x"]),
        node("Conv", ["x", "into"], ["wide"]),
        node(norm, ["wide", *parameters], ["normed"], **attributes),
        node("Conv", ["normed", "out"], ["y"]),
        node("Reshape", ["y", "pairs"], ["parts"]),
        node("Transpose", ["parts"], ["stems"], perm=[0, 1, 2, 4, 5, 3]),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        norm,
        [value("mix", onnx.TensorProto.FLOAT, MIX)],
        [value("stems", onnx.TensorProto.FLOAT, (BATCH, 1, *MIX[1:]))],
        initializer=constants,
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)


def in_float64(mix):
    """What the network with InstanceNorm is by its definition."""
    w = {name: array.astype(np.float32).astype(np.float64) for name, array in weights().items()}
    planes = mix.astype(np.float64).transpose(0, 1, 4, 2, 3).reshape(BATCH, -1, FRAMES, BINS)
    wide = np.einsum("oi,bitf->botf", w["into"][..., 0, 0], planes)
    centred = wide - wide.mean((2, 3), keepdims=True)
    normed = centred / np.sqrt(np.square(centred).mean((2, 3), keepdims=True) + EPSILON)
    normed = normed * w["scale"][:, None, None] + w["shift"][:, None, None]
    y = np.einsum("oi,bitf->botf", w["out"][..., 0, 0], normed)
    return y.reshape(BATCH, 1, CHANNELS, 2, FRAMES, BINS).transpose(0, 1, 2, 4, 5, 3)


@pytest.fixture
def engine(make_engine):
    """An engine file with one of those networks in it."""

    def make(norm, *parameters, **attributes):
        path = make_engine(chunk=CHUNK, batch=BATCH)
        onnx.save(network(norm, *parameters, **attributes), path)
        raw = json.loads(path.with_suffix(".json").read_text())
        raw["engines"][0]["sha256"] = file_sha256(path)
        path.with_suffix(".json").write_text(json.dumps(raw))
        return path

    return make


def opened(path, precision="fp32"):
    return open_engine(path, load_manifest(path), EngineSettings("openvino", precision))


@pytest.mark.parametrize("level", [100.0, 1.0, 1e-3])
def test_a_norm_over_a_long_chunk_is_as_precise_as_fp32_allows(engine, snr_db, level):
    items_differ = np.array([1.0, 0.1]).reshape(BATCH, 1, 1, 1, 1)
    off_centre = np.random.default_rng(1).normal([0.5, -0.5], 1, MIX)
    mix = (level * items_differ * off_centre).astype(np.float32)
    stems = opened(engine("InstanceNormalization", "scale", "shift", epsilon=EPSILON)).run({"mix": mix})[
        "stems"
    ]
    assert snr_db(in_float64(mix), stems) > 118


@pytest.fixture
def compiled(monkeypatch):
    """The types of operators that OpenVINO is given to compile; the processor seems to know bf16."""
    given = []

    class Core(openvino.Core):
        def get_property(self, device, name):
            return ["FP32", "BF16"]

        def compile_model(self, model, device, options):
            given.extend(node.get_type_name() for node in model.get_ops())
            return super().compile_model(model, device, {})

    monkeypatch.setattr("rofo.engines.openvino.openvino_core", Core)
    return given


@pytest.mark.parametrize(
    ("precision", "norm", "own"),
    [
        ("fp32", ("InstanceNormalization", "scale", "shift"), False),
        ("bf16", ("InstanceNormalization", "scale", "shift"), True),
        ("fp32", ("MeanVarianceNormalization",), True),  # over the batch, frames and bins
    ],
)
def test_openvinos_own_norm_is_kept_except_where_it_is_imprecise(engine, compiled, precision, norm, own):
    opened(engine(*norm), precision)
    assert ("MVN" in compiled) == own
