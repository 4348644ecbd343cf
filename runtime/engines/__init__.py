"""Engine backends: from a spectrogram to the spectrograms of the stems."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rofo.errors import EngineLoadError, EngineMismatchError
from rofo.manifest import EngineFile, Manifest, verify_file

# Backends that can run a kind of engine file, in the order in which `auto` tries them, with the module each
# needs and what installs it. OpenVINO runs the Roformers about twice as fast on a CPU as ONNX Runtime.
BACKENDS: dict[str, dict[str, tuple[str, str]]] = {
    "onnx": {
        "openvino": ("openvino", "rofo[cpu]"),
        "onnxruntime": ("onnxruntime", "rofo[ort]"),
    }
}


class Engine(Protocol):
    """What every backend offers. `run` may be called from several threads at once."""

    backend: str
    precision: str
    batch: int

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
) -> Engine:
    """Check an engine file against its manifest and load it.

    `precision` is auto, fp32 or bf16; auto takes bf16 only where the processor computes in it and the
    measured parity of the manifest allows it. `threads` None lets the backend use all cores.
    Raises EngineLoadError: missing file, backend not installed, precision not available, file altered.
    """
    entry = _entry(path, manifest)
    name = _backend(path, entry, backend)
    if not path.is_file():
        raise EngineLoadError(f"{path}: no such engine; export the checkpoint with rofo-export")
    verify_file(path, entry.sha256)
    if entry.data is not None and entry.data_sha256 is not None:
        verify_file(path.with_name(entry.data), entry.data_sha256)
    return _opener(name)(path, manifest, entry, precision, threads)


def _entry(path: Path, manifest: Manifest) -> EngineFile:
    for entry in manifest.engines:
        if entry.file == path.name:
            return entry
    known = ", ".join(e.file for e in manifest.engines)
    raise EngineMismatchError(f"{path}: its manifest describes only {known}; export again with rofo-export")


def _backend(path: Path, entry: EngineFile, wanted: str) -> str:
    fitting = BACKENDS.get(entry.backend, {})
    if wanted != "auto" and wanted not in fitting:
        offer = " or ".join(fitting) or "a newer rofo"
        raise EngineLoadError(f"{path}: backend {wanted} cannot run this file; use --backend {offer}")
    candidates = fitting if wanted == "auto" else {wanted: fitting[wanted]}
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
    from rofo.engines.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine
