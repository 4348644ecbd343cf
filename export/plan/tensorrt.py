"""ONNX to plan: TensorRT-RTX ahead of time, without a GPU; TensorRT on the very GPU the plan is for.

Both have the same Python interface where it matters here. TensorRT-RTX and TensorRT 11 take types from the
graph alone; TensorRT 10 is told to. Plans hold no host code and no weights but their own.
"""

import importlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from rofo.errors import EngineLoadError
from rofo.export.plan.gpus import GIB, GPUS, PORTABLE, Gpu, peak_rate
from rofo.export.plan.program import count_launches, device_memory

Backend = Literal["tensorrt-rtx", "tensorrt"]

# Module and extra of each backend.
BUILDERS: dict[str, tuple[str, str]] = {
    "tensorrt-rtx": ("tensorrt_rtx", "rofo[rtx]"),
    "tensorrt": ("tensorrt", "rofo[tensorrt]"),
}


@dataclass(frozen=True)
class Built:
    """What a plan is tied to, and what it says of itself: None where only the GPU can tell.

    `device_memory` is in bytes, `launches` are the kernels of one run.
    """

    version: str
    compute_capabilities: tuple[str, ...]
    device_memory: int | None
    launches: int | None


def load_builder(backend: str) -> ModuleType:
    """The library that builds plans for a backend. Raises EngineLoadError where it is not installed."""
    module, extra = BUILDERS[backend]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EngineLoadError(
            f"{backend}: its builder cannot be loaded ({_one_line([str(error)])}); pip install '{extra}', "
            "or --target onnx"
        ) from None


def target_gpu(backend: str, name: str | None) -> Gpu:
    """The card a plan is for: `name` of GPUS, by default the RTX 4090; for TensorRT the one in this machine.

    Raises EngineLoadError where TensorRT has no GPU, or is asked for another than this machine's.
    """
    if backend == "tensorrt-rtx":
        return GPUS[name or "rtx4090"]
    found = _this_gpu()
    if name is not None and found.capabilities != GPUS[name].capabilities:
        raise EngineLoadError(
            f"tensorrt: builds for the GPU of this machine, {found.name}, not for {GPUS[name].name}; "
            "use --target tensorrt-rtx, or build on that card"
        )
    return found


def build_plan(graph: Path, plan: Path, *, backend: str, gpu: Gpu, stage: Callable[[str], None]) -> Built:
    """Build the typed ONNX file `graph` into `plan`. `stage` is told how far the build is.

    Raises EngineLoadError where the builder is missing, or refuses the graph.
    """
    trt = load_builder(backend)
    log = _log(trt)
    builder = _builder(trt, log, backend)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):  # by path: large weights lie beside the graph
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise _refused(plan, trt, "read the graph", errors + log.errors)
    config, monitor = builder.create_builder_config(), _monitor(trt, stage)
    config.progress_monitor = monitor
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)  # what is float32 stays float32
    timings = None
    if backend == "tensorrt-rtx":
        _set_capabilities(trt, config, gpu)
    else:
        timings = _TimingCache(trt, config, gpu)
    data = builder.build_serialized_network(network, config)
    if monitor.stopped is not None:
        raise monitor.stopped
    if data is None:
        raise _refused(plan, trt, "build the graph", log.errors)
    if timings is not None:
        timings.save()
    plan.write_bytes(data)
    made = bytes(data)
    return Built(str(trt.__version__), gpu.capabilities, device_memory(made), count_launches(made))


def _builder(trt: ModuleType, log: Any, backend: str) -> Any:
    try:
        builder = trt.Builder(log)
    except (TypeError, RuntimeError):  # "factory function returned nullptr"
        builder = None
    if builder is None:
        raise EngineLoadError(
            f"{backend}: its builder does not start ({_one_line(log.errors)}); it needs an NVIDIA driver and "
            "the GPU it builds for; use --target tensorrt-rtx, which needs neither"
        )
    return builder


