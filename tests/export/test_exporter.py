"""From a checkpoint to engine files: all of them verified and in place, or none."""

import dataclasses
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
from onnx import numpy_helper
from toy import GIVEN, Equaliser, write

import rofo.export.export as path_of_a_checkpoint
from rofo.audio.parts import alone_in
from rofo.engines import EngineSettings, open_engine
from rofo.errors import EngineLoadError, OutputWriteError, UsageError
from rofo.export import CheckpointError, ExportOptions, ParityError, export_checkpoint
from rofo.export.cli import main
from rofo.export.graph import gates, trace
from rofo.manifest import file_sha256, load_manifest

OLDER = {"toy.onnx": b"older engine", "toy.onnx.data": b"older weights", "toy.json": b"older manifest"}


def listed(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def attempt(toy_checkpoint, tmp_path):
    """Export the toy's checkpoint to tmp_path/out/toy."""

    def run(stage=lambda _: None, **options):
        chosen = ExportOptions(output=tmp_path / "out" / "toy", given=GIVEN)
        return export_checkpoint(toy_checkpoint, dataclasses.replace(chosen, **options), stage)

    return run


@pytest.fixture
def older(tmp_path):
    """Outputs of an earlier export; the folder."""
    folder = tmp_path / "out"
    folder.mkdir()
    for name, content in OLDER.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def altered(monkeypatch):
    """Change the graph after it was traced."""
    real = path_of_a_checkpoint.write_onnx

    def use(change):
        def written(network, tensors, path, **options):
            data = real(network, tensors, path, **options)
            model = onnx.load(path)
            change(model.graph)
            onnx.save(model, path)
            return data

        monkeypatch.setattr(path_of_a_checkpoint, "write_onnx", written)

    return use


def assert_untouched(folder):
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == OLDER


# What is written


def test_an_engine_and_its_manifest_are_written(exported, checkpoint):
    path = exported()
    manifest = load_manifest(path)
    assert listed(path.parent) == ["tiny.json", "tiny.onnx"]
    assert (manifest.name, manifest.architecture) == ("tiny", "bs_roformer")
    assert (manifest.stems, manifest.residual) == (("vocals",), "instrumental")
    assert (manifest.sample_rate, manifest.channels, manifest.chunk.samples) == (44100, 2, 8000)
    assert (manifest.stft.n_fft, manifest.stft.hop_length, manifest.chunk.frames) == (256, 64, 126)
    assert manifest.overlap_add.overlap == 0.5
    assert manifest.source.checkpoint_sha256 == file_sha256(checkpoint[0])
    (entry,) = manifest.engines
    assert (entry.sha256, entry.data, entry.batch) == (file_sha256(path), None, 1)
    assert manifest.snr_db("openvino", "fp32") > 100


def test_the_report_names_the_files_and_the_stages_are_told(attempt, tmp_path):
    stages = []
    report = attempt(stages.append)
    assert [path.name for path in report.files] == ["toy.onnx", "toy.json"]
    assert all(path.parent == tmp_path / "out" for path in report.files)
    assert report.manifest == load_manifest(report.files[0])
    assert [stage.split()[0] for stage in stages] == ["reading", "building", "running", "writing", "running"]


def test_the_default_output_is_beside_the_checkpoint(toy_checkpoint):
    export_checkpoint(toy_checkpoint, ExportOptions(given=GIVEN, verify=False))
    assert listed(toy_checkpoint.parent) == ["toy.json", "toy.onnx", "toy.pt"]


def test_a_new_export_replaces_an_older_one(attempt, older):
    attempt()
    assert load_manifest(older / "toy.onnx").engines[0].sha256 == file_sha256(older / "toy.onnx")
    assert listed(older) == ["toy.json", "toy.onnx"]  # older weights belong to nothing now


def test_large_weights_go_to_a_file_of_their_own(attempt, monkeypatch, tmp_path, snr_db):
    attempt(output=tmp_path / "inline" / "toy", verify=False)
    monkeypatch.setattr(trace, "INLINE_BYTES", 100)
    sizes = []
    for _ in range(2):  # a second time over the first: saving must not append
        report = attempt(verify=False)
        sizes.append((tmp_path / "out" / "toy.onnx.data").stat().st_size)
    assert [path.name for path in report.files] == ["toy.onnx.data", "toy.onnx", "toy.json"]
    assert sizes[0] == sizes[1] > 0
    (entry,) = load_manifest(report.files[1]).engines
    assert (entry.data, entry.data_sha256) == ("toy.onnx.data", file_sha256(tmp_path / "out/toy.onnx.data"))
    paths = [tmp_path / folder / "toy.onnx" for folder in ("inline", "out")]
    inputs = gates.loud_chunk(load_manifest(paths[0]))
    for backend in ("openvino", "onnxruntime"):
        stems = [
            open_engine(path, load_manifest(path), EngineSettings(backend, "fp32")).run(inputs)["stems"]
            for path in paths
        ]
        assert snr_db(*stems) > 120


def test_files_tell_nothing_about_the_machine(attempt, toy_checkpoint):
    report = attempt(verify=False)
    private = [Path.cwd(), Path.home(), Path(sys.prefix), Path(torch.__file__).parent, toy_checkpoint.parent]
    private += [path_of_a_checkpoint.__file__, "site-packages", ".py"]
    for file in report.files:
        content = file.read_bytes()
        assert not [text for text in map(str, private) if len(text) > 1 and text.encode() in content]


# When it fails, nothing changes


def interrupted(*_, **__):
    raise KeyboardInterrupt


def disk_full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def wrong(*_, **__):
    raise ParityError("toy: wrong")


FAILURES = [
    ("rofo.export.export.write_onnx", disk_full, OutputWriteError),
    ("rofo.export.export.write_onnx", interrupted, KeyboardInterrupt),
    ("rofo.export.export.reference", interrupted, KeyboardInterrupt),
    ("rofo.export.export.check_engine", wrong, ParityError),
    ("rofo.export.export.check_engine", interrupted, KeyboardInterrupt),
    ("rofo.export.staging.os.fsync", disk_full, OutputWriteError),
    ("rofo.export.export.Manifest.to_json", disk_full, OutputWriteError),
]


@pytest.mark.parametrize(("place", "failure", "error"), FAILURES)
def test_a_failure_leaves_no_file_and_older_ones_as_they_were(
    attempt, older, monkeypatch, place, failure, error
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
@pytest.mark.parametrize("calls", [1, 2])  # the new engine, the new manifest
def test_a_failure_between_two_moves_puts_the_older_files_back(attempt, older, monkeypatch, failure, calls):
    real, left = Path.replace, [calls]

    def replaced(self, target):
        assert target.exists()  # a kill at any moment leaves one or the other
        left[0] -= 1
        if left[0] == 0:
            failure()
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replaced)
        with pytest.raises((OutputWriteError, KeyboardInterrupt)):
            attempt(verify=False)
    assert left[0] <= 0
    assert_untouched(older)


def test_what_a_killed_export_left_goes_with_the_next_and_that_of_a_running_one_stays(attempt, older):
    for name in ("dead", "alive"):
        (older / f".rofo-{name}.part").mkdir()
        (older / f".rofo-{name}.part" / "toy.onnx").write_bytes(b"half")
    with alone_in(older / ".rofo-alive.part"):
        attempt(verify=False)
    assert {path.name for path in older.glob(".*")} == {".rofo-alive.part"}
    assert (older / ".rofo-alive.part" / "toy.onnx").exists()


def test_a_folder_in_the_place_of_an_output_stays(attempt, older):
    (older / "toy.json").unlink()
    (older / "toy.json").mkdir()
    (older / "toy.json" / "precious").write_bytes(b"data")
    with pytest.raises(OutputWriteError, match=r"toy: could not write \(toy.json is a directory\)"):
        attempt(verify=False)
    assert (older / "toy.onnx").read_bytes() == b"older engine"
    assert (older / "toy.json" / "precious").exists()


def test_a_file_in_the_place_of_the_folder(attempt, tmp_path):
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(OutputWriteError, match="give --output a folder") as caught:
        attempt()
    assert "\n" not in str(caught.value)
    assert (tmp_path / "out").read_text() == "in the way"


def test_a_checkpoint_that_cannot_be_read_is_not_a_failure_to_write(toy_checkpoint, monkeypatch):
    def unreadable(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "open", unreadable)
    with pytest.raises(CheckpointError, match="Input/output error"):
        export_checkpoint(toy_checkpoint, ExportOptions(given=GIVEN))


def test_impossible_batches_and_outputs_are_usage_errors(toy_checkpoint, tmp_path):
    with pytest.raises(UsageError, match="batch is 0"):
        export_checkpoint(toy_checkpoint, ExportOptions(batch=0))
    for output in (tmp_path / "..", Path(), Path("/")):
        with pytest.raises(UsageError, match="not a name for the engine"):
            export_checkpoint(toy_checkpoint, ExportOptions(output=output))


# A second export to the same name


def test_another_target_of_the_same_checkpoint_is_added(attempt, tmp_path):
    from rofo import Separator
    from rofo.export import PlanOptions

    attempt(verify=False)
    attempt(onnx=False, plan=PlanOptions(batch=1), verify=False)
    manifest = load_manifest(tmp_path / "out" / "toy.plan")
    assert sorted(entry.file for entry in manifest.engines) == ["toy.onnx", "toy.plan"]
    with Separator(tmp_path / "out" / "toy.onnx") as separator:
        assert separator.stems == ("voice", "residual")


def test_the_engines_of_another_checkpoint_are_not_kept(attempt, toy_checkpoint, tmp_path):
    from rofo.export import PlanOptions

    attempt(verify=False)
    write(toy_checkpoint, gain=0.25)
    attempt(onnx=False, plan=PlanOptions(batch=1), verify=False)
    (entry,) = load_manifest(tmp_path / "out" / "toy.plan").engines
    assert entry.file == "toy.plan"


# The gate


def with_gains(change):
    def apply(graph):
        (tensor,) = [t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT and 65 in t.dims]
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), tensor.name))

    return apply


