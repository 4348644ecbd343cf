"""The CUDA calls an engine needs, over NVIDIA's cuda.bindings: one device, its primary context.

Streams, events and addresses are plain integers, as CUDA, PyTorch and pycuda hand them around.
"""

import ctypes
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rofo.errors import EngineLoadError
from rofo.text import one_line

Floats = NDArray[np.float32]

# After these, CUDA's documentation says, every further call fails and the process must be started anew. The
# runtime and the driver have names of their own for an error, and one number; test_cuda.py has the names.
_FATAL = {4, 46, 201, 214, 220, 226, 700, 702, 709, 710, *range(714, 720), 721, 810, 911, 999}
_OUT_OF_MEMORY = 2
# The default streams exist in every context. That of a thread (2) is another one in each thread.
_LEGACY_STREAM, PER_THREAD_STREAM = 1, 2


class CudaError(Exception):
    """A CUDA call that failed with CUDA's own `name`, such as cudaErrorIllegalAddress.

    `fatal` tells whether the device is lost to this process.
    """

    def __init__(self, call: str, status: Any, text: str) -> None:
        super().__init__(f"{call}: {text} ({status.name})")
        self.name, self.fatal = str(status.name), int(status) in _FATAL


class CudaMemoryError(CudaError):
    """Out of memory: `needed` bytes on the GPU, or of host memory for the GPU to copy from and to."""

    needed, on_host = 0, False


@dataclass(frozen=True)
class Gpu:
    """A device by its number, with its compute capability such as "8.9"."""

    ordinal: int
    name: str
    compute_capability: str


