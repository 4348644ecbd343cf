"""The arithmetic of a comparison, who takes part, and one real run of an engine without PyTorch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rofo.benchmarks import speed
from rofo.benchmarks.contestants import Choice
from rofo.benchmarks.prepare import prepare
from rofo.benchmarks.reference import Source, Told
from rofo.benchmarks.results import Limits, Speed, Spread, load, save
from rofo.benchmarks.speed import Entrant, measure_speed, take_turns
from rofo.benchmarks.speed_rows import BestRates, speed_row
from rofo.errors import EngineLoadError, EngineRunError

ONE = {"median": 100.0, "lowest": 90.0, "highest": 110.0}
LIMITS = Limits({"fp32": ONE}, Spread(10.0, 9.0, 11.0))


def facts(elapsed: float, engine: float) -> dict[str, Any]:
    return {
        "song": 30.0, "elapsed": elapsed, "process": elapsed + 1, "load": 1.0, "first": 0.5, "outside": 0.25,
        "parts": {"engine": engine}, "peak_mb": 200.0, "runs": 4,
    }  # fmt: skip


def entrant(name: str, run: Callable[[], Any]) -> Entrant:
    return Entrant(name, "cpu", "fp32", name == "torch", run)


def test_ratios_are_taken_within_a_round() -> None:
    slow = [facts(10, 10), facts(30, 30), facts(20, 20)]
    fast = [facts(5, 4), facts(10, 8), facts(10, 8)]
    row = speed_row(entrant("fast", dict), fast, slow, BestRates(LIMITS, tflop=0.4, weights_gb=4.0))
    assert row.times_pytorch == Spread(2.0, 2.0, 3.0)
    assert row.real_time == Spread(3.0, 3.0, 6.0)
    assert row.of_matrix == pytest.approx(0.4e12 / 8 / 100e9)
    assert row.of_memory == pytest.approx(4 / 8 / 10)


def test_without_pytorch_there_is_no_ratio_and_without_a_limit_no_share() -> None:
    half = Entrant("rofo", "cpu", "bf16", False, dict)
    row = speed_row(half, [facts(5, 4)], None, BestRates(LIMITS, tflop=0.4, weights_gb=4.0))
    assert (row.times_pytorch, row.of_matrix) == (None, None)
    assert row.of_memory == pytest.approx(2 / 4 / 10)  # weights of 16 bits


def test_they_take_turns_and_one_that_fails_is_out_with_its_reason() -> None:
    order: list[str] = []

    def turn(name: str) -> dict[str, Any]:
        order.append(name)
        if name == "broken":
            raise EngineLoadError("x.onnx: no\nbf16 here")
        return facts(1, 1)

    field = [entrant(name, lambda name=name: turn(name)) for name in ("torch", "broken", "rofo")]
    left_out: list[Any] = []
    runs, limits = take_turns(field, lambda: {"copy_gb": 1}, 2, left_out, lambda _: None)
    assert order == ["torch", "broken", "rofo", "torch", "rofo"]
    assert {name: len(facts) for name, facts in runs.items()} == {"torch": 2, "rofo": 2}
    assert [(one.what, one.why) for one in left_out] == [("broken", "x.onnx: no bf16 here")]
    assert len(limits) == 2


def test_where_nothing_runs_that_is_an_error() -> None:
    def fails() -> Any:
        raise EngineLoadError("x.onnx: damaged")

    with pytest.raises(EngineRunError, match="nothing could run; rofo: x"):
        take_turns([entrant("rofo", fails)], dict, 1, [], lambda _: None)


def test_of_a_checkpoint_pytorch_comes_first_and_what_is_not_installed_is_named(
    checkpoint: tuple[Path, Path],
    exported: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject = prepare(exported(), Told(), tmp_path)
    source = Source(exported(), checkpoint[0], Told(checkpoint[1]))
    subject = type(subject)(source, subject.manifest, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    left_out: list[Any] = []
    song = speed.write_song(tmp_path / "song.wav", 0.1, subject.manifest)
    field = speed.entrants(subject, song, Choice((), ("fp32",), 1), tmp_path, left_out)
    assert [one.name for one in field] == [
        "PyTorch fp32 (pymss-core)", "PyTorch fp32 compiled (pymss-core)", "rofo openvino fp32",
        "rofo onnxruntime fp32", "onnxruntime fp32, driven plainly",
    ]  # fmt: skip
    assert [one.baseline for one in field] == [True, False, False, False, False]
    assert [one.what for one in left_out] == ["pymss", "audio-separator"]


def test_an_engine_is_measured_and_the_result_survives_its_file(
    make_engine: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "_limits", lambda *_: {"gflops": {"fp32": 100.0}, "copy_gb": 10.0})
    choice = Choice(("onnxruntime",), (), 1)
    result = measure_speed(make_engine(), Told(), choice, rounds=1, chunks=3, say=lambda _: None)
    ours, plain = result.rows
    assert (ours.name, plain.name) == ("rofo onnxruntime fp32", "onnxruntime fp32, driven plainly")
    assert [part.name for part in ours.parts] == ["read", "STFT", "engine", "inverse STFT", "write"]
    assert all(part.seconds.median > 0 for part in ours.parts)
    assert [part.name for part in plain.parts] == ["read", "engine", "write"]
    assert result.chunks >= 3
    assert result.song_seconds == pytest.approx(3 * 2000 / 44100, abs=1e-4)
    assert ours.process.median > ours.load.median > 0  # type: ignore[union-attr]
    assert "PyTorch" in [one.what for one in result.about.left_out]
    file = save(result, tmp_path)
    assert file.name == "speed-half.json"
    again = load(file)
    assert isinstance(again, Speed)
    assert again == result
    assert json.loads(file.read_text())["format"] == 1
