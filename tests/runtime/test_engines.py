"""Choosing, checking and loading an engine."""

import importlib.util
import json
from pkgutil import resolve_name

import numpy as np
import onnx
import openvino
import pytest
import soundfile

from rofo import (
    EngineLoadError,
    EngineMismatchError,
    EngineRunError,
    ManifestError,
    RofoError,
    Separator,
    UsageError,
)
from rofo.cli import main
from rofo.engines import BACKEND_NAMES, Backend, EngineSettings, open_engine
from rofo.engines import BACKENDS as BACKENDS_OF_ROFO
from rofo.engines.openvino import OpenVinoEngine
from rofo.manifest import Parity, file_sha256, load_manifest

BACKENDS = ["openvino", "onnxruntime"]
GOOD_BF16 = (Parity("openvino", "fp32", 130.0), Parity("openvino", "bf16", 30.0))
BAD_BF16 = (Parity("openvino", "fp32", 130.0), Parity("openvino", "bf16", 29.9))


def opened(path, **options):
    return open_engine(path, load_manifest(path), EngineSettings(**options))


def refusal(path, kind=EngineLoadError, **options):
    """The one line of the error that opening ends with: the file first."""
    with pytest.raises(kind) as caught:
        opened(path, **options)
    assert type(caught.value) is kind
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: ")
    return text


def rewritten(path, content):
    """Other content for an engine file, with the hash that fits."""
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    manifest = path.with_suffix(".json")
    raw = json.loads(manifest.read_text())
    raw["engines"][0]["sha256"] = file_sha256(path)
    manifest.write_text(json.dumps(raw))
    return path


@pytest.fixture
def without(monkeypatch):
    """Make modules look as if they were not installed."""

    def hide(*names):
        real = importlib.util.find_spec
        monkeypatch.setattr("rofo.engines.find_spec", lambda name: None if name in names else real(name))

    return hide


@pytest.fixture
def processor(monkeypatch):
    """Pretend that the processor has these capabilities; the options a model is compiled with are noted."""

    def pretend(*capabilities):
        compiled = []

        class Core(openvino.Core):
            def get_property(self, device, name):
                assert name == "OPTIMIZATION_CAPABILITIES"
                return list(capabilities)

            def compile_model(self, model, device, options):
                compiled.append(options)
                return super().compile_model(model, device, {"INFERENCE_PRECISION_HINT": "f32"})

        monkeypatch.setattr("rofo.engines.openvino.openvino_core", Core)
        return compiled

    return pretend


# Which backend


def test_auto_takes_openvino_and_else_onnxruntime(make_engine, without):
    path = make_engine()
    assert opened(path).backend == "openvino"
    without("openvino")
    assert opened(path).backend == "onnxruntime"


@pytest.mark.parametrize(
    ("hidden", "backend", "said"),
    [
        (("openvino",), "openvino", "openvino is not installed; pip install 'rofo[cpu]'"),
        (("onnxruntime",), "onnxruntime", "onnxruntime is not installed; pip install 'rofo[ort]'"),
        (BACKENDS, "auto", "openvino or onnxruntime is not installed; pip install 'rofo[cpu]' or"),
    ],
)
def test_a_backend_that_is_not_installed(make_engine, without, hidden, backend, said):
    without(*hidden)
    assert said in refusal(make_engine(), backend=backend)


@pytest.mark.parametrize("backend", ["cuda", "OpenVINO", ""])
def test_an_unknown_backend_is_an_error_of_usage(make_engine, backend):
    with pytest.raises(
        UsageError, match=rf"no backend '{backend}'; choose auto or {', '.join(BACKEND_NAMES)}"
    ):
        Separator(make_engine(), backend=backend)
    with pytest.raises(SystemExit) as stop:
        main(["--engine", str(make_engine()), "mix.wav", "--backend", backend])
    assert stop.value.code == 2


def test_a_backend_for_other_files(make_engine):
    text = refusal(make_engine(), backend="tensorrt")
    offered = "openvino or onnxruntime or onnxruntime-cuda"
    assert text.endswith(f"backend tensorrt cannot run this file; use --backend {offered}")