def poisoned(array):
    array.flat[0] = np.nan
    return array


def with_a_hum(graph):
    """Add a small number to the result: harmless on loud music, a sound in silence."""
    (last,) = [node for node in graph.node if "stems" in node.output]
    last.output[0] = "quiet"
    graph.initializer.append(numpy_helper.from_array(np.float32(1e-14), "hum"))
    graph.node.append(onnx.helper.make_node("Add", ["quiet", "hum"], ["stems"]))


def with_a_leak(graph):
    """What an inexact transform leaves where silence should be 0."""
    (last,) = [node for node in graph.node if "stems" in node.output]
    last.output[0] = "clean"
    graph.initializer.append(numpy_helper.from_array(np.float32(4e-7), "leak"))
    graph.node.append(onnx.helper.make_node("Add", ["clean", "leak"], ["stems"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_gains(lambda gains: gains * np.float32(1.02)), r"34\.0 dB from the network on loud music"),
        (with_gains(poisoned), "non-finite samples on loud music"),
        (with_a_hum, "turns silence into sound"),
    ],
)
def test_a_graph_that_is_wrong_is_refused(attempt, older, altered, change, message):
    altered(change)
    with pytest.raises(ParityError, match=message):
        attempt()
    assert_untouched(older)


def test_what_leaks_into_quiet_music_is_refused_of_a_network_that_may_hum(attempt, toy, altered, monkeypatch):
    monkeypatch.setattr(toy, "keeps_silence", lambda _: False)
    altered(with_a_leak)
    with pytest.raises(ParityError, match="dB from the network on music at 1e-6, the gate is 70 dB"):
        attempt()


