"""Plans: built for real by TensorRT-RTX without a GPU, and with stand-ins for the libraries that need one."""

import importlib
import json
import sys
import types
from pathlib import Path

import onnx
import pytest

from rofo.errors import EngineLoadError, UsageError
from rofo.export import ExportOptions, cli, export_checkpoint
from rofo.export.cli import main
from rofo.export.errors import ParityError
from rofo.export.graph.cost import Cost, graph_cost
from rofo.export.graph.types import DTYPES
from rofo.export.plan import tensorrt
from rofo.export.plan.gpus import GIB, GPUS, most_chunks, size_batch
from rofo.export.plan.plan import PlanOptions
from rofo.manifest import file_sha256, load_manifest


def export(checkpoint, folder, *, plan, verify=True, stage=lambda _: None):
    """A plan of the tiny checkpoint, called tiny, and nothing else."""
    options = ExportOptions(
        output=folder / "tiny", config=checkpoint[1], onnx=False, plan=plan, verify=verify
    )
    return export_checkpoint(checkpoint[0], options, stage)


@pytest.fixture(scope="module")
def made(checkpoint, tmp_path_factory):
    """A plan and its manifest, and what was told while they were made."""
    folder, told = tmp_path_factory.mktemp("made"), []
    plan = PlanOptions(batch=2, diagnose=True)
    report = export(checkpoint, folder, plan=plan, stage=told.append)
    return folder, report, told


def without_module(monkeypatch, *names):
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


def test_a_plan_and_what_it_is_tied_to(made):
    import tensorrt_rtx

    folder, report, _ = made
    assert sorted(path.name for path in folder.iterdir()) == ["tiny.json", "tiny.plan"]
    assert report.manifest == load_manifest(folder / "tiny.plan")
    (entry,) = report.manifest.engines
    assert (entry.file, entry.backend, entry.precision, entry.batch) == (
        "tiny.plan",
        "tensorrt-rtx",
        "fp16",
        2,
    )
    assert (entry.backend_version, entry.compute_capabilities) == (tensorrt_rtx.__version__, ("8.9",))
    assert entry.sha256 == file_sha256(folder / "tiny.plan")
    assert len(entry.onnx_sha256) == 64
    # Weights and what lives beside them; the network has 0.2 million weights of 2 bytes.
    assert 1e5 < entry.device_memory < GIB
    (parity,) = report.manifest.parity
    assert (parity.backend, parity.precision, parity.measured_on) == (
        "tensorrt-rtx", "fp16", "typed graph on the CPU",
    )  # fmt: skip
    assert parity.snr_db > 50


def test_the_stages_and_the_layers_are_told(made):
    _, report, told = made
    assert any(line.startswith("building the plan for an RTX 4090") for line in told)
    assert any("steps" in line for line in told)
    assert next(layer.module for layer in report.layers) == "band_split"
    assert sum("layers.0." in line and "dB" in line for line in told) == 4


def test_the_same_checkpoint_gives_the_same_graph(made, checkpoint, tmp_path):
    again = export(checkpoint, tmp_path, plan=PlanOptions(batch=2), verify=False)
    assert again.manifest.engines[0].onnx_sha256 == made[1].manifest.engines[0].onnx_sha256
    assert again.manifest.parity == ()


def test_a_batch_that_no_launch_of_attention_holds_is_refused(checkpoint, tmp_path):
    with pytest.raises(UsageError, match="--batch 70000: one launch of attention holds"):
        export(checkpoint, tmp_path, plan=PlanOptions(batch=70_000), verify=False)


