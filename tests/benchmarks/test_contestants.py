"""Who takes part, and that everyone computes the same: with a family that only tests know."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rofo.benchmarks import networks
from rofo.benchmarks.contestants import NETWORK, PLAIN, PYMSS, Choice, Contestant, contestants
from rofo.benchmarks.networks import open_alone, opened
from rofo.benchmarks.probe import Job, separate
from rofo.benchmarks.processes import Measured
from rofo.benchmarks.rounds import Log
from rofo.benchmarks.subject import ONNX, Subject, Told, prepare
from rofo.benchmarks.system import prepare_any
from rofo.engines import BACKENDS, Backend
from rofo.errors import EngineLoadError, UsageError
from rofo.manifest import load_manifest


def names(subject: Subject, choice: Choice) -> list[str]:
    return [one.name for one in contestants(subject, choice)]


def test_of_a_checkpoint_pytorch_comes_first(toy):
    assert names(toy, Choice(1, precisions=("fp32",))) == [
        "PyTorch fp32 (pymss-core)", "PyTorch fp32 (rofo's network)",
        "PyTorch fp32 compiled (rofo's network)", "rofo openvino fp32", "rofo onnxruntime fp32",
        "onnxruntime fp32, driven plainly",
    ]  # fmt: skip


def test_the_baselines_are_there_whatever_was_chosen(toy):
    found = contestants(toy, Choice(1, ("openvino",), ("bf16",), compiled=False))
    assert [one.name for one in found if one.is_baseline] == [
        "PyTorch fp32 (pymss-core)", "PyTorch fp32 (rofo's network)",
    ]  # fmt: skip
    assert {one.precision for one in found if not one.is_baseline} == {"bf16"}
    assert not any(one.compiled for one in found)


def test_on_a_gpu_everyone_is_on_it(toy):
    plan = toy.engine.with_name("toy.plan")
    found = contestants(
        replace(toy, engines={**toy.engines, "tensorrt": toy.engine}), Choice(1, device="cuda")
    )
    assert {one.device for one in found} == {"cuda"}
    assert "PyTorch fp16 compiled cuda (rofo's network)" in [one.name for one in found]
    assert "onnxruntime fp16 cuda, driven plainly" in [one.name for one in found]
    assert {one.backend for one in found} - {"auto"} == {"onnxruntime-cuda", "tensorrt"}  # no plan for RTX
    assert not plan.exists()


def test_backends_decide_over_devices():
    assert Choice(1, ("openvino", "tensorrt")).devices == ("cpu", "cuda")
    assert Choice(1, device="cuda").all_backends == ("onnxruntime-cuda", "tensorrt-rtx", "tensorrt")


def test_a_backend_is_a_line_of_the_registry(toy, monkeypatch):
    line = replace(BACKENDS["onnxruntime"], precisions=("fp32", "bf16"))
    monkeypatch.setitem(BACKENDS, "toy-backend", line)
    assert isinstance(line, Backend)
    found = names(toy, Choice(1))
    assert "rofo toy-backend fp32" in found and "rofo toy-backend bf16" in found


def test_an_engine_has_no_pytorch_beside_it(make_engine, tmp_path):
    subject = prepare(make_engine(), Told(), tmp_path, Log(lambda _: None))
    assert names(subject, Choice(1, ("onnxruntime",))) == [
        "rofo onnxruntime fp32", "onnxruntime fp32, driven plainly",
    ]  # fmt: skip
    # One that cannot run it takes part, and says so itself.
    assert names(subject, Choice(1, ("tensorrt",)))[0] == "rofo tensorrt fp32"


def test_an_engine_beside_its_checkpoint_has_pytorch_too(toy, tmp_path):
    subject = prepare_any(toy.engine, Told(), tmp_path, Log(lambda _: None), Choice(1))
    assert (subject.checkpoint, subject.told.given) == (toy.checkpoint, toy.told.given)
    assert names(subject, Choice(1, ("onnxruntime",), ("fp32",), compiled=False)) == [
        "PyTorch fp32 (pymss-core)", "PyTorch fp32 (rofo's network)", "rofo onnxruntime fp32",
        "onnxruntime fp32, driven plainly",
    ]  # fmt: skip


@pytest.mark.parametrize("asked", [(), ("fp16", "fp8")])
def test_engines_with_a_precision_in_a_file_of_their_own_take_part(
    toy, make_engine, tmp_path, monkeypatch, asked
):
    """The exporter's processes stood in for: they add the engine they were asked for to a manifest."""
    given = load_manifest(make_engine())

    def export(command, **_):
        told = dict(itertools.pairwise(command))
        target = told["--target"]
        precision = told.get("--precision", "fp32" if target == ONNX else "fp16")
        stem = Path(told["--output"])
        name = {ONNX: f"{stem.name}.onnx", "onnxruntime-cuda": f"{stem.name}.fp16.onnx"}.get(target)
        name = name or (f"{stem.name}.fp8.plan" if precision == "fp8" else f"{stem.name}.plan")
        entry = replace(given.engines[0], file=name, backend=target, precision=precision)
        before = load_manifest(path).engines if (path := stem.with_suffix(".json")).exists() else ()
        path.write_text(replace(given, engines=(*before, entry)).to_json())
        return Measured(1.0, 1.0)

    monkeypatch.setattr("rofo.benchmarks.subject.measured", export)
    monkeypatch.setattr("rofo.benchmarks.machine.card", lambda: "rtx4090")
    choice = Choice(1, ("onnxruntime-cuda", "tensorrt-rtx"), asked, device="cuda")
    subject = prepare(
        toy.checkpoint, Told(), tmp_path, Log(lambda _: None), 1, choice.all_backends, choice.precisions
    )
    found = [one for one in names(subject, choice) if one.startswith("rofo")]
    both = ["rofo onnxruntime-cuda fp32", "rofo onnxruntime-cuda fp16", "rofo tensorrt-rtx fp16"]
    assert found == ([*both[1:], "rofo tensorrt-rtx fp8"] if asked else both)


