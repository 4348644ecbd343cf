"""`python -m rofo.benchmarks.gpu`: parity and speed on this machine's NVIDIA GPU, for `make gpu-check`.

Plans and ONNX Runtime on CUDA against PyTorch in fp32, on one spectrogram, from host memory to host memory;
then whole songs. What cannot run here is reported with its reason and the rest is measured; without a GPU
nothing is measured and nothing is written. Results go to benchmarks/results/gpu-NAME.json.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rofo import EngineLoadError, RofoError, Separator
from rofo.benchmarks import viperx
from rofo.engines import EngineSettings, open_engine
from rofo.engines.cuda import Gpu, open_cuda
from rofo.manifest import load_engine_manifest

Floats = NDArray[np.float32]
Run = Callable[[Floats], Floats]

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "tensorrt-rtx", "tensorrt", "cuda-bindings", "onnxruntime-gpu", "numpy")
_OPTIONS = {"8.6": "rtx3090", "8.9": "rtx4090", "12.0": "rtx5090"}


@dataclass(frozen=True)
class Contestant:
    """Something that computes stems from a mix; `close` frees what it holds."""

    run: Run
    close: Callable[[], None] = lambda: None


def main() -> int:
    """Measure what this machine can; 0 also where that is nothing, 1 where a measured engine is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=12, help="fewer layers for a quick look")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the song")
    parser.add_argument("--batch", type=int, default=1, help="chunks at once, for every contestant")
    parser.add_argument("--gate", type=float, default=30.0, help="least dB against PyTorch in fp32")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    try:
        cuda = open_cuda(Path("gpu-check"), "rofo[rtx]")
    except EngineLoadError as error:
        print(f"SKIPPED, nothing was measured: {error}")  # noqa: T201
        return 0
    gpu = cuda.gpu
    cuda.close()
    with tempfile.TemporaryDirectory() as folder:
        results = {**_machine(gpu), "batch": options.batch, **_measured(Path(folder), gpu, options)}
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / f"gpu-{re.sub('[^a-z0-9]+', '-', gpu.name.lower()).strip('-')}.json"
    file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))  # noqa: T201
    print(file)  # noqa: T201
    wrong = below(results["engines"], options.gate)
    for line in wrong:
        print(line, file=sys.stderr)  # noqa: T201
    return 1 if wrong else 0


def below(engines: Mapping[str, Mapping[str, Any]], gate: float) -> list[str]:
    """What is wrong, in words: engines whose output is further from fp32 than `gate` dB."""
    return [
        f"{name}: {facts['snr_db']} dB from PyTorch in fp32, less than {gate:g}"
        for name, facts in engines.items()
        if facts.get("snr_db", gate) < gate
    ]


def compare(
    contestants: Mapping[str, Callable[[], Contestant]], mix: Floats, wanted: Floats, rounds: int
) -> dict[str, dict[str, Any]]:
    """Parity and seconds per chunk of each, by name; {"unavailable": why} where one does not run.

    They take turns, so that a GPU growing warm slows all alike.
    """
    results: dict[str, dict[str, Any]] = {}
    with ExitStack() as opened:
        ready: dict[str, Run] = {}
        for name, make in contestants.items():
            try:
                contestant = make()
                opened.callback(contestant.close)
                for _ in range(2):  # compiling happens in the first call
                    stems = contestant.run(mix)
                results[name] = {"snr_db": round(_snr_db(wanted, stems), 2)}
                ready[name] = contestant.run
            except Exception as error:  # noqa: BLE001 - one that fails is a result too
                results[name] = {
                    "unavailable": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                }
        times: dict[str, list[float]] = {name: [] for name in ready}
        for _ in range(rounds):
            for name, run in ready.items():
                began = time.perf_counter()
                run(mix)
                times[name].append((time.perf_counter() - began) / len(mix))
    for name, seconds in times.items():
        results[name] |= {
            "seconds_per_chunk": round(median(seconds), 5),
            "fastest": round(min(seconds), 5),
            "slowest": round(max(seconds), 5),
        }
    return results


def _measured(folder: Path, gpu: Gpu, options: argparse.Namespace) -> dict[str, Any]:
    from rofo.export.graph.verify import loud_chunk

    checkpoint, config = viperx.write_checkpoint(
        folder, viperx.reference_network(depth=options.depth), depth=options.depth
    )
    engines, missing = _exported(folder, checkpoint, config, gpu, options.batch)
    manifest = load_engine_manifest(engines["onnxruntime-cuda"])
    mix = np.repeat(loud_chunk(manifest)[:1], options.batch, axis=0)
    network = _network(checkpoint, config, manifest.chunk.frames)
    wanted = _torch(network, None, None).run(mix)
    contestants = {name: _opener(path, name) for name, path in engines.items()}
    contestants |= {
        "onnxruntime-cuda, fp16 graph": lambda: _half_onnx(checkpoint, config, folder, options.batch),
        "PyTorch fp32": lambda: _torch(network, "cuda", None),
        "PyTorch fp16 autocast": lambda: _torch(network, "cuda", "float16"),
        "PyTorch fp16 autocast, compiled": lambda: _torch(network, "cuda", "float16", compiled=True),
    }
    compared = compare(contestants, mix, wanted, options.rounds)
    songs = {
        name: _song(path, name, options.seconds, compared[name]["seconds_per_chunk"])
        for name, path in engines.items()
        if "seconds_per_chunk" in compared[name]
    }
    model = f"BS-Roformer 512 x {options.depth}, 8 s chunks"
    return {"model": model, "rounds": options.rounds, "engines": missing | compared, "songs": songs}


