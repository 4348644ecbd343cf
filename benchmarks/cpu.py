"""`python -m rofo.benchmarks.cpu`: speed and memory of the CPU path, as ratios within one run.

PyTorch (pymss-core's network), ONNX Runtime and OpenVINO take turns on the same song; every figure is a
median over the rounds, with its extremes. Writes benchmarks/results/cpu.json.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import soundfile

from rofo.benchmarks import viperx
from rofo.overlap_add import ChunkPlan

_ONLY_ONNX = ("--target", "onnx")

RESULTS = Path(__file__).parent / "results" / "cpu.json"


@dataclass(frozen=True)
class Spread:
    """Median and extremes of repeated measurements."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """Of at least one value."""
        return cls(*(round(v, 4) for v in (median(values), min(values), max(values))))


def main() -> None:
    """Run everything; takes most of an hour at full size on two cores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of the song")
    parser.add_argument("--depth", type=int, default=12, help="fewer layers for a quick look")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = _measure(Path(folder), arguments.rounds, arguments.seconds, arguments.depth)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")
    print(arguments.output)  # noqa: T201 - a script's result


def _measure(folder: Path, rounds: int, seconds: float, depth: int) -> dict[str, Any]:
    network = viperx.reference_network(depth=depth)
    checkpoint, config = viperx.write_checkpoint(folder, network, depth=depth)
    flops = _flops(network)
    exported = _exported(checkpoint, config)
    engine = folder / "viperx.onnx"
    song = folder / "song.wav"
    _write_song(song, seconds)
    chunks = ChunkPlan.with_overlap(viperx.CHUNK, 0.5).chunks(round(seconds * viperx.SAMPLE_RATE))
    times = _interleaved(_contestants(network, engine, song, chunks), rounds)
    limits = {name: Spread.of(rates) for name, rates in times.pop("limits").items()}
    return {
        "machine": _machine(),
        "versions": {
            name: version(name) for name in ("rofo", "torch", "openvino", "onnxruntime", "pymss-core")
        },
        "model": f"BS-Roformer 512 x {depth}, {viperx.CHUNK / viperx.SAMPLE_RATE:.0f} s chunks, overlap 0.5",
        "song_seconds": seconds,
        "rounds": rounds,
        "tflop_per_chunk": round(flops / 1e12, 3),
        "matrix_gflops": {name: vars(rate) for name, rate in limits.items()},
        "export": exported,
        "help_seconds": vars(Spread.of([_timed(["rofo-run", "--help"])[0] for _ in range(9)])),
        "contestants": {name: _summary(runs, times, flops * chunks, limits) for name, runs in times.items()},
        "growth": _growth(folder),
    }


def _contestants(
    network: Any, engine: Path, song: Path, chunks: int
) -> dict[str, Callable[[], dict[str, float]]]:
    def rofo(backend: str, precision: str) -> Callable[[], dict[str, float]]:
        return lambda: _rofo_run(engine, song, backend, precision)

    return {
        "PyTorch fp32 (pymss-core)": lambda: _torch_run(network, chunks),
        "rofo-run openvino fp32": rofo("openvino", "fp32"),
        "rofo-run openvino bf16": rofo("openvino", "bf16"),
        "rofo-run onnxruntime fp32": rofo("onnxruntime", "fp32"),
    }


def _interleaved(contestants: dict[str, Callable[[], dict[str, float]]], rounds: int) -> dict[str, Any]:
    """Every contestant once per round, and the processor's own limit beside them."""
    runs: dict[str, Any] = {name: [] for name in contestants}
    limits: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            runs[name].append(contestant())
            print(name, runs[name][-1], file=sys.stderr, flush=True)  # noqa: T201 - progress of a long run
        for precision, rates in limits.items():
            rates.append(_matrix_rate(precision))
    return {**runs, "limits": limits}


def _torch_run(network: Any, chunks: int) -> dict[str, float]:
    """The network alone on as many chunks as the song has: reading and joining are left out in its favour."""
    import torch

    chunk = torch.from_numpy(_noise(viperx.CHUNK))[None]
    began = time.perf_counter()
    with torch.inference_mode():
        for _ in range(chunks):
            network(chunk)
    return {"wall": time.perf_counter() - began}


def _rofo_run(engine: Path, song: Path, backend: str, precision: str) -> dict[str, float]:
    """The whole process: start, load, read, separate, write."""
    probe = [sys.executable, "-m", "rofo.benchmarks.probe", str(engine), str(song), backend, precision]
    wall, peak, output = _timed(probe)
    return {"wall": wall, "peak_mb": peak, **json.loads(output)}