class Cuda:
    """CUDA on the device that is current in the opening thread (the first one unless chosen).

    Everything happens in the device's primary context, the one that PyTorch, CuPy, pycuda.autoprimaryctx and
    TensorRT share; whichever context the calling thread has is left as it was. `runtime` and `driver` are the
    modules of cuda.bindings.
    """

    def __init__(self, runtime: Any, driver: Any) -> None:
        self._runtime, self._driver = runtime, driver
        self._call("cudaGetDeviceCount")
        self.gpu = self._describe(self._call("cudaGetDevice"))
        self._drive("cuInit", 0)
        self._context = int(self._drive("cuDevicePrimaryCtxRetain", self.gpu.ordinal))

    def close(self) -> None:
        """Let go of the primary context; others may still use it."""
        self._driver.cuDevicePrimaryCtxRelease(self.gpu.ordinal)

    @contextmanager
    def current(self) -> Iterator[None]:
        """The primary context is the calling thread's own in here. Raises CudaError."""
        self._drive("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            # Fails only where the context is gone, and then what was called in here said so.
            self._driver.cuCtxPopCurrent()

    @contextmanager
    def releasing(self) -> Iterator[None]:
        """As `current`, for freeing: goes on without where the context is lost."""
        pushed = not int(self._driver.cuCtxPushCurrent(self._context)[0])
        try:
            yield
        finally:
            if pushed:
                self._driver.cuCtxPopCurrent()

    def memory(self) -> tuple[int, int]:
        """Free and total bytes on the GPU. Raises CudaError."""
        free, total = self._call("cudaMemGetInfo")
        return int(free), int(total)

    def owns(self, stream: int) -> bool:
        """Whether a stream belongs to the primary context. Raises CudaError."""
        return stream <= _LEGACY_STREAM or int(self._drive("cuStreamGetCtx", stream)) == self._context

    def copy_in(self, target: int, source: Floats, stream: int) -> None:
        """Queue a copy of pinned host memory to the GPU. Raises CudaError."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", target, source.ctypes.data, source.nbytes, kind, stream)

    def copy_out(self, target: Floats, source: int, stream: int) -> None:
        """Queue a copy of GPU memory to pinned host memory. Raises CudaError."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, source, target.nbytes, kind, stream)

    def record(self, event: int, stream: int) -> None:
        """The event happens when all that is queued on the stream by now is done. Raises CudaError."""
        self._call("cudaEventRecord", event, stream)

    def after(self, event: int, stream: int) -> None:
        """What is queued on the stream from now on waits for the event. Raises CudaError."""
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def wait(self, event: int) -> None:
        """Return when the event has happened. Raises CudaError, also for work that failed before it."""
        self._call("cudaEventSynchronize", event)

    def drain(self, stream: int) -> CudaError | None:
        """Return when the stream is idle; the error it ended with, if any."""
        try:
            self._call("cudaStreamSynchronize", stream)
        except CudaError as error:
            return error
        return None

    def allocations(self) -> "Allocations":
        """An owner for streams, events and buffers."""
        return Allocations(self)

    def _describe(self, ordinal: int) -> Gpu:
        facts = self._call("cudaGetDeviceProperties", ordinal)
        name = facts.name.decode(errors="replace").rstrip("\0")
        return Gpu(int(ordinal), name, f"{facts.major}.{facts.minor}")

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *values = getattr(self._runtime, name)(*arguments)
        if int(status):
            _, text = self._runtime.cudaGetErrorString(status)
            raise _error(name, status, text.decode(errors="replace"))
        return values[0] if len(values) == 1 else values

    def _drive(self, name: str, *arguments: Any) -> Any:
        status, *values = getattr(self._driver, name)(*arguments)
        if int(status):
            raise _error(name, status, "the CUDA driver refused")
        return values[0] if values else None


def _error(call: str, status: Any, text: str) -> CudaError:
    return (CudaMemoryError if int(status) == _OUT_OF_MEMORY else CudaError)(call, status, text)


class Allocations:
    """Streams, events and buffers of one owner, freed together, once, the last one first.

    As a context manager it frees them only when its block fails.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda, self._frees = cuda, ExitStack()

    def stream(self) -> int:
        """A stream that does not wait for the default stream. Raises CudaError."""
        return self._made("cudaStreamCreateWithFlags", "cudaStreamDestroy", "cudaStreamNonBlocking")

    def event(self) -> int:
        """An event whose waiting thread sleeps: a spinning one would take a core from the STFT."""
        return self._made(
            "cudaEventCreateWithFlags", "cudaEventDestroy", "cudaEventDisableTiming", "cudaEventBlockingSync"
        )

    def device(self, shape: tuple[int, ...]) -> int:
        """The address of GPU memory for float32 of this shape. Raises CudaMemoryError."""
        return self._memory("cudaMalloc", "cudaFree", shape)

    def pinned(self, shape: tuple[int, ...]) -> Floats:
        """Host memory that the GPU copies from and to by itself. Raises CudaMemoryError.

        The array must not be used after `close`.
        """
        address = self._memory("cudaMallocHost", "cudaFreeHost", shape)
        kind = ctypes.c_float * prod(shape)
        return np.ctypeslib.as_array(kind.from_address(address)).reshape(shape)

    def close(self) -> None:
        """Free everything. Never fails: what a lost device held is gone with it."""
        with self._cuda.releasing():
            self._frees.close()

    def __enter__(self) -> "Allocations":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.close()

    def _made(self, create: str, destroy: str, *flags: str) -> int:
        runtime = self._cuda._runtime
        handle = self._cuda._call(create, sum(int(getattr(runtime, flag)) for flag in flags))
        self._frees.callback(getattr(runtime, destroy), handle)
        return int(handle)

    def _memory(self, allocate: str, free: str, shape: tuple[int, ...]) -> int:
        size = prod(shape) * np.dtype(np.float32).itemsize
        try:
            address = self._cuda._call(allocate, size)
        except CudaMemoryError as error:
            error.needed, error.on_host = size, allocate == "cudaMallocHost"
            raise
        self._frees.callback(getattr(self._cuda._runtime, free), address)
        return int(address)


def open_cuda(path: Path, extra: str) -> Cuda:
    """CUDA for the engine at `path`, whose backend is installed by `extra`.

    Raises EngineLoadError: cuda-bindings is not installed, no driver or too old a one, no GPU.
    """
    try:
        from cuda.bindings import driver, runtime
    except (ImportError, OSError) as error:
        raise EngineLoadError(
            f"{path}: cuda-bindings cannot be imported ({one_line(error, 200)}); pip install '{extra}'"
        ) from error
    try:
        return Cuda(runtime, driver)
    except CudaError as error:
        raise EngineLoadError(f"{path}: {_unusable(error, runtime)}") from error
    except (RuntimeError, OSError) as error:  # cuda.bindings raises what the dynamic linker says
        raise EngineLoadError(f"{path}: {_NO_DRIVER} ({one_line(error, 200)}); {_DRIVER_CURE}") from error


_NO_DRIVER = "no NVIDIA driver on this machine"
_DRIVER_CURE = "install one and see that nvidia-smi lists the GPU, or run the .onnx engine of the same export"


def _unusable(error: CudaError, runtime: Any) -> str:
    if error.name in ("cudaErrorInsufficientDriver", "cudaErrorStubLibrary"):
        _, found = runtime.cudaDriverGetVersion()
        if not found:
            return f"{_NO_DRIVER}; {_DRIVER_CURE}"
        newest = f"{found // 1000}.{found % 1000 // 10}"
        return (
            f"the NVIDIA driver is too old, it knows CUDA up to {newest} ({error.name}); install a newer one"
        )
    if error.name == "cudaErrorNoDevice":
        return "no CUDA GPU to be seen; check nvidia-smi and CUDA_VISIBLE_DEVICES, or run the .onnx engine"
    return f"CUDA cannot be used: {error}; check nvidia-smi, or run the .onnx engine of the same export"