def _exported(
    folder: Path, checkpoint: Path, config: Path, gpu: Gpu, batch: int
) -> tuple[dict[str, Path], dict[str, dict[str, Any]]]:
    """Engine files by backend, and the reasons for those that are missing."""
    from rofo.export.export import export
    from rofo.export.plan.plan import PlanOptions

    engines, missing = {"onnxruntime-cuda": folder / "onnx" / "viperx.onnx"}, {}
    (folder / "onnx").mkdir()
    stem = engines["onnxruntime-cuda"].with_suffix("")
    export(checkpoint, config=config, output=stem, batch=batch, check=False, stage=_say)
    for backend in ("tensorrt-rtx", "tensorrt"):
        (folder / backend).mkdir()
        card = _OPTIONS.get(gpu.compute_capability, "portable") if backend == "tensorrt-rtx" else None
        plan = PlanOptions(backend=backend, gpu=card, batch=batch)
        try:
            stem = folder / backend / "viperx"
            export(checkpoint, config=config, output=stem, onnx=False, plan=plan, check=False, stage=_say)
            engines[backend] = stem.with_suffix(".plan")
        except RofoError as error:
            missing[backend] = {"unavailable": str(error)}
    return engines, missing


def _opener(path: Path, backend: str) -> Callable[[], Contestant]:
    def make() -> Contestant:
        engine = open_engine(path, load_engine_manifest(path), EngineSettings(backend))
        return Contestant(lambda mix: engine.run({"mix": mix})["stems"], engine.close)

    return make


def _half_onnx(checkpoint: Path, config: Path, folder: Path, batch: int) -> Contestant:
    """The graph that the plan is built from, in ONNX Runtime on CUDA."""
    import onnxruntime

    from rofo.export.families.roformer.config import Facts
    from rofo.export.model_file import make_graphs, read_model, resolve
    from rofo.export.plan.gpus import GPUS
    from rofo.export.plan.plan import PlanOptions, write_typed

    options, cuda = PlanOptions(batch=batch), "CUDAExecutionProvider"
    if cuda not in onnxruntime.get_available_providers():
        raise EngineLoadError(f"this ONNX Runtime ({onnxruntime.__version__}) has no {cuda}")
    file = read_model(checkpoint, unsafe_pickle=False)
    model = resolve(file, yaml=config, facts=Facts())
    graphs = make_graphs(file, model, unsafe_pickle=False)
    graph = write_typed(graphs.typed(options), folder, options, GPUS["portable"], _say)
    session = onnxruntime.InferenceSession(graph.file, providers=[cuda])
    if session.get_providers()[0] != cuda:
        raise EngineLoadError(f"ONNX Runtime runs on {session.get_providers()[0]}, not {cuda}")
    return Contestant(lambda mix: session.run(["stems"], {"mix": mix})[0])


def _network(checkpoint: Path, config: Path, frames: int) -> Any:
    from rofo.export.families.roformer.config import RoformerConfig, resolve_config
    from rofo.export.families.roformer.network import Roformer
    from rofo.export.source.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    network = resolve_config(loaded, yaml=config).network
    assert isinstance(network, RoformerConfig)
    return Roformer(network, loaded.state, frames).eval()


def _torch(network: Any, device: str | None, half: str | None, *, compiled: bool = False) -> Contestant:
    """PyTorch on a device, None for the processor; products in TF32 are off, so that fp32 is fp32."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    if device is not None and not torch.cuda.is_available():
        raise RuntimeError(f"this PyTorch ({torch.__version__}) sees no GPU")
    placed = network.to(device or "cpu")
    called = torch.compile(placed) if compiled else placed

    def run(mix: Floats) -> Floats:
        with torch.inference_mode(), _autocast(half):
            stems: Floats = called(torch.from_numpy(mix).to(device or "cpu")).float().cpu().numpy()
        return stems

    return Contestant(run)


@contextmanager
def _autocast(half: str | None) -> Iterator[None]:
    import torch

    if half is None:
        yield
        return
    with torch.autocast("cuda", getattr(torch, half)):
        yield


def _song(path: Path, backend: str, seconds: float, per_chunk: float) -> dict[str, Any]:
    """A song of noise through everything: times real time, and the share of time that is not the engine's."""
    rate = viperx.SAMPLE_RATE
    mix = np.random.default_rng(0).uniform(-0.5, 0.5, (2, round(seconds * rate))).astype(np.float32)
    with Separator(path, backend=backend) as separator:
        separator.separate(mix[:, :rate], rate)
        began = time.perf_counter()
        separator.separate(mix, rate)
        elapsed = time.perf_counter() - began
    chunks = sum(1 for _ in load_engine_manifest(path).scheme().cut([mix]))
    outside = max(0.0, 1 - chunks * per_chunk / elapsed)
    return {"times_real_time": round(seconds / elapsed, 1), "outside_engine": round(outside, 3)}


def _machine(gpu: Gpu) -> dict[str, Any]:
    return {
        "gpu": gpu.name,
        "compute_capability": gpu.compute_capability,
        "driver": _driver(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _snr_db(wanted: Floats, got: Floats) -> float:
    from rofo.export.graph.verify import snr_db

    return snr_db(wanted, got) if np.isfinite(got).all() else -200.0


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