def _exported(checkpoint: Path, config: Path) -> dict[str, float]:
    wall, peak, _ = _timed(
        ["rofo-export", str(checkpoint), "--config", str(config), "--no-verify", *_ONLY_ONNX]
    )
    size = checkpoint.stat().st_size / 2**20
    return {
        "seconds": round(wall, 1),
        "peak_mb": round(peak),
        "checkpoint_mb": round(size),
        "ratio": round(peak / size, 2),
    }


def _growth(folder: Path) -> dict[str, float]:
    """Peak memory for songs of 3 and 30 minutes, through a network small enough to finish."""
    network = viperx.reference_network(dim=16, depth=1, heads=1, dim_head=16)
    small = folder / "small"
    small.mkdir()
    checkpoint, config = viperx.write_checkpoint(small, network, dim=16, depth=1, heads=1, dim_head=16)
    _timed(["rofo-export", str(checkpoint), "--config", str(config), "--no-verify", *_ONLY_ONNX])
    peaks = {}
    for minutes in (3, 30):
        song = small / f"{minutes}.wav"
        _write_song(song, 60.0 * minutes)
        command = ["rofo-run", "--engine", str(small / "viperx.onnx"), str(song), "--output", str(small)]
        peaks[f"{minutes}_minutes_mb"] = round(_timed([*command, "--precision", "fp32"])[1])
    return {**peaks, "ratio": round(peaks["30_minutes_mb"] / peaks["3_minutes_mb"], 3)}


def _summary(
    runs: list[dict[str, float]], times: dict[str, Any], flops: float, limits: dict[str, Spread]
) -> dict[str, Any]:
    """Medians of one contestant; ratios against PyTorch are taken within each round."""
    torch_runs = times["PyTorch fp32 (pymss-core)"]
    ratios = [slow["wall"] / run["wall"] for slow, run in zip(torch_runs, runs, strict=True)]
    fields = {key: vars(Spread.of([run[key] for run in runs])) for key in runs[0] if key != "precision"}
    precision = "bf16" if runs[0].get("bf16") else "fp32"
    engine = median(run.get("engine", run["wall"]) for run in runs)
    share = flops / engine / 1e9 / limits[precision].median
    return {**fields, "times_pytorch": vars(Spread.of(ratios)), "share_of_matrix_rate": round(share, 3)}


def _timed(command: list[str]) -> tuple[float, float, str]:
    """Wall seconds, peak memory in MB and standard output of a command that must succeed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        timed = [sys.executable, "-m", "rofo.benchmarks.timed", str(report), *command]
        output = subprocess.run(timed, check=True, stdout=subprocess.PIPE, text=True).stdout
        facts = json.loads(report.read_text())
    return facts["seconds"], facts["peak_mb"], output


def _matrix_rate(precision: str) -> float:
    """GFLOP/s of a large matrix product in PyTorch: what this processor can do at best."""
    import torch

    a = torch.randn(4096, 4096, dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[precision])
    a @ a
    began = time.perf_counter()
    for _ in range(3):
        a @ a
    return 3 * 2 * 4096**3 / (time.perf_counter() - began) / 1e9


def _flops(network: Any) -> int:
    """Multiplications and additions of one chunk; also PyTorch's warm-up."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    # PyTorch 2.13 does not count its own attention on the CPU: an eighth of this network.
    def attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(q, k, v))  # type: ignore[no-untyped-call]

    mapping = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with counter, torch.inference_mode():
        network(torch.zeros(1, 2, viperx.CHUNK))
    return int(counter.get_total_flops())


def _noise(samples: int) -> np.ndarray:
    return (0.2 * np.random.default_rng(0).standard_normal((2, samples))).astype(np.float32)


def _write_song(path: Path, seconds: float) -> None:
    block = _noise(viperx.SAMPLE_RATE).T
    with soundfile.SoundFile(path, "w", viperx.SAMPLE_RATE, 2, "PCM_16") as file:
        for _ in range(round(seconds)):
            file.write(block)


def _machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.split(":")[1].strip() for line in info.splitlines() if "model name" in line), "?")
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in info]
    return {"processor": model, "cores": os.cpu_count(), "flags": flags, "system": platform.system()}


if __name__ == "__main__":
    main()
