"""The machine: what it is, what is installed, and what it can do at best."""

import json
import os
import pickle
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from rofo.benchmarks.results import About, LeftOut, Machine
from rofo.threads import cores

_PACKAGES = (
    "rofo", "numpy", "openvino", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "torch",
    "pymss-core", "pymss", "audio-separator",
)  # fmt: skip
_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")


def about(threads: int, left_out: list[LeftOut]) -> About:
    """The circumstances of a run that ends now."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return About(created, _machine(threads), _versions(), tuple(dict.fromkeys(left_out)))


def card() -> str:
    """rofo-export's name of this machine's RTX card."""
    from rofo.export.plan.gpus import GPUS

    capability = _nvidia("compute_cap")
    return next((name for name, gpu in GPUS.items() if capability in gpu.capabilities), "portable")


def limits(
    threads: int, precisions: Sequence[str], *, size: int = 4096, megabytes: int = 256
) -> dict[str, Any]:
    """Rates of matrix products and of copies; a precision that cannot be measured is missing."""
    can = [name for name in precisions if name == "fp32" or find_spec("torch")]
    gflops = {name: matrix_gflops(name, size) for name in can}
    return {"gflops": gflops, "copy_gb": copy_gb(threads, megabytes)}


def matrix_gflops(precision: str, size: int) -> float:
    """GFLOP/s (int8: GOP/s) of a large matrix product: PyTorch's, or without it numpy's (fp32 only).

    Measured 67 to 97 % of it reached by whole networks, so it is a limit that means something.
    """
    multiply = _torch_product(precision, size) if find_spec("torch") else _numpy_product(size)
    multiply()
    began = time.perf_counter()
    for _ in range(3):
        multiply()
    return 3 * 2 * size**3 / (time.perf_counter() - began) / 1e9


def copy_gb(threads: int, megabytes: int) -> float:
    """GB/s read and written together, copying arrays far larger than the caches, one part per thread."""
    source = np.ones((threads, megabytes * 2**17 // threads))
    target = np.zeros_like(source)
    with ThreadPoolExecutor(threads) as pool:
        pairs = list(zip(target, source, strict=True))
        list(pool.map(lambda pair: np.copyto(*pair), pairs))
        began = time.perf_counter()
        for _ in range(3):
            list(pool.map(lambda pair: np.copyto(*pair), pairs))
        return 3 * 2 * source.nbytes / (time.perf_counter() - began) / 1e9


def main() -> None:
    """`python -m rofo.benchmarks.machine JOB ANSWER`: the limits, in a process without other threads.

    JOB is (threads, precisions), pickled.
    """
    question, answer = map(Path, sys.argv[1:])
    answer.write_text(json.dumps(limits(*pickle.loads(question.read_bytes()))), encoding="utf-8")


def _torch_product(precision: str, size: int) -> Any:
    import torch

    if precision == "int8":
        x = torch.randint(-127, 128, (size, size), dtype=torch.int8)
        return lambda: torch._int_mm(x, x)
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    a = torch.randn(size, size).to(kinds[precision])
    return lambda: a @ a


def _numpy_product(size: int) -> Any:
    a = np.random.default_rng(0).standard_normal((size, size), np.float32)
    return lambda: a @ a


def _machine(threads: int) -> Machine:
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.split(":")[1].strip() for line in info.splitlines() if "model name" in line), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Machine(
        processor=model or platform.processor() or platform.machine(),
        cores=cores(),
        threads=threads,
        flags=tuple(flag for flag in _FLAGS if flag in info.split()),
        memory_gb=round(memory, 1),
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        gpu=_nvidia("name,driver_version"),
    )


def _nvidia(question: str) -> str | None:
    command = ["nvidia-smi", f"--query-gpu={question}", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.strip() or None


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
