"""The typed graph for ONNX Runtime on CUDA: nothing in it that would be left to the processor."""

import json
import types

import numpy as np
import onnx
import pytest
from mdx_oracle import ConvOracle, write_onnx
from onnx import TensorProto, helper, numpy_helper
from oracle import Oracle, snr_db

from rofo.engines import EngineSettings, open_engine
from rofo.engines.choice import engine_file
from rofo.errors import EngineLoadError
from rofo.export import CheckpointError, ExportOptions, export_checkpoint
from rofo.export.graph.cuda import KERNELS, for_cuda
from rofo.export.graph.gates import loud_chunk
from rofo.manifest import load_manifest

CUDA = "onnxruntime-cuda"
HALF, FULL = TensorProto.FLOAT16, TensorProto.FLOAT


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small Roformer exported for CUDA beside the fp32 engine; the files."""
    folder = tmp_path_factory.mktemp("cuda")
    checkpoint, config = Oracle("bs_roformer", {"depth": 1, "dim": 32}).write(folder)
    options = ExportOptions(output=folder / "out" / "tiny", config=config, cuda=True, batch=2)
    return export_checkpoint(checkpoint, options).files


def kinds_of(model):
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return {v.name: v.type.tensor_type.elem_type for v in values} | {
        t.name: t.data_type for t in graph.initializer
    }


def test_it_lies_beside_the_fp32_engine_with_its_parity(made):
    assert [path.name for path in made] == ["tiny.onnx", "tiny.fp16.onnx", "tiny.json"]
    manifest = load_manifest(made[1])
    entry = manifest.engines[1]
    assert (entry.file, entry.backend, entry.precision, entry.batch) == ("tiny.fp16.onnx", CUDA, "fp16", 2)
    assert manifest.snr_db(CUDA, "fp16") > 50 and manifest.keeps_silence(CUDA, "fp16")


def test_every_node_has_a_kernel_and_computes_numbers(made):
    model = onnx.load(made[1])
    kinds = kinds_of(model)
    for node in model.graph.node:
        assert node.domain == "" and node.op_type in KERNELS
        assert {kinds[name] for name in node.output} <= {HALF, FULL}
        assert any(name not in {t.name for t in model.graph.initializer} for name in node.input)


def test_products_and_attention_are_of_16_bits_and_what_is_around_them_of_32(made):
    model = onnx.load(made[1])
    kinds = kinds_of(model)
    taken = {
        operator: {
            kinds[name]
            for node in model.graph.node
            if node.op_type == operator
            for name in node.input
            if name
        }
        for operator in ("MatMul", "Attention", "RMSNormalization")
    }
    assert taken == {"MatMul": {HALF}, "Attention": {HALF}, "RMSNormalization": {FULL}}
    assert kinds["mix"] == kinds["stems"] == FULL
    # Flash attention takes heads side by side.
    attentions = [node for node in model.graph.node if node.op_type == "Attention"]
    assert len(attentions) == 2
    assert all(any(a.name == "q_num_heads" and a.i == 2 for a in node.attribute) for node in attentions)


def test_convolutions_are_of_16_bits_too(tmp_path):
    sizes = {"n_fft": 2048, "hop_length": 1024, "dim_f": 64, "dim_t": 16, "g": 16}
    write_onnx(ConvOracle(sizes).network(), tmp_path / "Some_Vocal.onnx", 64, 16)
    given = {"n_fft": 2048, "stems": ("vocals",)}
    options = ExportOptions(given=given, cuda=True, onnx=False, output=tmp_path / "net")
    report = export_checkpoint(tmp_path / "Some_Vocal.onnx", options)
    assert report.manifest.snr_db(CUDA, "fp16") > 35
    model = onnx.load(report.files[0])
    kinds = kinds_of(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert convolutions and all(kinds[node.input[0]] == HALF for node in convolutions)


def test_a_node_without_a_kernel_is_refused(tmp_path):
    nodes = [helper.make_node("STFT", ["x", "hop", "window"], ["y"], name="m/STFT_0")]
    constants = [
        numpy_helper.from_array(np.array(4), "hop"),
        numpy_helper.from_array(np.ones(8, np.float32), "window"),
    ]
    ends = [
        helper.make_tensor_value_info("x", FULL, (1, 32, 1)),
        helper.make_tensor_value_info("y", FULL, None),
    ]
    graph = helper.make_graph(nodes, "one", ends[:1], ends[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]), tmp_path / "a.onnx")
    with pytest.raises(
        CheckpointError, match=r"a\.onnx: ONNX Runtime has no CUDA kernel for STFT .*leave --target"
    ):
        for_cuda(tmp_path / "a.onnx")


# Who runs it


def chosen(path, precision="auto", backend=CUDA):
    return engine_file(path, load_manifest(path), EngineSettings(backend, precision)).name


def test_cuda_takes_it_and_nobody_else(made, tmp_path):
    fp32, fp16, described = made
    assert chosen(described) == chosen(fp32) == chosen(fp32, "fp16") == "tiny.fp16.onnx"
    assert chosen(fp32, "fp32") == "tiny.onnx"
    assert chosen(described, backend="auto") == chosen(described, backend="onnxruntime") == "tiny.onnx"
    assert chosen(fp16, "fp32") == "tiny.fp16.onnx"
    with pytest.raises(
        EngineLoadError, match="backend onnxruntime cannot run this file; use --backend onnxruntime-cuda"
    ):
        open_engine(fp16, load_manifest(fp16), EngineSettings("onnxruntime"))
    raw = json.loads(described.read_text())
    for parity in raw["parity"]:
        parity["snr_db"] = 34.9
    (tmp_path / "tiny.json").write_text(json.dumps(raw))
    (tmp_path / "tiny.fp16.onnx").touch()
    assert chosen(tmp_path / "tiny.onnx") == "tiny.onnx"


def test_on_cuda_it_takes_and_gives_float32_and_no_node_may_fall_to_the_processor(made, monkeypatch):
    """The CUDA provider is stood in for by the processor, which has kernels for the same graph."""
    import onnxruntime

    seen, real = {}, onnxruntime.InferenceSession

    def session(path, options, providers):
        seen.update(
            fallback=options.get_session_config_entry("session.disable_cpu_ep_fallback"), on=providers
        )
        made = real(path, providers=["CPUExecutionProvider"])
        names = ("get_inputs", "get_outputs", "run")
        return types.SimpleNamespace(
            get_providers=lambda: ["CUDAExecutionProvider"], **{name: getattr(made, name) for name in names}
        )

    manifest = load_manifest(made[1])
    inputs = {name: np.repeat(values, 2, axis=0) for name, values in loud_chunk(manifest).items()}
    exact = open_engine(made[0], manifest, EngineSettings("openvino", "fp32")).run(inputs)["stems"]
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    engine = open_engine(made[1], manifest, EngineSettings(CUDA))
    assert (engine.precision, engine.batch) == ("fp16", 2)
    assert seen["fallback"] == "1"
    assert [name for name, _ in seen["on"]] == ["CUDAExecutionProvider"]
    stems = engine.run(inputs)["stems"]
    assert stems.dtype == np.float32
    assert snr_db(exact, stems) > 50