def test_a_file_for_a_backend_of_later(make_engine):
    path = make_engine()
    manifest = path.with_suffix(".json")
    manifest.write_text(manifest.read_text().replace('"onnx"', '"later"'))
    assert refusal(path).endswith("backend for later files is not installed; install a newer rofo")


def test_an_engine_for_another_kind_of_backend(make_engine):
    path = make_engine()
    manifest = path.with_suffix(".json")
    manifest.write_text(manifest.read_text().replace('"onnx"', '"tensorrt"'))
    assert refusal(path, backend="openvino").endswith("cannot run this file; use --backend tensorrt")


def test_onnxruntime_on_another_provider_is_refused(make_engine, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda _: ["OtherProvider"])
    assert "OtherProvider" in refusal(make_engine(), backend="onnxruntime")


def test_onnxruntime_without_cuda_does_not_stand_in_for_it(make_engine, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert (
        "this ONNX Runtime has no CUDAExecutionProvider; pip uninstall onnxruntime, pip install"
        in refusal(make_engine(), backend="onnxruntime-cuda")
    )


def test_onnxruntime_on_cuda_is_never_chosen_by_itself_and_falls_back_to_nothing(
    make_engine, monkeypatch, capfd
):
    import onnxruntime

    asked = []

    def session(path, options, providers):
        asked.append((options.get_session_config_entry("session.disable_cpu_ep_fallback"), *providers))
        raise RuntimeError("no CUDA here")

    def preload():
        asked.append("preloaded")
        print("Failed to load libcublas.so")

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    text = refusal(make_engine(), backend="onnxruntime-cuda")
    assert text.endswith(
        "(no CUDA here); see that nvidia-smi lists the GPU, or use --backend openvino or onnxruntime"
    )
    # What pip installed of CUDA is found before the session asks for it, and is no result.
    assert asked == ["preloaded", ("1", ("CUDAExecutionProvider", {"use_tf32": "0"}))]
    assert capfd.readouterr().out == ""
    monkeypatch.undo()
    assert opened(make_engine()).backend == "openvino"


# Which precision


@pytest.mark.parametrize(
    ("capabilities", "parity", "precision"),
    [
        (("FP32", "BF16"), GOOD_BF16, "bf16"),
        (("FP32", "BF16"), BAD_BF16, "fp32"),
        (("FP32", "BF16"), (), "fp32"),
        (("FP32", "BF16"), (Parity("onnxruntime", "bf16", 90.0),), "fp32"),
        (("FP32",), GOOD_BF16, "fp32"),
    ],
)
def test_auto_takes_bf16_only_where_measured_and_supported(
    make_engine, processor, capabilities, parity, precision
):
    compiled = processor(*capabilities)
    assert opened(make_engine(parity=parity), backend="openvino").precision == precision
    assert compiled[0]["INFERENCE_PRECISION_HINT"] == {"fp32": "f32", "bf16": "bf16"}[precision]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_explicit_precision_is_taken_whatever_was_measured(make_engine, processor, precision):
    compiled = processor("FP32", "BF16")
    assert opened(make_engine(), precision=precision).precision == precision
    assert compiled[0]["INFERENCE_PRECISION_HINT"] == {"fp32": "f32", "bf16": "bf16"}[precision]


def test_bf16_is_refused_where_the_processor_has_none(make_engine, processor):
    processor("FP32")
    text = refusal(make_engine(parity=GOOD_BF16), precision="bf16")
    assert text.endswith("this processor has no bf16; use --precision fp32")


@pytest.mark.parametrize(("backend", "precision"), [("onnxruntime", "bf16"), (None, "fp16"), (None, "int8")])
def test_precisions_a_backend_does_not_have(make_engine, backend, precision):
    for name in [backend] if backend else BACKENDS:
        assert f"not {precision}" in refusal(make_engine(), backend=name, precision=precision)


def test_fp32_is_fp32_and_bf16_is_not(exported, snr_db):
    path = exported()
    shape = (1, 2, 126, 129, 2)
    mix = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * 10
    wanted = opened(path, backend="onnxruntime").run({"mix": mix})["stems"]
    got = opened(path, backend="openvino", precision="fp32").run({"mix": mix})["stems"]
    assert snr_db(wanted, got) > 100
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        got = opened(path, backend="openvino", precision="bf16").run({"mix": mix})["stems"]
        assert 30 < snr_db(wanted, got) < 90


@pytest.mark.parametrize(("threads", "options"), [(None, {}), (2, {"INFERENCE_NUM_THREADS": 2})])
def test_threads_reach_openvino(make_engine, processor, threads, options):
    compiled = processor("FP32")
    opened(make_engine(), threads=threads)
    given = {key: value for key, value in compiled[0].items() if key == "INFERENCE_NUM_THREADS"}
    assert given == options


def test_threads_reach_onnxruntime(make_engine, monkeypatch):
    import onnxruntime

    given = []
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, **more: given.append(options.intra_op_num_threads) or real(path, **more),
    )
    for threads in (None, 2):
        opened(make_engine(), backend="onnxruntime", threads=threads)
    assert given == [0, 2]


# Files that are not engines, though their hash fits


@pytest.fixture
def model(make_engine):
    """An engine and its model, for damaging."""
    path = make_engine()
    return path, onnx.load(path)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("content", [b"", bytes(1000), b"text " * 50, b"<?xml version='1.0'?><net/>", None])
def test_garbage(model, backend, content, capfd):
    path, good = model
    content = good.SerializeToString()[:-50] if content is None else content
    assert refusal(rewritten(path, content), backend=backend).endswith("export again with rofo-export")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_operator_nobody_knows(model, backend, capfd):
    path, graph = model
    graph.graph.node[-1].op_type = "Nonsense"
    assert "Nonsense" in refusal(rewritten(path, graph), backend=backend)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"channels": 1}, "its input is"),
        ({"batch": 2}, "its input is"),
        ({"chunk": 4064}, "its input is"),
        ({"stems": ("a", "b")}, "its output is"),
    ],
)
def test_shapes_that_contradict_the_manifest(make_engine, model, backend, change, said):
    path, _ = model
    other = make_engine(**change).read_bytes()
    text = refusal(rewritten(path, other), EngineMismatchError, backend=backend)
    assert said in text
    assert "(1, 2, 63, 129, 2)" in text or "(1, 1, 2, 63, 129, 2)" in text


@pytest.mark.parametrize("backend", BACKENDS)
def test_tensors_by_another_name_or_without_fixed_shape(model, backend):
    path, graph = model
    graph.graph.output[0].name = graph.graph.node[-1].output[0] = "sources"
    assert "sources" in refusal(rewritten(path, graph), EngineMismatchError, backend=backend)
    graph.graph.output[0].name = graph.graph.node[-1].output[0] = "stems"
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    refusal(rewritten(path, graph), EngineMismatchError, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_tensors_do_not_pass_for_floats(model, backend, song):
    path, graph = model
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    gains = next(tensor for tensor in graph.graph.initializer if tensor.name == "gains")
    gains.CopyFrom(
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(gains).astype(np.float16), "gains")
    )
    with pytest.raises(EngineRunError, match="float"):
        Separator(rewritten(path, graph), backend=backend).separate(song(100), 44100)


# Weights in a file of their own


