"""From a checkpoint to engine files: all of them verified and in place, or none."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import numpy_helper
from oracle import Oracle

from rofo.engines import EngineSettings, open_engine
from rofo.errors import EngineLoadError, OutputWriteError, ParityError, UsageError
from rofo.export import exporter, onnx_graph, roformer_graphs, verify
from rofo.export.cli import main
from rofo.export.exporter import export
from rofo.manifest import file_sha256, load_manifest

NAMES = ["tiny.json", "tiny.onnx"]
OLDER = {"tiny.onnx": b"older engine", "tiny.onnx.data": b"older weights", "tiny.json": b"older manifest"}


def listed(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def untraced(exported, monkeypatch):
    """Tracing takes seconds: take the graph of the session's export instead, changed if a test wants it."""
    source = exported()

    def use(change=None):
        def write(network, shape, path):
            model = onnx.load(source)
            assert shape == tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
            if change:
                change(model.graph)
            onnx.save(model, path)

        monkeypatch.setattr(roformer_graphs, "write_onnx", write)

    use()
    return use


@pytest.fixture
def attempt(checkpoint, tmp_path):
    """Export the tiny checkpoint to tmp_path/out/tiny."""

    def run(**options):
        return export(checkpoint[0], config=checkpoint[1], output=tmp_path / "out" / "tiny", **options)

    return run


@pytest.fixture
def older(tmp_path):
    """Outputs of an earlier export; the folder."""
    folder = tmp_path / "out"
    folder.mkdir()
    for name, content in OLDER.items():
        (folder / name).write_bytes(content)
    return folder


def assert_untouched(folder):
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == OLDER


# What is written


def test_an_engine_and_its_manifest_are_written(exported, checkpoint):
    path = exported()
    manifest = load_manifest(path)
    assert listed(path.parent) == NAMES
    assert (manifest.name, manifest.architecture) == ("tiny", "bs_roformer")
    assert (manifest.stems, manifest.residual) == (("vocals",), "instrumental")
    assert (manifest.sample_rate, manifest.channels, manifest.chunk.samples) == (44100, 2, 8000)
    assert (manifest.stft.n_fft, manifest.stft.hop_length, manifest.chunk.frames) == (256, 64, 126)
    assert manifest.overlap_add.overlap == 0.5
    assert manifest.source.checkpoint_sha256 == file_sha256(checkpoint[0])
    assert manifest.source.config == yaml.safe_load(checkpoint[1].read_text())
    (entry,) = manifest.engines
    assert (entry.sha256, entry.data, entry.batch) == (file_sha256(path), None, 1)
    assert manifest.snr_db("openvino", "fp32") > 100


def test_the_report_names_the_files_and_the_stages_are_told(untraced, attempt, tmp_path):
    stages = []
    report = attempt(stage=stages.append)
    assert [path.name for path in report.files] == ["tiny.onnx", "tiny.json"]
    assert all(path.parent == tmp_path / "out" for path in report.files)
    assert report.manifest == load_manifest(report.files[0])
    assert [stage.split()[0] for stage in stages] == ["reading", "building", "writing", "running", "running"]


def test_the_default_output_is_beside_the_checkpoint(untraced, checkpoint, tmp_path):
    for path in checkpoint:
        shutil.copy(path, tmp_path)
    report = export(tmp_path / "model.ckpt", config=tmp_path / "model.yaml", check=False)
    assert [path.name for path in report.files] == ["model.onnx", "model.json"]
    assert listed(tmp_path) == ["model.ckpt", "model.json", "model.onnx", "model.yaml"]


def test_a_new_export_replaces_an_older_one(untraced, attempt, older):
    attempt()
    assert load_manifest(older / "tiny.onnx").engines[0].sha256 == file_sha256(older / "tiny.onnx")
    assert listed(older) == ["tiny.json", "tiny.onnx"]  # older weights belong to nothing now


def test_large_weights_go_to_a_file_of_their_own(exported, checkpoint, tmp_path, monkeypatch, snr_db):
    monkeypatch.setattr(onnx_graph, "INLINE_BYTES", 1000)
    sizes = []
    for _ in range(2):  # a second time over the first: saving must not append
        report = export(checkpoint[0], config=checkpoint[1], output=tmp_path / "tiny", check=False)
        sizes.append((tmp_path / "tiny.onnx.data").stat().st_size)
    assert [path.name for path in report.files] == ["tiny.onnx.data", "tiny.onnx", "tiny.json"]
    assert sizes[0] == sizes[1] > (tmp_path / "tiny.onnx").stat().st_size
    manifest = load_manifest(tmp_path / "tiny.onnx")
    (entry,) = manifest.engines
    assert (entry.data, entry.data_sha256) == ("tiny.onnx.data", file_sha256(tmp_path / "tiny.onnx.data"))

    mix, inline = verify.loud_chunk(manifest), exported()
    for backend in ("openvino", "onnxruntime"):
        stems = [
            open_engine(path, load_manifest(path), EngineSettings(backend, "fp32")).run({"mix": mix})["stems"]
            for path in (inline, tmp_path / "tiny.onnx")
        ]
        assert snr_db(*stems) > 120