def test_leap_fits_four_chunks_into_a_launch():
    """881,559 samples at hop 512 are 1722 frames, each a sequence of bands for 8 heads."""
    assert most_chunks(Cost(0, 0, 0, sequences=8 * (1 + 881_559 // 512))) == 4


def test_a_graph_below_the_gate_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("rofo.export.graph.gates.MIN_TYPED_DB", 300.0)
    older = tmp_path / "tiny.plan"
    older.write_bytes(b"older")
    with pytest.raises(ParityError, match="the gate is 300 dB"):
        export(checkpoint, tmp_path, plan=PlanOptions(batch=1))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.plan"]
    assert older.read_bytes() == b"older"


@pytest.fixture
def tool(capfd, checkpoint, tmp_path, monkeypatch):
    """rofo-export on the tiny checkpoint; lines of stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*options, status=0):
        with pytest.raises(SystemExit) as stop:
            main([str(checkpoint[0]), "--config", str(checkpoint[1]), "--output", "tiny", *options])
        out, err = capfd.readouterr()
        assert stop.value.code == status, err
        return out.splitlines(), err.splitlines()

    return call


def test_by_default_both_are_written_where_the_builder_is_installed(tool):
    out, err = tool("--batch", "1", "--gpu", "portable", "--no-verify")
    assert out == ["tiny.onnx", "tiny.plan", "tiny.json"]
    entries = json.loads(Path("tiny.json").read_text())["engines"]
    assert [entry["backend"] for entry in entries] == ["onnx", "tensorrt-rtx"]
    assert entries[1]["compute_capabilities"] == ["8.0+"]
    assert err[-1] == "not verified: --no-verify"


@pytest.mark.parametrize(
    ("target", "modules", "words"),
    [
        ("tensorrt-rtx", ["tensorrt_rtx"], ["pip install 'rofo[rtx]'", "--target onnx"]),
        ("tensorrt", ["tensorrt"], ["pip install 'rofo[tensorrt]'"]),
    ],
)
def test_a_missing_builder_is_4_before_any_work(tool, tmp_path, monkeypatch, target, modules, words):
    without_module(monkeypatch, *modules)
    out, err = tool("--target", target, status=4)
    assert (out, len(err), list(tmp_path.iterdir())) == ([], 1, [])
    assert err[0].startswith(f"error: {target}: ")
    assert all(word in err[0] for word in words)


def test_two_plans_of_one_name_are_a_usage_error(tool, tmp_path):
    _, err = tool("--target", "tensorrt", "--target", "tensorrt-rtx", status=2)
    assert "would both write STEM.plan" in err[-1]
    assert list(tmp_path.iterdir()) == []


def test_the_tool_offers_what_there_is():
    assert set(cli._GPUS) == set(GPUS)
    assert set(cli._PRECISIONS) == set(DTYPES)


# Libraries that this machine has not, or not like this


class Config:
    def __init__(self):
        self.cleared, self.progress_monitor, self.cache = [], None, None

    def clear_flag(self, flag):
        self.cleared.append(flag)

    def create_timing_cache(self, content):
        return types.SimpleNamespace(content=bytes(content), serialize=lambda: b"timings")

    def set_timing_cache(self, cache, ignore_mismatch):
        self.cache = cache
        return cache.content in (b"", b"timings")

    def get_timing_cache(self):
        return self.cache


def library(**changes):
    """A stand-in for `tensorrt`; what a build is given ends up in its attribute `seen`."""
    trt = types.ModuleType("tensorrt")
    trt.__version__ = "11.4.0"
    trt.seen = seen = types.SimpleNamespace(flags=None, config=Config())

    class Builder:
        def __init__(self, log):
            self.log = log

        def create_network(self, flags):
            seen.flags = flags
            return object()

        def create_builder_config(self):
            return seen.config

        def build_serialized_network(self, network, config):
            config.progress_monitor.phase_start("Building", None, 3)
            config.progress_monitor.phase_start("inner", "Building", 9)
            going = config.progress_monitor.step_complete("Building", 0)
            config.progress_monitor.phase_finish("Building")
            return b"plan" if going else None

    parser = types.SimpleNamespace(num_errors=0, parse_from_file=lambda path: True)
    trt.Builder, trt.OnnxParser = Builder, lambda network, log: parser
    trt.ILogger = type("ILogger", (), {"INTERNAL_ERROR": 0, "ERROR": 1})
    trt.IProgressMonitor = type("IProgressMonitor", (), {})
    trt.BuilderFlag = types.SimpleNamespace(TF32="tf32")
    trt.NetworkDefinitionCreationFlag = types.SimpleNamespace()
    for name, value in changes.items():
        setattr(trt, name, value)
    return trt


def built(monkeypatch, tmp_path, trt, backend="tensorrt", gpu="rtx4090", stage=lambda _: None):
    monkeypatch.setitem(sys.modules, tensorrt.BUILDERS[backend][0], trt)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tensorrt.build_plan(
        tmp_path / "a.onnx", tmp_path / "a.plan", backend=backend, gpu=GPUS[gpu], stage=stage
    )


def test_tensorrt_10_is_told_to_be_strongly_typed_and_11_need_not(monkeypatch, tmp_path):
    ten = library(NetworkDefinitionCreationFlag=types.SimpleNamespace(STRONGLY_TYPED=1))
    for trt, flags in ((ten, 2), (library(), 0)):
        told = []
        found = built(monkeypatch, tmp_path, trt, stage=told.append)
        assert trt.seen.flags == flags
        assert trt.seen.config.cleared == ["tf32"]
        assert (found.version, found.compute_capabilities, found.device_memory) == ("11.4.0", ("8.9",), None)
        assert told == ["building the plan: building, 3 steps"]
        assert (tmp_path / "a.plan").read_bytes() == b"plan"


def test_timings_are_kept_and_what_is_no_cache_is_ignored(monkeypatch, tmp_path):
    for left in (None, b"timings", b"of another GPU"):
        files = list((tmp_path / "cache").rglob("*.timings"))
        if left:
            files[0].write_bytes(left)
        trt = library()
        built(monkeypatch, tmp_path, trt)
        assert trt.seen.config.cache.content == (b"timings" if left == b"timings" else b"")
        (file,) = (tmp_path / "cache" / "rofo").iterdir()
        assert file.read_bytes() == b"timings"


def test_no_timing_cache_for_rtx_it_needs_a_gpu(monkeypatch, tmp_path):
    trt = library(ComputeCapability=types.SimpleNamespace(SM89=89))
    trt.seen.config.set_compute_capability = lambda *given: setattr(trt.seen, "capability", given)
    built(monkeypatch, tmp_path, trt, "tensorrt-rtx")
    assert (trt.seen.capability, trt.seen.config.cache) == ((89, 0), None)
    assert trt.seen.config.num_compute_capabilities == 1
    assert not (tmp_path / "cache").exists()
    with pytest.raises(EngineLoadError, match=r"cannot build for compute capability 12\.0 \(RTX 5090\)"):
        built(monkeypatch, tmp_path, trt, "tensorrt-rtx", "rtx5090")


def test_what_the_parser_and_the_builder_say_is_passed_on(monkeypatch, tmp_path):
    said = types.SimpleNamespace(desc=lambda: "\nno such operator\nsecond line")
    parser = types.SimpleNamespace(num_errors=1, parse_from_file=lambda _: False, get_error=lambda _: said)
    with pytest.raises(
        EngineLoadError, match=r"^a.plan: tensorrt 11.4.0 does not read .*\(no such operator\)"
    ):
        built(monkeypatch, tmp_path, library(OnnxParser=lambda *_: parser))

    class Builder(library().Builder):
        def build_serialized_network(self, network, config):
            self.log.log(1, "no kernel")
            self.log.log(2, "a warning")

    with pytest.raises(EngineLoadError, match=r"does not build the graph \(no kernel\)"):
        built(monkeypatch, tmp_path, library(Builder=Builder))
    assert not (tmp_path / "a.plan").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, BrokenPipeError])
def test_an_exception_in_progress_ends_the_build_and_comes_out(monkeypatch, tmp_path, error):
    def stage(_):
        raise error

    trt = library(NetworkDefinitionCreationFlag=types.SimpleNamespace())
    with pytest.raises(error):
        built(monkeypatch, tmp_path, trt, stage=stage)
    assert not (tmp_path / "a.plan").exists()


def test_an_interrupt_reaches_a_real_build(checkpoint, tmp_path):
    def stage(text):
        if text.endswith("steps"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(checkpoint, tmp_path, plan=PlanOptions(batch=1), verify=False, stage=stage)
    assert list(tmp_path.iterdir()) == []


def test_tensorrt_builds_for_the_gpu_it_finds_and_no_other(monkeypatch):
    properties = types.SimpleNamespace(name=b"NVIDIA H200\0", major=9, minor=0, totalGlobalMem=141 * GIB)
    runtime = types.SimpleNamespace(cudaGetDeviceProperties=lambda _: (0, properties))
    real = importlib.import_module
    fake = {"cuda.bindings.runtime": runtime}
    monkeypatch.setattr(importlib, "import_module", lambda name: fake.get(name) or real(name))
    found = tensorrt.target_gpu("tensorrt", None)
    assert (found.name, found.capabilities, found.rate) == ("NVIDIA H200", ("9.0",), 989e12)
    with pytest.raises(EngineLoadError, match="NVIDIA H200, not for RTX 4090"):
        tensorrt.target_gpu("tensorrt", "rtx4090")
    assert tensorrt.target_gpu("tensorrt-rtx", None) == GPUS["rtx4090"]
    error = type("Error", (int,), {"name": "cudaErrorNoDevice"})(100)
    runtime.cudaGetDeviceProperties = lambda _: (error, None)
    with pytest.raises(EngineLoadError, match=r"no GPU to build for.*--target tensorrt-rtx"):
        tensorrt.target_gpu("tensorrt", None)


def test_a_builder_without_a_gpu_says_what_to_use(monkeypatch, tmp_path):
    def refuse(log):
        raise TypeError("pybind11::init(): factory function returned nullptr")

    with pytest.raises(EngineLoadError, match=r"does not start.*--target tensorrt-rtx"):
        built(monkeypatch, tmp_path, library(Builder=refuse))


# Batches and costs


@pytest.mark.parametrize(
    ("cost", "batch", "why"),
    [
        (
            Cost(8.9e12, GIB, 2 * GIB, 6408),
            1,
            "8.9 TFLOP, 53.9 ms of an RTX 4090 at its peak; which fills it",
        ),
        (Cost(1e12, GIB, GIB, 1000), 2, "2 give it 12 ms"),
        (Cost(1e12, GIB, GIB, 1000, steps=4000), 4, "loops launch 8000 kernels"),
        (Cost(1e12, GIB, GIB, 1000, steps=4000), 4, "4 give it 24 ms"),  # 8000 launches: 24 ms
        (Cost(1e9, GIB, GIB // 4, 10), 8, "delay the first result"),
        (Cost(1e12, GIB, 6 * GIB, 1000), 1, "over half of 24 GiB"),
        (Cost(1e12, GIB, GIB, 40_000), 1, "one launch of attention"),
        (Cost(1e12, 40 * GIB, GIB, 1000), 1, "over half of 24 GiB"),
        (Cost(0.0, 0, 0, 0), 1, "which fills it"),
    ],
)
def test_the_batch_fills_the_card_and_says_why(cost, batch, why):
    found, reason = size_batch(cost, GPUS["rtx4090"])
    assert found == batch
    assert reason.startswith(f"batch {batch}: a chunk is ")
    assert why in reason


def test_cost_of_a_graph(tmp_path):
    make, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        make("MatMul", ["mix", "w"], ["a"]),  # 2 x 5 x 7 x 3 x 2 flop
        make("Reshape", ["a", "shape"], ["b"]),  # a view
        make("Attention", ["b", "b", "b"], ["c"]),  # (1, 2, 5, 7): two products of 2 x 5 x 5 x 7 x 2
        make("Tanh", ["c"], ["stems"]),
    ]
    weights = [
        onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, (3, 7), [0.0] * 21),
        onnx.helper.make_tensor("shape", onnx.TensorProto.INT64, (4,), (1, 2, 5, 7)),
    ]
    floats = [value("mix", 1, (2, 5, 3)), value("stems", 1, (1, 2, 5, 7))]
    graph = onnx.helper.make_graph(nodes, "g", floats[:1], floats[1:], weights)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10),
        tmp_path / "g.onnx",
    )
    cost = graph_cost(tmp_path / "g.onnx")
    assert cost.flop == 2 * 2 * 5 * 7 * 3 + 2 * (2 * 2 * 5 * 5 * 7)
    assert cost.weights == 4 * 21 + 8 * 4
    assert cost.live == 2 * 4 * 70  # a and c, or c and stems
    assert cost.sequences == 2
    assert cost.memory == cost.weights + cost.live
