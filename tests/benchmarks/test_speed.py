"""The arithmetic of a comparison, who is left out, and one real run of an engine without PyTorch."""

import json

import pytest

from rofo.benchmarks import machine, speed
from rofo.benchmarks.contestants import Choice
from rofo.benchmarks.probe import Run
from rofo.benchmarks.results import Limits, Speed, Spread, load, save
from rofo.benchmarks.rounds import Log, take_turns
from rofo.benchmarks.speed import BestRates, Entrant, entrants, measure_speed, speed_row
from rofo.benchmarks.subject import Told
from rofo.errors import EngineLoadError, EngineRunError

LIMITS = Limits({"fp32": {"median": 100.0, "lowest": 90.0, "highest": 110.0}}, Spread(10.0, 9.0, 11.0))


def run(elapsed, engine):
    return Run(30.0, elapsed, elapsed + 1, 200.0, 1.0, 0.5, 0.25, {"engine": engine}, 4, cpu=2 * elapsed - 1)


def test_ratios_are_taken_within_a_round():
    slow = [run(10, 10), run(30, 30), run(20, 20)]
    fast = [run(5, 4), run(10, 8), run(10, 8)]
    who = Entrant("fast", "cpu", "fp32", False, dict)
    row = speed_row(who, fast, slow, BestRates(LIMITS, tflop=0.4, weights_gb=4.0))
    assert row.times_pytorch == Spread(2.0, 2.0, 3.0)
    assert row.real_time == Spread(3.0, 3.0, 6.0)
    assert row.of_matrix == pytest.approx(0.4e12 / 8 / 100e9)
    assert row.of_memory == pytest.approx(4 / 8 / 10)
    assert row.cpu_of_pytorch == Spread.of([9 / 19, 19 / 59, 19 / 39])
    assert (row.time_of_runs, row.cpu_of_runs) == (None, None)


def test_a_recipe_is_held_to_its_runs_one_by_one():
    who = Entrant("recipe", "cpu", "fp32", False, dict, apart="recipe, its runs one by one")
    row = speed_row(who, [run(11, 4), run(30, 4)], None, BestRates(LIMITS, 0, 0), [run(10, 4), run(20, 4)])
    assert row.time_of_runs == Spread.of([1.1, 1.5])
    assert row.cpu_of_runs == Spread.of([21 / 19, 59 / 39])


def test_without_pytorch_there_is_no_ratio_and_without_a_limit_no_share():
    half = Entrant("rofo", "cpu", "bf16", False, dict)
    row = speed_row(half, [run(5, 4)], None, BestRates(LIMITS, tflop=0.4, weights_gb=4.0))
    assert (row.times_pytorch, row.of_matrix) == (None, None)
    assert row.of_memory == pytest.approx(2 / 4 / 10)  # weights of 16 bits
    on_gpu = Entrant("rofo", "cuda", "fp32", False, dict)
    row = speed_row(on_gpu, [run(5, 4)], None, BestRates(LIMITS, tflop=0.4, weights_gb=4.0))
    assert (row.of_matrix, row.of_memory) == (None, None)  # the limits are the processor's


def test_they_take_turns_and_one_that_fails_is_out_with_its_reason():
    order, rounds, log = [], [], Log(lambda _: None)

    def turn(name):
        order.append(name)
        if name == "broken":
            raise EngineLoadError("x.onnx: no\nbf16 here")
        return run(1, 1)

    field = {name: lambda name=name: turn(name) for name in ("torch", "broken", "rofo")}
    runs = take_turns(field, 2, log, lambda: rounds.append(len(order)))
    assert order == ["torch", "broken", "rofo", "torch", "rofo"]
    assert rounds == [3, 5]
    assert {name: len(some) for name, some in runs.items()} == {"torch": 2, "rofo": 2}
    assert [(one.what, one.why) for one in log.left_out] == [("broken", "x.onnx: no bf16 here")]


def test_where_nothing_runs_that_is_an_error():
    def fails():
        raise EngineLoadError("x.onnx: damaged")

    with pytest.raises(EngineRunError, match="nothing could run; rofo: x"):
        take_turns({"rofo": fails}, 1, Log(lambda _: None))


def test_tools_that_are_not_installed_are_named(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    log = Log(lambda _: None)
    field = entrants(toy, toy.write_song(tmp_path / "song.wav", 0.1), Choice(1), tmp_path, log)
    assert {one.name for one in field if one.baseline} == {
        "PyTorch fp32 (pymss-core)", "PyTorch fp32 (rofo's network)",
    }  # fmt: skip
    assert [one.what for one in log.left_out] == ["pymss", "audio-separator"]


@pytest.fixture
def unlimited(monkeypatch):
    monkeypatch.setattr(
        speed, "reported", lambda *_, **__: (None, {"gflops": {"fp32": 100.0}, "copy_gb": 10.0})
    )


def test_an_engine_is_measured_and_the_result_survives_its_file(make_engine, tmp_path, unlimited):
    choice = Choice(1, ("onnxruntime",))
    result = measure_speed(make_engine(), Told(), choice, rounds=1, chunks=3, say=lambda _: None)
    ours, plain = result.rows
    assert (ours.name, plain.name) == ("rofo onnxruntime fp32", "onnxruntime fp32, driven plainly")
    for row in (ours, plain):
        assert [part.name for part in row.parts] == ["read", "STFT", "engine", "inverse STFT", "write"]
        assert all(part.seconds.median > 0 for part in row.parts)
    assert result.chunks >= 3
    assert result.song_seconds == pytest.approx(3 * 2000 / 44100, abs=1e-4)
    assert ours.process.median > ours.load.median > 0
    assert "PyTorch" in [one.what for one in result.about.left_out]
    file = save(result, tmp_path)
    assert file.name == "speed-half.json"
    again = load(file)
    assert isinstance(again, Speed)
    assert again == result
    assert json.loads(file.read_text())["format"] == 1


def test_limits_are_measured():
    found = machine.limits(1, ("fp32",), size=128, megabytes=1)
    assert found["gflops"]["fp32"] > 0 and found["copy_gb"] > 0
