"""TensorRT and TensorRT-RTX on an NVIDIA GPU: engines in .plan files."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rofo.engines.contract import Shapes
from rofo.engines.cuda import CudaError, CudaMemoryError, open_cuda
from rofo.engines.kernel_cache import KernelCache
from rofo.engines.lanes import SLOTS, ClosedError, Lane, Lanes
from rofo.engines.tensorrt_library import LibraryError, check_gpu, load_library, rebuild
from rofo.errors import EngineLoadError, EngineMismatchError, EngineRunError
from rofo.manifest import EngineFile, Manifest

_GB = 1e9


class TensorRtEngine:
    """One deserialised plan; concurrent callers get execution contexts and buffers from a pool.

    A plan is code: `open_engine` has compared its hash with the manifest, and host code in it stays
    disallowed, which is the libraries' default. `cuda_stream` is the handle of a stream of the device's
    primary context to compute on; it stays the caller's. `cuda_graphs` lets TensorRT-RTX replay its launches:
    off, because a Roformer's 250 or so kernels are queued in a fraction of the time they run, and while a
    graph is being captured no other thread of the process may allocate GPU memory.
    """

    in_flight = SLOTS

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        entry: EngineFile,
        precision: str,
        *,
        cuda_stream: int | None = None,
        cuda_graphs: bool = False,
    ) -> None:
        self._path, self._manifest, self._entry = path, manifest, entry
        self.backend: str = entry.backend
        self.precision: str = entry.precision
        self.batch = entry.batch
        self._rebuild = rebuild(manifest, entry.backend)
        if precision not in ("auto", entry.precision):
            raise EngineLoadError(
                f"{path}: this plan computes in {entry.precision}, not {precision}; use "
                f"--precision {entry.precision}, or build it again: {self._rebuild} --precision {precision}"
            )
        self._shapes = Shapes.of(manifest, entry.batch)
        self._process, self._lost, self._written = os.getpid(), False, False
        self._stream, self._graphs = cuda_stream, cuda_graphs
        self._runtime: Any = None
        self._engine: Any = None
        self._config: Any = None
        self._compiled: Any = None
        self._library = load_library(path, manifest, entry)
        self._cuda = open_cuda(path, self._library.extra)
        with ExitStack() as opening, self._failing_as(EngineLoadError):
            opening.callback(self._cuda.close)
            self._check_device()
            opening.callback(self._forget)
            with self._cuda.current():
                self._deserialise()
            # On a caller's stream a second context would only wait for the first.
            self._lanes = Lanes(self._lane, most=None if cuda_stream is None else 1)
            opening.callback(self._lanes.close)
            self._resources = opening.pop_all()

    @property
    def healthy(self) -> bool:
        """False once the GPU is lost to this process, which must then be started anew."""
        return not self._lost

    def run(self, mix: NDArray[np.float32]) -> NDArray[np.float32]:
        """See rofo.engines.Engine."""
        if os.getpid() != self._process:
            raise EngineRunError(
                f"{self._path}: opened before this process was forked, and a GPU does not follow; "
                "open the engine in the new process, or start processes with spawn"
            )
        if self._lost:
            raise EngineRunError(f"{self._path}: the GPU was lost earlier; start the process again")
        if mix.shape != self._shapes.mix or mix.dtype != np.float32:
            raise EngineRunError(
                f"{self._path}: the engine takes float32 {self._shapes.mix}, not {mix.dtype} {mix.shape}"
            )
        with self._failing_as(EngineRunError):
            with self._lanes.lent() as (lane, slot):
                stems = lane.run(slot, mix)
                self._keep_kernels(again=False)
            return stems

    def close(self) -> None:
        """See rofo.engines.Engine; waits for calls under way."""
        if os.getpid() == self._process:
            self._resources.close()

    def __del__(self) -> None:
        if hasattr(self, "_resources") and not sys.is_finalizing():
            self.close()

    def _check_device(self) -> None:
        check_gpu(self._path, self._manifest, self._entry, self._cuda.gpu)
        if self._stream is not None and not self._cuda.owns(self._stream):
            raise EngineLoadError(
                f"{self._path}: the CUDA stream given belongs to a context other than the primary one of "
                f"{self._cuda.gpu.name}; make it in that one, with pycuda by pycuda.autoprimaryctx"
            )

    def _deserialise(self) -> None:
        call, module = self._library.call, self._library.module
        self._runtime = call(module.Runtime, self._library.log)
        try:
            self._engine = call(self._runtime.deserialize_cuda_engine, self._path.read_bytes())
        except OSError as error:
            raise EngineLoadError(f"{self._path}: {error.strerror or error}") from error
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
        self._kernels = KernelCache(
            entry.sha256, entry.backend_version, gpu.name, gpu.compute_capability, str(self._graphs)
        )
        self._config = call(self._engine.create_runtime_config)
        self._compiled = call(self._config.create_runtime_cache)
        kept = self._kernels.load()
        self._kept = hash(kept)
        with suppress(LibraryError):  # kernels of another driver are refused, and made anew
            if kept:
                call(self._compiled.deserialize, kept)
        call(self._config.set_runtime_cache, self._compiled)
        if self._graphs:
            self._config.cuda_graph_strategy = self._library.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE

    def _keep_kernels(self, *, again: bool) -> None:
        """Write down what was compiled: after the first call, and `again` at the end where it has grown."""
        if self._compiled is None or (self._written and not again) or self._lost:
            return
        self._written = True
        content = b""
        with suppress(LibraryError, CudaError), self._cuda.current():
            content = bytes(memoryview(self._library.call(self._compiled.serialize)))
        if content and hash(content) != self._kept:
            self._kept = hash(content)
            self._kernels.save(content)

    def _lane(self) -> Lane:
        # A graph is tied to the addresses it was captured with, so that there can be one set of buffers only.
        slots = 1 if self._graphs else SLOTS
        return Lane(self._cuda, self._library, self._context, self._shapes, self._stream, slots)

    def _context(self) -> Any:
        options = () if self._config is None else (self._config,)
        try:
            return self._library.call(self._engine.create_execution_context, *options)
        except LibraryError as error:
            if not error.out_of_memory:
                raise
            raise CudaMemoryError(
                "create_execution_context",
                "out of memory",
                str(error),
                needed=self._engine.device_memory_size_v2,
            ) from error

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
            raise kind(f"{self._path}: {self._shortage(error)}") from error
        except CudaError as error:
            self._lost = self._lost or error.fatal
            cure = "start the process again" if error.fatal else "see nvidia-smi, or run the .onnx engine"
            raise kind(f"{self._path}: the GPU failed, {error}; {cure}") from error
        except LibraryError as error:
            if error.out_of_memory:
                raise kind(f"{self._path}: {self._shortage(None)}") from error
            raise kind(
                f"{self._path}: {self._library.title} failed ({error}); try the .onnx engine of this export"
            ) from error

    def _shortage(self, error: CudaMemoryError | None) -> str:
        if error is not None and error.on_host:
            return f"no {error.needed / _GB:.2f} GB of host memory to pin; end other programs"
        known = [size for size in (self._entry.device_memory, error and error.needed) if size]
        needs = f"needs {max(known) / _GB:.2f} GB, " if known else ""
        try:
            with self._cuda.current():
                free, total = self._cuda.memory()
            room = f"{free / _GB:.2f} of {total / _GB:.2f} GB are free on {self._cuda.gpu.name}"
        except CudaError:
            room = f"how much is free on {self._cuda.gpu.name} is not known"
        return f"out of GPU memory: {needs}{room}; end other programs there, or export with a smaller --batch"
