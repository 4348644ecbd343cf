"""TensorRT and TensorRT-RTX on an NVIDIA GPU: engines in .plan files."""

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

from rofo.engines import EngineSettings
from rofo.engines.contract import EngineSource, Shapes, Tensors, described, fits
from rofo.engines.cuda import PER_THREAD_STREAM, CudaError, CudaMemoryError, open_cuda
from rofo.engines.kernel_cache import KernelCache
from rofo.engines.lanes import SLOTS, ClosedError, Lane, Lanes
from rofo.engines.tensorrt_library import LibraryError, check_gpu, load_library, rebuild
from rofo.errors import EngineLoadError, EngineMismatchError, EngineRunError, UsageError
from rofo.log import LOG

_GB = 1e9


class TensorRtEngine:
    """One deserialised plan; concurrent callers take turns on its execution contexts and buffers.

    A plan is code: the bytes deserialised are those whose hash was compared with the manifest, and host code
    in them stays disallowed, which is the libraries' default. `cuda_stream` is the handle of a stream of the
    device's primary context to compute on; it stays the caller's. CUDA graphs are off: a Roformer's 250 or so
    kernels are queued in a fraction of the time they run, and while a graph is being captured no other thread
    of the process may allocate GPU memory.
    """

    in_flight = SLOTS

    def __init__(self, source: EngineSource, settings: EngineSettings) -> None:
        entry = source.entry
        self._path, self._manifest, self._entry = source.path, source.manifest, entry
        self.backend, self.batch = entry.backend, entry.batch
        self.precision: str = entry.precision
        self._rebuild = rebuild(source.manifest, entry.backend)
        if settings.precision not in ("auto", entry.precision):
            raise EngineLoadError(
                f"{self._path}: this plan computes in {entry.precision}, not {settings.precision}; "
                f"use --precision {entry.precision}, or build it again: {self._rebuild} "
                f"--precision {settings.precision}"
            )
        if settings.cuda_stream == PER_THREAD_STREAM:
            raise UsageError(
                f"{self._path}: CUDA stream {PER_THREAD_STREAM} is another one in every thread, and the "
                "engine has threads of its own; give a stream that was created"
            )
        self._shapes = Shapes.of(source.manifest, entry.batch)
        self._lost, self._written = False, False
        self._compiling = threading.Lock()
        self._runtime: Any = None
        self._engine: Any = None
        self._config: Any = None
        self._compiled: Any = None
        self._library = load_library(source)
        self._cuda = open_cuda(self._path, self._library.extra)
        self.device: str = self._cuda.gpu.name
        with ExitStack() as opening, self._failing_as(EngineLoadError):
            opening.callback(self._cuda.close)
            self._check_device(settings.cuda_stream)
            opening.callback(self._forget)
            with self._cuda.current():
                self._deserialise(source.content)
            lanes = []
            for _ in range(settings.contexts):
                lanes.append(self._lane(settings.cuda_stream))
                opening.callback(lanes[-1].close)
            self._lanes = Lanes(lanes)
            opening.callback(self._lanes.close)
            self._resources = opening.pop_all()

    @property
    def healthy(self) -> bool:
        """False once the GPU is lost to this process, which must then be started anew."""
        return not self._lost

    def run(self, inputs: Tensors) -> Tensors:
        """See rofo.engines.contract.Engine."""
        if self._lost:
            raise EngineRunError(f"{self._path}: the GPU was lost earlier; start the process again")
        if not fits(inputs, self._shapes.inputs):
            raise EngineRunError(
                f"{self._path}: the engine takes float32 {self._shapes.inputs}, not {described(inputs)}"
            )
        with self._failing_as(EngineRunError):
            with self._lanes.lent() as (lane, slot):
                outputs = lane.run(slot, inputs)
                self._keep_kernels(again=False)
            return outputs

    def close(self) -> None:
        """See rofo.engines.contract.Engine; waits for calls under way."""
        self._resources.close()

    def __del__(self) -> None:
        if hasattr(self, "_resources") and not sys.is_finalizing():
            self.close()

    def _check_device(self, stream: int | None) -> None:
        check_gpu(self._path, self._manifest, self._entry, self._cuda.gpu)
        if stream is not None and not self._cuda.owns(stream):
            raise EngineLoadError(
                f"{self._path}: the CUDA stream given belongs to a context other than the primary one of "
                f"{self._cuda.gpu.name}; make it in that one, with pycuda by pycuda.autoprimaryctx"
            )

    def _deserialise(self, plan: bytes) -> None:
        call, module = self._library.call, self._library.module
        self._runtime = call(module.Runtime, self._library.log)
        try:
            self._engine = call(self._runtime.deserialize_cuda_engine, plan)
        except LibraryError as error:
            if error.out_of_memory:
                raise
            raise EngineMismatchError(
                f"{self._path}: {self._library.title} cannot load it ({error}); "
                f"build it again: {self._rebuild}"
            ) from error
        self._check_tensors()
        if self.backend == "tensorrt-rtx":
            self._configure()

    def _check_tensors(self) -> None:
        engine, module = self._engine, self._library.module
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        shapes: dict[bool, dict[str, tuple[int, ...]]] = {True: {}, False: {}}
        for name in names:
            incoming = engine.get_tensor_mode(name) == module.TensorIOMode.INPUT
            shapes[incoming][name] = tuple(engine.get_tensor_shape(name))
        self._shapes.check(self._path, shapes[True], shapes[False])
        for name in names:
            if engine.get_tensor_dtype(name) != module.DataType.FLOAT:
                raise EngineMismatchError(
                    f"{self._path}: its {name} is {engine.get_tensor_dtype(name)}, not float32; "
                    f"build it again: {self._rebuild}"
                )

    def _configure(self) -> None:
        """Have the kernels that TensorRT-RTX compiles for this GPU kept for the next start."""
        call, entry, gpu = self._library.call, self._entry, self._cuda.gpu
        self._kernels = KernelCache(entry.sha256, entry.backend_version, gpu.name, gpu.compute_capability)
        self._config = call(self._engine.create_runtime_config)
        self._compiled = call(self._config.create_runtime_cache)
        self._kept = self._kernels.load()
        try:
            if self._kept:
                call(self._compiled.deserialize, self._kept)
        except LibraryError as error:
            told = f"kernels kept by another driver are compiled anew ({error})"
            LOG.info("%s: %s", self._path, told, extra={"engine": self._path.name})
        call(self._config.set_runtime_cache, self._compiled)

    def _keep_kernels(self, *, again: bool) -> None:
        """Write down what was compiled: after the first call, and `again` at the end where it has grown.

        Not while another call is queued, and may be compiling: nothing says that the cache can be read then.
        """
        if self._compiled is None or (self._written and not again) or self._lost:
            return
        self._written = True
        content = b""
        with suppress(LibraryError, CudaError), self._compiling, self._cuda.current():
            content = bytes(memoryview(self._library.call(self._compiled.serialize)))
        if content and content != self._kept:
            self._kept = content
            self._kernels.save(content)

    def _lane(self, stream: int | None) -> Lane:
        options = () if self._config is None else (self._config,)
        context = partial(self._engine.create_execution_context, *options)
        return Lane(self._cuda, self._library, context, self._shapes, stream, self._compiling)

    def _forget(self) -> None:
        with self._cuda.releasing():
            self._keep_kernels(again=True)
            self._compiled = self._config = self._engine = self._runtime = None

    @contextmanager
    def _failing_as(self, kind: type[EngineLoadError] | type[EngineRunError]) -> Iterator[None]:
        """Turn what CUDA and TensorRT raise into errors of one line."""
        try:
            yield
        except ClosedError:
            raise EngineRunError(f"{self._path}: the engine was closed; open it again") from None
        except CudaMemoryError as error:
            raise kind(f"{self._path}: {self._shortage(error.needed, on_host=error.on_host)}") from error
        except CudaError as error:
            self._lost = self._lost or error.fatal
            cure = "start the process again" if error.fatal else "see nvidia-smi, or run the .onnx engine"
            raise kind(f"{self._path}: the GPU failed, {error}; {cure}") from error
        except LibraryError as error:
            if error.out_of_memory:
                needed = self._engine.device_memory_size_v2 if self._engine else 0
                raise kind(f"{self._path}: {self._shortage(needed)}") from error
            raise kind(
                f"{self._path}: {self._library.title} failed ({error}); try the .onnx engine of this export"
            ) from error

    def _shortage(self, needed: int, *, on_host: bool = False) -> str:
        if on_host:
            return f"no {needed / _GB:.2f} GB of host memory to pin; end other programs"
        needed = max(needed, self._entry.device_memory or 0)
        needs = f"needs {needed / _GB:.2f} GB, " if needed else ""
        try:
            with self._cuda.current():
                free, total = self._cuda.memory()
            room = f"{free / _GB:.2f} of {total / _GB:.2f} GB are free on {self._cuda.gpu.name}"
        except CudaError:
            room = f"how much is free on {self._cuda.gpu.name} is not known"
        return f"out of GPU memory: {needs}{room}; end other programs there, or export with a smaller --batch"
