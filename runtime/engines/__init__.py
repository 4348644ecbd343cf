"""Engine backends: from the spectrogram of a chunk to the spectrograms of its stems.

A backend is a file here and a line in BACKENDS. Importing the registry imports none of them, nor numpy.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from rofo.errors import EngineLoadError, EngineMismatchError, UsageError
from rofo.log import LOG
from rofo.manifest import EngineFile, Manifest, verify_file

if TYPE_CHECKING:
    from rofo.engines.contract import Engine


@dataclass(frozen=True)
class Backend:
    """A line of the registry: what the house needs to know of a backend without importing it.

    `engine` is "module:class", called with an EngineSource and EngineSettings. It runs engine files of the
    kind `file`, and it alone those of the kind `typed`, whose number types are in the graph. It needs
    `module`, which `extra` installs, and computes in one of `precisions`; in that of the file where there are
    none. `automatic` is False where only trying tells whether it can run. `from_memory` backends are handed
    the file's content, `takes_stream` ones a CUDA stream.
    """

    title: str
    engine: str
    file: str
    module: str
    extra: str
    precisions: tuple[str, ...] = ()
    automatic: bool = True
    on_gpu: bool = False
    takes_stream: bool = False
    from_memory: bool = False
    typed: str | None = None

    def runs(self, kind: str) -> bool:
        """Whether it runs engine files of a kind."""
        return kind in (self.file, self.typed)


# In the order in which `auto` tries them: OpenVINO runs the Roformers about twice as fast on a CPU as ONNX
# Runtime.
BACKENDS: dict[str, Backend] = {
    "openvino": Backend(
        "OpenVINO", "rofo.engines.openvino:OpenVinoEngine", "onnx", "openvino", "rofo[cpu]",
        ("fp32", "bf16", "int8"),
    ),
    "onnxruntime": Backend(
        "ONNX Runtime", "rofo.engines.onnxruntime:CpuEngine", "onnx", "onnxruntime", "rofo[ort]",
        ("fp32", "int8"),
    ),
    "onnxruntime-cuda": Backend(
        "ONNX Runtime", "rofo.engines.onnxruntime:CudaEngine", "onnx", "onnxruntime", "rofo[ort-gpu]",
        ("fp32",), automatic=False, on_gpu=True, typed="onnxruntime-cuda",
    ),
    "tensorrt-rtx": Backend(
        "TensorRT-RTX", "rofo.engines.tensorrt:TensorRtEngine", "tensorrt-rtx", "tensorrt_rtx", "rofo[rtx]",
        on_gpu=True, takes_stream=True, from_memory=True,
    ),
    "tensorrt": Backend(
        "TensorRT", "rofo.engines.tensorrt:TensorRtEngine", "tensorrt", "tensorrt", "rofo[tensorrt]",
        on_gpu=True, takes_stream=True, from_memory=True,
    ),
}  # fmt: skip
BACKEND_NAMES = tuple(BACKENDS)


@dataclass(frozen=True)
class EngineSettings:
    """How an engine is run.

    `backend` is auto or one of BACKENDS. `precision` is auto or one of rofo.manifest.PRECISIONS; on a
    processor auto takes int8 or bf16 only where it computes in it and the measured parity of the manifest
    allows it; a plan has the precision it was built with. `threads` None lets the backend use all cores.
    `cuda_stream` is the handle of a stream to compute on, for plans. `contexts` is how many execution
    contexts a plan gets: each serves two calls at once and takes the whole of the engine's working memory.
    Raises UsageError for a backend nobody knows and for counts below 1.
    """

    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    cuda_stream: int | None = None
    contexts: int = 1

    def __post_init__(self) -> None:
        if self.backend != "auto" and self.backend not in BACKENDS:
            raise UsageError(f"there is no backend {self.backend!r}; choose auto or {', '.join(BACKENDS)}")
        for name in ("threads", "contexts"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise UsageError(f"{name} is {count}; give 1 or more")
        if self.cuda_stream is not None and self.contexts > 1:
            raise UsageError(
                "on one CUDA stream contexts wait for each other; leave contexts or cuda_stream out"
            )


def open_engine(path: Path, manifest: Manifest, settings: EngineSettings | None = None) -> "Engine":
    """Check an engine file against its manifest and load it; `settings` None are the defaults.

    Raises EngineLoadError: missing file, backend not installed, precision not available, file altered,
    built by another version or for another GPU, no driver, a forked process; UsageError for a stream where
    there is no GPU.
    """
    from rofo.engines.contract import EngineSource
    from rofo.engines.process import belongs_here, check_opening

    check_opening(str(path))
    settings = settings or EngineSettings()
    entry = _entry(path, manifest)
    name = choose_backend(path, entry, settings.backend)
    backend = BACKENDS[name]
    if settings.cuda_stream is not None and not backend.takes_stream:
        raise UsageError(f"{path}: backend {name} takes no CUDA stream; leave cuda_stream out")
    if not path.is_file():
        raise EngineLoadError(f"{path}: no such engine; export the checkpoint with rofo-export")
    content = verify_file(path, entry.sha256, keep=backend.from_memory)
    if entry.data is not None and entry.data_sha256 is not None:
        verify_file(path.with_name(entry.data), entry.data_sha256)
    engine: Engine = resolve_name(backend.engine)(EngineSource(path, manifest, entry, content), settings)
    belongs_here(engine)
    runs = {key: getattr(engine, key) for key in ("backend", "precision", "device", "batch")}
    told = "%s: opened, %s in %s on %s, batch %d"
    LOG.info(told, path, *runs.values(), extra={"engine": path.name, **runs})
    return engine


def backends_for(file: str) -> dict[str, Backend]:
    """The backends that `auto` may take for a kind of engine file, in its order."""
    return {name: one for name, one in BACKENDS.items() if one.runs(file) and one.automatic}


def choose_backend(path: Path, entry: EngineFile, wanted: str = "auto") -> str:
    """The name of the backend that runs an engine file. Raises EngineLoadError."""
    fitting = {name: one for name, one in BACKENDS.items() if one.runs(entry.backend)}
    if wanted != "auto" and wanted not in fitting:
        offer = " or ".join(fitting) or "a newer rofo"
        raise EngineLoadError(f"{path}: backend {wanted} cannot run this file; use --backend {offer}")
    automatic = backends_for(entry.backend) or fitting
    candidates = automatic if wanted == "auto" else {wanted: fitting[wanted]}
    missing: list[str] = []
    for name, one in candidates.items():
        if find_spec(one.module) is not None:
            if missing:
                told = f"{' and '.join(missing)} not installed, {name} runs it"
                LOG.warning("%s: %s", path, told, extra={"engine": path.name, "backend": name})
            return name
        missing.append(name)
    cures = " or ".join(f"pip install '{one.extra}'" for one in candidates.values())
    lacking = " or ".join(missing) or f"backend for {entry.backend} files"
    raise EngineLoadError(f"{path}: {lacking} is not installed; {cures or 'install a newer rofo'}")


def _entry(path: Path, manifest: Manifest) -> EngineFile:
    for entry in manifest.engines:
        if entry.file == path.name:
            return entry
    known = ", ".join(e.file for e in manifest.engines)
    raise EngineMismatchError(f"{path}: its manifest describes only {known}; export again with rofo-export")