def test_pope_whose_q_and_k_are_wider_than_v_is_exported(tmp_path):
    checkpoint, config = Oracle("bs_roformer", {"depth": 1, "dim": 16, "use_pope": True}).write(tmp_path)
    report = export(checkpoint, config=config)
    assert report.manifest.snr_db("openvino", "fp32") > 100


def test_files_tell_nothing_about_the_machine(exported, checkpoint):
    path = exported()
    private = [Path.cwd(), Path.home(), Path(sys.prefix), Path(torch.__file__).parent, checkpoint[0].parent]
    private += [exporter.__file__, "site-packages", ".py"]
    for file in (path, path.with_suffix(".json")):
        content = file.read_bytes()
        assert not [text for text in map(str, private) if len(text) > 1 and text.encode() in content]


# When it fails, nothing changes


def interrupted(*_, **__):
    raise KeyboardInterrupt


def disk_full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def wrong(*_, **__):
    raise ParityError("tiny: wrong")


FAILURES = [
    ("rofo.export.roformer_graphs.write_onnx", disk_full, OutputWriteError),
    ("rofo.export.roformer_graphs.write_onnx", interrupted, KeyboardInterrupt),
    ("rofo.export.verify.reference", interrupted, KeyboardInterrupt),
    ("rofo.export.verify.verify", wrong, ParityError),
    ("rofo.export.verify.verify", interrupted, KeyboardInterrupt),
    ("rofo.export.staging.os.fsync", disk_full, OutputWriteError),
    ("rofo.export.exporter.Manifest.to_json", disk_full, OutputWriteError),
]


@pytest.mark.parametrize(("place", "failure", "error"), FAILURES)
def test_a_failure_leaves_no_file_and_older_ones_as_they_were(
    untraced, attempt, older, monkeypatch, place, failure, error
):
    monkeypatch.setattr(place, failure)
    with pytest.raises(error):
        attempt()
    assert_untouched(older)
    shutil.rmtree(older)
    with pytest.raises(error):
        attempt()
    assert not older.exists() or listed(older) == []


@pytest.mark.parametrize("failure", [disk_full, interrupted])
def test_a_failure_between_two_moves_puts_the_older_files_back(
    untraced, attempt, older, tmp_path, monkeypatch, failure
):
    real = Path.replace
    for calls in range(
        1, 5
    ):  # an older engine aside, the new one in, an older manifest aside, the new one in
        left = [calls]

        def replaced(self, target, left=left):
            left[0] -= 1
            if left[0] == 0:
                failure()
            return real(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replaced)
            with pytest.raises((OutputWriteError, KeyboardInterrupt)):
                attempt(check=False)
        assert left[0] <= 0
        assert_untouched(older)


def test_a_folder_in_the_place_of_an_output_stays(untraced, attempt, older):
    (older / "tiny.json").unlink()
    (older / "tiny.json").mkdir()
    (older / "tiny.json" / "precious").write_bytes(b"data")
    with pytest.raises(OutputWriteError, match=r"tiny: could not write \(tiny.json is a directory\)"):
        attempt(check=False)
    assert (older / "tiny.onnx").read_bytes() == b"older engine"
    assert (older / "tiny.json" / "precious").exists()


def test_a_file_in_the_place_of_the_folder(untraced, attempt, tmp_path):
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(OutputWriteError, match="give --output a folder") as caught:
        attempt()
    assert "\n" not in str(caught.value)
    assert listed(tmp_path) == ["out"]


def test_impossible_batches_and_outputs_are_usage_errors(checkpoint, tmp_path):
    with pytest.raises(UsageError, match="batch is 0"):
        export(checkpoint[0], batch=0)
    for output in (tmp_path / "..", "", "/"):
        with pytest.raises(UsageError, match="not a name for the engine"):
            export(checkpoint[0], config=checkpoint[1], output=output)


# The gate


