"""TensorRT and TensorRT-RTX: two modules with one interface, and what a plan demands of them."""

import re
import shlex
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from rofo.engines import BACKENDS
from rofo.engines.contract import EngineSource
from rofo.engines.cuda import Gpu
from rofo.errors import EngineLoadError, EngineMismatchError
from rofo.manifest import EngineFile, Manifest

# What rofo-export builds for with TensorRT-RTX; older and data-centre cards need TensorRT itself.
_RTX_CAPABILITIES = {"8.0", "8.6", "8.7", "8.9", "12.0", "12.1"}
_SOURCE = re.compile(r"\.?\s*In \w+ at /\S+:\d+")
_GPU_OPTIONS = {"8.6": "rtx3090", "8.9": "rtx4090", "12.0": "rtx5090"}


class LibraryError(Exception):
    """TensorRT failed or refused; the text is what it said last."""

    @property
    def out_of_memory(self) -> bool:
        """Whether it said that memory ran out."""
        said = str(self).lower().replace(" ", "").replace("_", "")
        return "outofmemory" in said or "memoryallocation" in said


@dataclass(frozen=True)
class Library:
    """The module of a backend, with its log."""

    title: str
    extra: str
    module: Any
    log: Any

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns. Raises LibraryError where it raises, or returns None or False."""
        said = self.log.own.lines = deque(maxlen=3)
        try:
            result = function(*arguments)
        except Exception as error:
            raise LibraryError(_joined([*(said or self.log.strays), str(error)])) from error
        if result is None or result is False:
            raise LibraryError(_joined(said or self.log.strays) or "refused without a word")
        return result


def load_library(source: EngineSource) -> Library:
    """The library of a plan's backend, in the version that built it.

    Raises EngineLoadError when it cannot be imported, EngineMismatchError for another version: plans are
    valid only for the one that built them.
    """
    path, entry = source.path, source.entry
    backend = BACKENDS[entry.backend]
    try:
        module = import_module(backend.module)
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineLoadError(
            f"{path}: {backend.title} cannot be imported ({_joined([str(error)])}); "
            f"pip install '{backend.extra}'"
        ) from error
    if module.__version__ != entry.backend_version:
        raise EngineMismatchError(
            f"{path}: built by {backend.title} {entry.backend_version}, here is {module.__version__}; "
            f"pip install {entry.backend}=={entry.backend_version}, or build it again: "
            f"{rebuild(source.manifest, entry.backend)}"
        )
    return Library(backend.title, backend.extra, module, _log(module))


def check_gpu(path: Path, manifest: Manifest, entry: EngineFile, gpu: Gpu) -> None:
    """Raise EngineMismatchError unless the plan was built for this GPU's compute capability."""
    wanted, found = entry.compute_capabilities, gpu.compute_capability
    if not wanted or any(_covers(capability, found) for capability in wanted):
        return
    what = f"{path}: built for compute capability {', '.join(wanted)}, {gpu.name} has {found}"
    if entry.backend == "tensorrt-rtx" and found not in _RTX_CAPABILITIES:
        cure = f"TensorRT-RTX is not for this GPU, use TensorRT: {rebuild(manifest, 'tensorrt')}"
    elif entry.backend == "tensorrt-rtx":
        option = f" --gpu {_GPU_OPTIONS.get(found, 'portable')}"
        cure = f"build it again: {rebuild(manifest, entry.backend)}{option}"
    else:
        cure = f"build it again on this machine: {rebuild(manifest, entry.backend)}"
    raise EngineMismatchError(f"{what}; {cure}")


def rebuild(manifest: Manifest, backend: str) -> str:
    """The command that builds a plan of this backend from the manifest's checkpoint."""
    return f"rofo-export {shlex.quote(manifest.source.checkpoint)} --target {backend}"


def _covers(capability: str, found: str) -> bool:
    """Whether a plan for `capability`, "8.9" or "8.0+" for all later ones too, runs on `found`."""
    if capability.endswith("+"):
        return _ordered(found) >= _ordered(capability[:-1])
    return capability == found


def _ordered(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split(".") if part.isdigit())


@cache
def _log(module: Any) -> Any:
    """The log of a library, one for the process: TensorRT keeps the first it is given for everything.

    Every thread has lines of its own, so that calls at the same time keep their causes; `strays` come from
    threads of the library.
    """
    errors = {module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR}

    class Log(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.own, self.strays = threading.local(), deque[str](maxlen=3)

        def log(self, severity: Any, text: str) -> None:
            # The second says where in NVIDIA's sources the first was caught.
            if severity in errors and "catchCudaError" not in text:
                getattr(self.own, "lines", self.strays).append(_SOURCE.sub("", text))

    return Log()


def _joined(lines: Iterable[str]) -> str:
    return " ".join(" / ".join(line for line in lines if line.strip()).split())[:400]
