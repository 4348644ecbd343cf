"""The GPU check: it says so where there is no GPU, and finds an engine that is wrong."""

from dataclasses import replace

import pytest

from rofo.benchmarks import gpu
from rofo.benchmarks.results import ParityRow, load
from rofo.errors import EngineLoadError


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        gpu.main([str(argument) for argument in arguments])
    return int(stop.value.code)


def test_without_a_gpu_nothing_is_measured_and_that_is_said(tmp_path, monkeypatch, capsys):
    def absent(path, extra):
        raise EngineLoadError(f"{path}: no NVIDIA driver on this machine")

    monkeypatch.setattr(gpu, "open_cuda", absent)
    assert run("--results", tmp_path / "results") == 0
    out = capsys.readouterr().out
    assert out == "SKIPPED, nothing was measured: gpu-check: no NVIDIA driver on this machine\n"
    assert not (tmp_path / "results").exists()


@pytest.fixture
def card(monkeypatch, speed_result, parity_result):
    """A machine with a GPU, on which everything is measured; the choices that were made."""
    seen = []

    class Cuda:
        def close(self):
            pass

    def on_card(result):
        about = replace(result.about, machine=replace(result.about.machine, gpu="NVIDIA H200, 580.1"))
        return replace(result, about=about)

    def measured(result):
        return lambda checkpoint, told, *rest, **_: seen.append((told, rest)) or on_card(result)

    monkeypatch.setattr(gpu, "open_cuda", lambda *_: Cuda())
    monkeypatch.setattr(gpu, "measure_speed", measured(speed_result()))
    monkeypatch.setattr(gpu, "measure_parity", measured(parity_result))
    return seen


def test_results_are_kept_under_the_name_of_the_card(card, tmp_path):
    assert run("--shape", "small", "--results", tmp_path, "--batch", 2) == 0
    assert {file.name for file in tmp_path.iterdir()} == {
        "speed-tiny-nvidia-h200.json", "parity-tiny-nvidia-h200.json",
    }  # fmt: skip
    assert load(tmp_path / "speed-tiny-nvidia-h200.json").model.name == "tiny"
    (choice,) = {one for _, rest in card for one in rest if isinstance(one, gpu.Choice)}
    assert (choice.device, choice.batch, choice.compiled) == ("cuda", 2, True)


def test_a_wrong_engine_ends_with_1(card, tmp_path, capsys):
    assert run("--shape", "small", "--results", tmp_path, "--gate", 50) == 1
    assert "rofo openvino bf16: 41.5 dB from the network in fp32, less than 50" in capsys.readouterr().err


def test_only_our_engines_can_be_wrong(parity_result):
    rows = [ParityRow("PyTorch bf16 (pymss-core)", "bf16", 10.0, ()), ParityRow("rofo a", "fp32", -200.0, ())]
    assert gpu.below(replace(parity_result, rows=tuple(rows)), 30) == [
        "rofo a: -200 dB from the network in fp32, less than 30"
    ]