def weight(graph, number):
    """The nth initializer that holds floats of more than one dimension, largest first."""
    tensors = [t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1]
    return sorted(tensors, key=lambda tensor: -np.prod(tensor.dims))[number]


def altered(number, change):
    def apply(graph):
        tensor = weight(graph, number)
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), tensor.name))

    return apply


def poisoned(array):
    array.flat[0] = np.nan
    return array


def with_a_hum(graph):
    """Add a small number to the result: harmless on loud music, a sound in silence."""
    (last,) = [node for node in graph.node if "stems" in node.output]
    last.output[0] = "quiet"
    graph.initializer.append(numpy_helper.from_array(np.float32(1e-6), "hum"))
    graph.node.append(onnx.helper.make_node("Add", ["quiet", "hum"], ["stems"]))


@pytest.mark.parametrize("number", range(6))
def test_a_graph_with_other_weights_is_refused(untraced, attempt, older, number):
    untraced(altered(number, lambda array: array * np.float32(1.02)))
    with pytest.raises(ParityError, match=r"tiny: openvino in fp32 is \d+\.\d dB from the network"):
        attempt()
    assert_untouched(older)


def test_a_graph_that_gives_nan_is_refused(untraced, attempt, older):
    untraced(altered(0, poisoned))
    with pytest.raises(ParityError):
        attempt()
    assert_untouched(older)


def test_a_graph_that_hums_in_silence_is_refused(untraced, attempt, older):
    untraced(with_a_hum)
    with pytest.raises(ParityError, match="turns silence into sound"):
        attempt()
    assert_untouched(older)


def test_a_network_that_gives_nan_is_refused(untraced, attempt, older, monkeypatch):
    monkeypatch.setattr(roformer_graphs, "run_network", lambda network, mix: torch.full((1, 1), torch.nan))
    with pytest.raises(ParityError, match="the network itself gives non-finite samples"):
        attempt()
    assert_untouched(older)


def test_without_a_backend_only_no_verify_goes_on(untraced, attempt, monkeypatch):
    monkeypatch.setattr("rofo.export.verify.find_spec", lambda _: None)
    with pytest.raises(EngineLoadError, match="--no-verify"):
        attempt()
    assert attempt(check=False).manifest.parity == ()


def test_bf16_is_measured_but_never_gated(untraced, attempt, monkeypatch):
    real = verify.open_engine

    def opened(path, manifest, settings):
        if settings.precision == "bf16":
            raise EngineLoadError("no bf16 here")
        return real(path, manifest, settings)

    monkeypatch.setattr(verify, "open_engine", opened)
    assert [(p.backend, p.precision) for p in attempt().manifest.parity] == [("openvino", "fp32")]

    class Worst:
        backend, precision, batch = "openvino", "bf16", 1

        def run(self, inputs):
            return {"stems": np.full((1, 1, *inputs["mix"].shape[1:]), np.nan, np.float32)}

        def close(self):
            pass

    def worst(path, manifest, settings):
        return Worst() if settings.precision == "bf16" else real(path, manifest, settings)

    monkeypatch.setattr(verify, "open_engine", worst)
    manifest = attempt().manifest
    assert manifest.snr_db("openvino", "bf16") == -200
    assert "NaN" not in manifest.to_json()


def test_the_test_signal_is_loud_fixed_and_of_the_engines_shape(exported):
    manifest = load_manifest(exported())
    mix = verify.loud_chunk(manifest)
    assert (mix.shape, mix.dtype) == ((1, 2, 126, 129, 2), np.float32)
    np.testing.assert_array_equal(mix, verify.loud_chunk(manifest))
    assert np.abs(mix).max() > 10
    assert (np.abs(mix).max(axis=(0, 1, 2, 4)) > 0.1).all()  # every bin is heard


def test_snr_is_finite_whatever_is_compared():
    one, zero = np.ones(10, np.float32), np.zeros(10, np.float32)
    assert verify.snr_db(one, one) == verify.snr_db(zero, zero) == 200
    assert verify.snr_db(zero, one) == -200
    assert verify.snr_db(one, zero) == 0
    assert verify.snr_db(one, one * np.float32(1.1)) == pytest.approx(20, abs=1e-4)


# rofo-export