def external(path, graph, location):
    """Move the gains to a file that the graph calls `location`."""
    gains = next(tensor for tensor in graph.graph.initializer if tensor.name == "gains")
    raw = onnx.numpy_helper.to_array(gains).tobytes()
    gains.ClearField("float_data")
    gains.ClearField("raw_data")
    gains.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(raw)))):
        entry = gains.external_data.add()
        entry.key, entry.value = key, value
    return rewritten(path, graph), raw


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_beside_the_engine_are_read(model, backend):
    path, raw = external(*model, "half.onnx.data")
    path.with_name("half.onnx.data").write_bytes(raw)
    mix = np.ones((1, 2, 63, 129, 2), np.float32)
    np.testing.assert_array_equal(
        opened(path, backend=backend).run({"mix": mix})["stems"], np.full((1, 1, *mix.shape[1:]), 0.5)
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("location", ["../secret", "{absolute}", "sub/../../secret", "link", "missing"])
def test_weights_from_anywhere_else_are_refused(model, backend, location, tmp_path):
    path, graph = model
    secret = path.parent.parent / "secret"
    path, raw = external(path, graph, location.format(absolute=secret))
    secret.write_bytes(raw)
    path.with_name("link").symlink_to(secret)
    assert refusal(path, backend=backend).endswith("export again with rofo-export")


# All errors of opening are of one tree


def test_every_error_is_a_rofo_error_with_exit_code_4(make_engine):
    path = make_engine()
    assert issubclass(ManifestError, EngineLoadError)
    for kind in (EngineLoadError, EngineMismatchError, ManifestError):
        assert issubclass(kind, RofoError)
        assert kind.exit_code == 4
    path.with_suffix(".json").unlink()
    with pytest.raises(EngineLoadError):
        load_manifest(path)


def test_hashes_are_checked_before_anything_is_loaded(make_engine, monkeypatch):
    path = make_engine()
    path.write_bytes(path.read_bytes() + b"\0")

    def never(*_):
        raise AssertionError("loaded")

    monkeypatch.setattr(OpenVinoEngine, "__init__", never)
    assert "sha256 differs" in refusal(path, EngineMismatchError)


# Networks with a time branch


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("batch", [1, 3])
def test_waveforms_are_added_to_the_inverse_of_the_stems(make_engine, song, snr_db, backend, channels, batch):
    """Both branches halve the first stem and quarter the second."""
    mix = song(30_001, channels)
    path = make_engine(stems=("vocals", "drums"), residual=None, batch=batch, time_branch=True)
    with Separator(path, backend=backend) as separator:
        stems = separator.separate(mix, 44100)
    assert snr_db(mix, stems["vocals"]) > 100
    assert snr_db(0.5 * mix, stems["drums"]) > 100


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_branch_that_the_manifest_does_not_list_is_refused(make_engine, backend):
    path, other = make_engine(), make_engine(time_branch=True)
    rewritten(path, other.read_bytes())
    assert "waveform" in refusal(path, EngineMismatchError, backend=backend)
    rewritten(other, make_engine().read_bytes())
    assert "waveform" in refusal(other, EngineMismatchError, backend=backend)


# The registry


@pytest.mark.parametrize("name", BACKEND_NAMES)
def test_a_line_of_the_registry_names_an_engine_that_is_there(name):
    engine = resolve_name(BACKENDS_OF_ROFO[name].engine)
    assert {"run", "close", "in_flight"} <= set(dir(engine))


class ToyEngine:
    """An engine of the tests' own: every stem is the mix at a third."""

    backend, device, precision, in_flight, healthy = "toy", "cpu", "fp32", 1, True

    def __init__(self, source, settings):
        assert source.content == source.path.read_bytes()
        self.batch, self.count, self.threads = (
            source.entry.batch,
            len(source.manifest.stems),
            settings.threads,
        )

    def run(self, inputs):
        return {"stems": np.repeat(inputs["mix"][:, None] / np.float32(3), self.count, axis=1)}

    def close(self):
        pass


def test_a_backend_is_a_file_and_a_line(make_engine, song, snr_db, monkeypatch, tmp_path):
    toy = Backend("Toy", f"{__name__}:ToyEngine", "toy", "json", "rofo[toy]", ("fp32",), from_memory=True)
    monkeypatch.setitem(BACKENDS_OF_ROFO, "toy", toy)
    path = make_engine(batch=2)
    path.with_suffix(".json").write_text(path.with_suffix(".json").read_text().replace('"onnx"', '"toy"'))
    soundfile.write(tmp_path / "mix.wav", song(9000).T, 44100, "FLOAT")
    for options in ({}, {"backend": "toy", "threads": 3}):
        with Separator(path, **options) as separator:
            assert (separator.backend, separator.precision) == ("toy", "fp32")
            paths = separator.separate_file(tmp_path / "mix.wav", tmp_path / "out")
            assert snr_db(song(9000) / 3, soundfile.read(paths["vocals"], dtype="float32")[0].T) > 100
    assert "cannot run this file; use --backend toy" in refusal(path, backend="openvino")