def test_silence_is_measured_of_every_engine(attempt, toy, monkeypatch):
    assert attempt().manifest.keeps_silence("openvino", "fp32")
    monkeypatch.setattr(Equaliser, "forward", lambda self, mix: (mix + self.gains[0]).unsqueeze(1))
    monkeypatch.setattr(toy, "keeps_silence", lambda _: False)
    manifest = attempt().manifest
    assert manifest.snr_db("openvino", "fp32") > 70
    assert not manifest.keeps_silence("openvino", "fp32")


def test_a_network_that_gives_nan_is_refused(attempt, older, toy, monkeypatch):
    monkeypatch.setattr(toy, "original", lambda *_: lambda _: {"stems": np.full((1, 1), np.nan)})
    with pytest.raises(ParityError, match="the network itself gives non-finite samples on loud music"):
        attempt()
    assert_untouched(older)


def test_without_a_backend_only_no_verify_goes_on(attempt, monkeypatch):
    monkeypatch.setattr("rofo.export.graph.gates.find_spec", lambda _: None)
    with pytest.raises(EngineLoadError, match="--no-verify"):
        attempt()
    assert attempt(verify=False).manifest.parity == ()


def test_bf16_is_measured_but_never_gated(attempt, monkeypatch):
    real = gates.open_engine

    def opened(path, manifest, settings):
        if settings.precision == "bf16":
            raise EngineLoadError("no bf16 here")
        return real(path, manifest, settings)

    monkeypatch.setattr(gates, "open_engine", opened)
    assert [(p.backend, p.precision) for p in attempt().manifest.parity] == [("openvino", "fp32")]

    class Worst:
        backend, precision, batch = "openvino", "bf16", 1

        def run(self, inputs):
            return {"stems": np.full((1, 1, *inputs["mix"].shape[1:]), np.nan, np.float32)}

        def close(self):
            pass

    def worst(path, manifest, settings):
        return Worst() if settings.precision == "bf16" else real(path, manifest, settings)

    monkeypatch.setattr(gates, "open_engine", worst)
    manifest = attempt().manifest
    assert manifest.snr_db("openvino", "bf16") == -200
    assert "NaN" not in manifest.to_json()


def test_the_test_signal_is_loud_fixed_and_of_the_engines_shape(exported):
    manifest = load_manifest(exported())
    mix = gates.loud_chunk(manifest)["mix"]
    assert (mix.shape, mix.dtype) == ((1, 2, 126, 129, 2), np.float32)
    np.testing.assert_array_equal(mix, gates.loud_chunk(manifest)["mix"])
    assert np.abs(mix).max() > 10
    assert (np.abs(mix).max(axis=(0, 1, 2, 4)) > 0.1).all()  # every bin is heard