@pytest.fixture
def run(capfd, tmp_path, monkeypatch):
    """Call the tool in this process and folder, no plan builder installed; its lines on stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rofo.export.cli.find_spec", lambda _: None)

    def call(*arguments, status=0):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert stop.value.code == status, err
        assert "Traceback" not in err
        return out.splitlines(), err.splitlines()

    return call


@pytest.fixture
def refused(run, tmp_path):
    """The error line of a call that fails; nothing may be left behind."""

    def call(*arguments, status=4):
        before = sorted(tmp_path.rglob("*"))
        out, err = run(*arguments, status=status)
        assert out == []
        (line,) = [
            line for line in err if not line.startswith(("reading ", "building ", "writing ", "running "))
        ]
        assert sorted(tmp_path.rglob("*")) == before
        assert line.startswith("error: ")
        return line.removeprefix("error: ")

    return call


def test_the_tool_exports_and_prints_the_files(untraced, run, checkpoint):
    out, err = run(checkpoint[0], "--config", checkpoint[1], "--output", "out/tiny")
    assert out == ["out/tiny.onnx", "out/tiny.json"]
    assert any(line.startswith("openvino fp32: ") and "dB from the network" in line for line in err)
    assert json.loads(Path("out/tiny.json").read_text())["parity"][0]["snr_db"] > 100


def test_no_verify_says_so(untraced, run, checkpoint):
    _, err = run(checkpoint[0], "--config", checkpoint[1], "--output", "tiny", "--no-verify")
    assert err[-1] == "not verified: --no-verify"
    assert load_manifest("tiny.onnx").parity == ()


def test_what_is_no_checkpoint_is_4(refused, checkpoint, tmp_path):
    assert refused("none.ckpt").startswith("none.ckpt: No such file")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    for name, content, said in (
        ("lfs.ckpt", pointer, "git-lfs pointer"),
        ("page.ckpt", b"<!DOCTYPE html><html>", "web page"),
        ("empty.ckpt", b"", "an empty file"),
        ("cut.ckpt", checkpoint[0].read_bytes()[:-1000], "cut short"),
    ):
        (tmp_path / name).write_bytes(content)
        line = refused(name)
        assert line.startswith(f"{name}: ")
        assert said in line


def test_weights_that_are_not_finite_are_4(refused, checkpoint, tmp_path):
    state = torch.load(checkpoint[0], weights_only=True)
    state["final_norm.gamma"][3] = torch.inf
    torch.save(state, tmp_path / "inf.ckpt")
    assert "weights not finite: final_norm.gamma" in refused("inf.ckpt", "--config", checkpoint[1])


def test_a_yaml_that_does_not_fit_is_4(refused, checkpoint, tmp_path):
    config = yaml.safe_load(checkpoint[1].read_text())
    config["model"]["dim"] = 99
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(config))
    line = refused(checkpoint[0], "--config", "wrong.yaml")
    assert line.startswith("wrong.yaml: does not fit model.ckpt: dim is 99 but 16 in the weights")
    assert refused(checkpoint[0], "--config", "none.yaml").startswith("none.yaml: No such file")


def test_facts_that_nobody_supplied_are_4_and_name_their_options(refused, checkpoint):
    line = refused(checkpoint[0])
    for option in ("--hop-length", "--sample-rate", "--chunk", "--stems", "--config"):
        assert option in line


def test_facts_may_come_from_the_command_line(untraced, run, checkpoint):
    options = ("--hop-length", "64", "--sample-rate", "44100", "--chunk", 8000 / 44100, "--stems", "vocals")
    run(checkpoint[0], *options, "--output", "tiny", "--no-verify")
    assert load_manifest("tiny.onnx").source.config["command_line"]["stems"] == ["vocals"]


def test_a_failed_gate_is_5(untraced, refused, checkpoint, monkeypatch):
    monkeypatch.setattr("rofo.export.verify.verify", wrong)
    line = refused(checkpoint[0], "--config", checkpoint[1], "--output", "tiny", status=5)
    assert line == "tiny: wrong"


def test_what_cannot_be_written_is_6(untraced, refused, checkpoint, tmp_path):
    (tmp_path / "out").write_text("in the way")
    line = refused(checkpoint[0], "--config", checkpoint[1], "--output", "out/tiny", status=6)
    assert line.startswith("out/tiny: could not write (")


def test_usage_errors_are_2(run, checkpoint, tmp_path):
    for arguments in ([], [checkpoint[0], "--nonsense"], [checkpoint[0], "--batch", "0"]):
        assert run(*arguments, status=2)[1][-1].startswith("Error: ")
    assert listed(tmp_path) == []


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["--nonsense"]])
def test_help_does_not_load_torch(arguments):
    code = f"""
import sys
from rofo.export.cli import main
try:
    main({arguments!r})
finally:
    print([name for name in ("torch", "onnx", "numpy", "yaml") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == (2 if arguments == ["--nonsense"] else 0)
    assert done.stdout.splitlines()[-1] == "[]"
