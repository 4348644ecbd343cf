"""Engine backends: from a spectrogram to the spectrograms of the stems."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rofo.errors import EngineLoadError, EngineMismatchError, UsageError
from rofo.manifest import EngineFile, Manifest, verify_file

# Backends that can run a kind of engine file, in the order in which `auto` tries them, with the module each
# needs and what installs it. OpenVINO runs the Roformers about twice as fast on a CPU as ONNX Runtime.
BACKENDS: dict[str, dict[str, tuple[str, str]]] = {
    "onnx": {
        "openvino": ("openvino", "rofo[cpu]"),
        "onnxruntime": ("onnxruntime", "rofo[ort]"),
    },
    "tensorrt-rtx": {"tensorrt-rtx": ("tensorrt_rtx", "rofo[rtx]")},
    "tensorrt": {"tensorrt": ("tensorrt", "rofo[tensorrt]")},
}
# Those that run only when asked for by name: whether they can is known only when they try.
_ON_REQUEST = {"onnx": {"onnxruntime-cuda": ("onnxruntime", "rofo[ort-gpu]")}}
BACKEND_NAMES = tuple(name for kinds in (BACKENDS, _ON_REQUEST) for names in kinds.values() for name in names)

_TENSORRT = ("tensorrt-rtx", "tensorrt")


class Engine(Protocol):
    """What every backend offers. `run` may be called from several threads at once.

    `in_flight` is the number of calls at a time that one song should make to keep the engine busy.
    """

    backend: str
    precision: str
    batch: int
    in_flight: int

    @property
    def healthy(self) -> bool:
        """False where the engine will not work again in this process."""
        ...

    def run(self, mix: NDArray[np.float32]) -> NDArray[np.float32]:
        """mix (batch, channels, frames, bins, 2) -> stems (batch, stems, channels, frames, bins, 2).

        Raises EngineRunError when the backend fails. The result belongs to the caller.
        """
        ...

    def close(self) -> None:
        """Release the model; running calls must have ended."""
        ...


def open_engine(
    path: Path,
    manifest: Manifest,
    *,
    backend: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    cuda_stream: int | None = None,
) -> Engine:
    """Check an engine file against its manifest and load it.

    `precision` is auto, fp32, bf16 or fp16; on a processor auto takes bf16 only where it computes in it and
    the measured parity of the manifest allows it; a plan has the precision it was built with. `threads` None
    lets the backend use all cores. `cuda_stream` is the handle of a stream to compute on, for plans.
    Raises EngineLoadError: missing file, backend not installed, precision not available, file altered,
    built by another version or for another GPU, no driver; UsageError for a stream where there is no GPU.
    """
    entry = _entry(path, manifest)
    name = _backend(path, entry, backend)
    if cuda_stream is not None and name not in _TENSORRT:
        raise UsageError(f"{path}: backend {name} takes no CUDA stream; leave cuda_stream out")
    if not path.is_file():
        raise EngineLoadError(f"{path}: no such engine; export the checkpoint with rofo-export")
    verify_file(path, entry.sha256)
    if entry.data is not None and entry.data_sha256 is not None:
        verify_file(path.with_name(entry.data), entry.data_sha256)
    if name in _TENSORRT:
        from rofo.engines.tensorrt import TensorRtEngine

        return TensorRtEngine(path, manifest, entry, precision, cuda_stream=cuda_stream)
    return _opener(name)(path, manifest, entry, precision, threads)


def _entry(path: Path, manifest: Manifest) -> EngineFile:
    for entry in manifest.engines:
        if entry.file == path.name:
            return entry
    known = ", ".join(e.file for e in manifest.engines)
    raise EngineMismatchError(f"{path}: its manifest describes only {known}; export again with rofo-export")


def _backend(path: Path, entry: EngineFile, wanted: str) -> str:
    by_itself = BACKENDS.get(entry.backend, {})
    fitting = by_itself | _ON_REQUEST.get(entry.backend, {})
    if wanted != "auto" and wanted not in fitting:
        offer = " or ".join(fitting) or "a newer rofo"
        raise EngineLoadError(f"{path}: backend {wanted} cannot run this file; use --backend {offer}")
    candidates = by_itself if wanted == "auto" else {wanted: fitting[wanted]}
    for name, (module, _) in candidates.items():
        if find_spec(module) is not None:
            return name
    cures = " or ".join(f"pip install '{extra}'" for _, extra in candidates.values())
    missing = " or ".join(candidates) or f"backend for {entry.backend} files"
    raise EngineLoadError(f"{path}: {missing} is not installed; {cures or 'install a newer rofo'}")


def _opener(name: str) -> Callable[[Path, Manifest, EngineFile, str, int | None], Engine]:
    if name == "openvino":
        from rofo.engines.openvino import OpenVinoEngine

        return OpenVinoEngine
    from rofo.engines.onnxruntime import OnnxRuntimeCudaEngine, OnnxRuntimeEngine

    return OnnxRuntimeCudaEngine if name == "onnxruntime-cuda" else OnnxRuntimeEngine