def test_snr_is_finite_whatever_is_compared():
    one, zero = np.ones(10, np.float32), np.zeros(10, np.float32)
    assert gates.snr_db(one, one) == gates.snr_db(zero, zero) == 200
    assert gates.snr_db(zero, one) == -200
    assert gates.snr_db(one, zero) == 0
    assert gates.snr_db(one, one * np.float32(1.1)) == pytest.approx(20, abs=1e-4)


# rofo-export

OPTIONS = ("--sample-rate", "44100", "--chunk", "0.1", "--stems", "voice")


@pytest.fixture
def run(toy, capfd, tmp_path, monkeypatch):
    """Call the tool in this process and folder, no plan builder installed; its lines on stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rofo.export.cli.find_spec", lambda _: None)
    write(tmp_path / "toy.pt")

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


def test_the_tool_exports_and_prints_the_files(run):
    out, err = run("toy.pt", *OPTIONS, "--output", "out/toy")
    assert out == ["out/toy.onnx", "out/toy.json"]
    assert any(line.startswith("openvino fp32: ") and "dB from the network" in line for line in err)
    described = json.loads(Path("out/toy.json").read_text())
    assert described["parity"][0]["snr_db"] > 100
    assert described["source"]["config"]["command_line"]["stems"] == ["voice"]


def test_stages_are_told_to_those_who_ask(run):
    stages = ("reading toy.pt", "writing the graph", "running the engine against it")
    _, err = run("toy.pt", *OPTIONS, "--output", "toy", "--target", "onnx")
    assert all(line.endswith(" dB from the network") for line in err)
    _, err = run("toy.pt", *OPTIONS, "--output", "toy", "--target", "onnx", "--verbose")
    assert set(stages) < set(err)


def test_no_verify_says_so(run):
    _, err = run("toy.pt", *OPTIONS, "--output", "toy", "--no-verify")
    assert err[-1] == "not verified: --no-verify"
    assert load_manifest("toy.onnx").parity == ()


def test_facts_are_printed_and_nothing_is_written(run, tmp_path):
    out, _ = run("toy.pt", "--sample-rate", "48000", "--facts")
    assert ["sample_rate", "48000", "command", "line"] in [line.split() for line in out]
    assert "missing: chunk length in seconds (--chunk)" in out
    assert not list(tmp_path.rglob("*.onnx"))


def test_what_is_no_checkpoint_is_4(refused, tmp_path):
    whole = (tmp_path / "toy.pt").read_bytes()
    assert refused("none.ckpt").startswith("none.ckpt: No such file")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    for name, content, said in (
        ("lfs.ckpt", pointer, "git-lfs pointer"),
        ("page.ckpt", b"<!DOCTYPE html><html>", "web page"),
        ("empty.ckpt", b"", "an empty file"),
        ("cut.ckpt", whole[:-100], "cut short"),
    ):
        (tmp_path / name).write_bytes(content)
        line = refused(name)
        assert line.startswith(f"{name}: ")
        assert said in line


def test_weights_that_are_not_finite_are_4(refused, tmp_path):
    write(tmp_path / "inf.pt", gain=torch.inf)
    assert "weights not finite: gains" in refused("inf.pt", *OPTIONS)


def test_a_yaml_that_does_not_fit_is_4(refused, tmp_path):
    (tmp_path / "wrong.yaml").write_text("n_fft: 99\nstems: [voice]\n")
    line = refused("toy.pt", "--config", "wrong.yaml", *OPTIONS[:4])
    assert line.startswith("wrong.yaml: does not fit toy.pt: n_fft is 99 but 128 in the weights")
    assert refused("toy.pt", "--config", "none.yaml").startswith("none.yaml: No such file")


def test_facts_that_nobody_supplied_are_4_and_name_their_options(refused):
    line = refused("toy.pt")
    for option in ("--sample-rate", "--chunk", "--stems", "--config"):
        assert option in line


def test_a_failed_gate_is_5(refused, monkeypatch):
    monkeypatch.setattr("rofo.export.export.check_engine", wrong)
    assert refused("toy.pt", *OPTIONS, "--output", "toy", status=5) == "toy: wrong"


def test_what_cannot_be_written_is_6(refused, tmp_path):
    (tmp_path / "out").write_text("in the way")
    line = refused("toy.pt", *OPTIONS, "--output", "out/toy", status=6)
    assert line.startswith("out/toy: could not write (")


def test_usage_errors_are_2(run, tmp_path):
    for arguments in ([], ["toy.pt", "--nonsense"], ["toy.pt", "--batch", "0"]):
        assert run(*arguments, status=2)[1][-1].startswith("Error: ")
    assert listed(tmp_path) == ["toy.pt"]


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