def test_facts_told_of_an_engine_are_refused(make_engine, tmp_path):
    with pytest.raises(UsageError, match="needs no --config"):
        prepare(make_engine(), Told(tmp_path / "a.yaml"), tmp_path, Log(lambda _: None))
    with pytest.raises(UsageError, match="needs no --config"):
        prepare(make_engine(), Told(given={"n_fft": 512}), tmp_path, Log(lambda _: None))


def test_what_is_told_is_told_to_the_exporter_too(tmp_path):
    told = Told(tmp_path / "a.yaml", {"n_fft": 512, "stems": ("a", "b"), "compensate": 1.02})
    assert list(told.export_options()) == [
        "--config", str(tmp_path / "a.yaml"), "--n-fft", "512", "--stems", "a,b", "--compensate", "1.02",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["rofo", NETWORK, PLAIN])
@pytest.mark.parametrize("alone", [True, False])
def test_everyone_halves_what_the_toy_halves(toy, song, kind, alone):
    one = Contestant(kind, toy.engine, backend="onnxruntime")
    if alone:
        mix = np.random.default_rng(0).standard_normal((1, 2, toy.manifest.chunk.frames, 65, 2), np.float32)
        np.testing.assert_allclose(
            open_alone(one, toy, 1).run({"mix": mix})["stems"][0, 0], mix[0] / 2, atol=1e-6
        )
        return
    mix = song(20_000)
    with opened(one, toy, 1) as separator:
        np.testing.assert_allclose(separator.separate(mix, 44100)["voice"], mix / 2, atol=1e-5)


def test_half_precision_is_autocast(toy):
    mix = np.full((1, 2, toy.manifest.chunk.frames, 65, 2), np.pi, np.float32)
    one = Contestant(NETWORK, toy.engine, "bf16")
    assert open_alone(one, toy, 1).run({"mix": mix})["stems"].dtype == np.float32


def test_networks_with_an_stft_of_their_own_are_given_samples(toy, song, monkeypatch):
    monkeypatch.setattr(networks, "_pymss", lambda *_: lambda t: {"waveforms": t["waveform"][:, None] / 4})
    mix = song(20_000)
    with opened(Contestant(PYMSS, toy.engine), toy, 1) as separator:
        np.testing.assert_allclose(separator.separate(mix, 44100)["voice"], mix / 4, atol=1e-6)


def test_what_pymss_core_does_not_have_says_so(toy):
    with pytest.raises(EngineLoadError, match="no network of Music-Source-Separation-Training"):
        open_alone(Contestant(PYMSS, toy.engine), toy, 1)


def test_without_its_checkpoint_there_is_no_network(toy):
    with pytest.raises(EngineLoadError, match="give the checkpoint"):
        open_alone(Contestant(NETWORK, toy.engine), replace(toy, checkpoint=None), 1)


def test_networks_are_timed_between_our_transforms(toy, tmp_path):
    song = toy.write_song(tmp_path / "song.wav", 0.5)
    inside = separate(Job(Contestant(NETWORK, toy.engine), toy, song, 1))
    assert list(inside["parts"]) == ["read", "STFT", "engine", "inverse STFT", "write"]
    assert inside["song"] == pytest.approx(0.5, abs=1e-3)
    assert inside["runs"] >= 5 and 0 <= inside["outside"] < 1
