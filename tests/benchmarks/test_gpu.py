"""The GPU check's own arithmetic, and that it says so where there is no GPU."""

from pathlib import Path

import numpy as np
import pytest

from rofo import EngineLoadError
from rofo.benchmarks import gpu

MIX = np.random.default_rng(0).standard_normal((2, 1, 4, 3, 2)).astype(np.float32)


def test_without_a_gpu_nothing_is_measured_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(path: Path, extra: str) -> None:
        raise EngineLoadError(f"{path}: no NVIDIA driver on this machine")

    monkeypatch.setattr(gpu, "open_cuda", absent)
    monkeypatch.setattr("sys.argv", ["gpu", "--output", str(tmp_path / "results")])
    assert gpu.main() == 0
    out = capsys.readouterr().out
    assert out == "SKIPPED, nothing was measured: gpu-check: no NVIDIA driver on this machine\n"
    assert not (tmp_path / "results").exists()


def test_one_that_does_not_run_is_reported_and_the_rest_is_measured() -> None:
    closed = []

    def missing() -> gpu.Contestant:
        raise RuntimeError("not for\nthis GPU")

    def broken() -> gpu.Contestant:
        return gpu.Contestant(lambda mix: mix.no_such_thing, lambda: closed.append("broken"))

    results = gpu.compare(
        {
            "missing": missing,
            "broken": broken,
            "rough": lambda: gpu.Contestant(
                lambda mix: mix * np.float32(1.01), lambda: closed.append("rough")
            ),
            "nan": lambda: gpu.Contestant(lambda mix: mix * np.float32("nan")),
        },
        MIX,
        MIX,
        rounds=3,
    )
    assert results["missing"] == {"unavailable": "RuntimeError: not for this GPU"}
    assert "AttributeError" in results["broken"]["unavailable"]
    assert results["rough"]["snr_db"] == pytest.approx(40, abs=0.1)
    rough = results["rough"]
    assert rough["fastest"] <= rough["seconds_per_chunk"] <= rough["slowest"]
    assert results["nan"]["snr_db"] == -200
    assert closed == ["rough", "broken"]
    assert [line.partition(":")[0] for line in gpu.below(results, 30)] == ["nan"]
    assert [line.partition(":")[0] for line in gpu.below(results, 50)] == ["rough", "nan"]