def _network_flags(trt: ModuleType) -> int:
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _set_capabilities(trt: ModuleType, config: Any, gpu: Gpu) -> None:
    if gpu.capabilities == PORTABLE:
        return  # the library's own default
    config.num_compute_capabilities = len(gpu.capabilities)
    for i, capability in enumerate(gpu.capabilities):
        name = "SM" + capability.replace(".", "")
        try:
            config.set_compute_capability(getattr(trt.ComputeCapability, name), i)
        except AttributeError:
            raise EngineLoadError(
                f"tensorrt-rtx: {trt.__version__} cannot build for compute capability {capability} "
                f"({gpu.name}); pip install --upgrade tensorrt-rtx, or choose another --gpu"
            ) from None


def _log(trt: ModuleType) -> Any:
    """A logger that keeps what went wrong and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message)

    return Log()


def _monitor(trt: ModuleType, stage: Callable[[str], None]) -> Any:
    """Tells `stage` of the build's outermost phases. An exception, Ctrl-C too, ends the build in order.

    It must not leave a method: above it are C++ functions that end the process on any exception.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._told(f"building the plan: {phase_name.lower()}, {num_steps} steps")

        def phase_finish(self, phase_name: str) -> None:
            pass

        def step_complete(self, phase_name: str, step: int) -> bool:
            return self.stopped is None

        def _told(self, text: str) -> None:
            try:
                stage(text)
            except BaseException as error:  # noqa: BLE001 - raised again when the builder has returned
                self.stopped = error

    return Monitor()


class _TimingCache:
    """Kernel timings of earlier builds on this kind of GPU, in the user's cache folder: minutes saved.

    A file that is missing, unreadable or of another kind counts for nothing, and need not be writable.
    """

    def __init__(self, trt: ModuleType, config: Any, gpu: Gpu) -> None:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        kind = gpu.name.replace(" ", "-").replace("/", "-")
        self._file = base / "rofo" / f"tensorrt-{trt.__version__}-{kind}.timings"
        self._config = config
        content = b""
        with suppress(OSError):
            content = self._file.read_bytes()
        if not (content and self._use(content)):
            self._use(b"")

    def save(self) -> None:
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            part = self._file.with_name(f"{self._file.name}.{os.getpid()}")
            part.write_bytes(self._config.get_timing_cache().serialize())
            part.replace(self._file)

    def _use(self, content: bytes) -> bool:
        cache = self._config.create_timing_cache(content)
        return cache is not None and bool(self._config.set_timing_cache(cache, ignore_mismatch=False))


def _this_gpu() -> Gpu:
    try:
        runtime = importlib.import_module("cuda.bindings.runtime")
    except ImportError:
        raise EngineLoadError(
            "tensorrt: cuda-bindings is not installed; pip install 'rofo[tensorrt]'"
        ) from None
    error, properties = runtime.cudaGetDeviceProperties(0)
    if int(error):
        raise EngineLoadError(
            f"tensorrt: no GPU to build for ({error.name}); it builds on the GPU that the plan is for: build "
            "there, or use --target tensorrt-rtx"
        )
    name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
    return Gpu(
        name.strip("\0 ") or f"GPU of {properties.totalGlobalMem / GIB:.0f} GiB",
        (f"{properties.major}.{properties.minor}",),
        int(properties.totalGlobalMem),
        peak_rate(f"{properties.major}.{properties.minor}"),
    )


def _refused(plan: Path, trt: ModuleType, what: str, errors: list[str]) -> EngineLoadError:
    return EngineLoadError(
        f"{plan.name}: {trt.__name__} {trt.__version__} does not {what} ({_one_line(errors)}); "
        "install the version in the manifest of a working plan, or --target onnx"
    )


def _one_line(messages: list[str]) -> str:
    lines = (line.strip() for message in messages for line in message.splitlines())
    return next((line[:300] for line in lines if line), "no reason given")
