"""A pretended GPU machine behind the names of cuda.bindings and TensorRT, for tests without a GPU.

Work put on a stream is done as late as is legal: only when somebody waits for it, and only what that wait
depends on. A missing wait between streams therefore shows as samples that are not numbers. Every call is
counted; call number `fail` fails on purpose. Every allocation must be freed exactly once.
"""

# ruff: noqa: N801, N802, N815 - the names are CUDA's

import ctypes
import json
import sys
import threading
import types
import weakref
from functools import partial
from importlib.machinery import ModuleSpec

import numpy as np

MAGIC = b"plan of the stand-in\n"
# The numbers of CUDA's headers; test_the_numbers_are_cudas compares them with the real bindings.
CODES = {
    "cudaSuccess": 0,
    "cudaErrorInvalidValue": 1,
    "cudaErrorMemoryAllocation": 2,
    "CUDA_ERROR_OUT_OF_MEMORY": 2,
    "cudaErrorInsufficientDriver": 35,
    "cudaErrorNoDevice": 100,
    "cudaErrorECCUncorrectable": 214,
    "CUDA_ERROR_ECC_UNCORRECTABLE": 214,
    "cudaErrorIllegalAddress": 700,
    "CUDA_ERROR_ILLEGAL_ADDRESS": 700,
    "cudaErrorLaunchFailure": 719,
    "CUDA_ERROR_LAUNCH_FAILED": 719,
    "cudaErrorSystemDriverMismatch": 803,
}
PASSING = {"cudaErrorMemoryAllocation", "cudaErrorInvalidValue"}
PRIMARY, FOREIGN = 900, 901


class Status(int):
    """An error code with CUDA's name for it."""

    def __new__(cls, name):
        status = super().__new__(cls, CODES[name])
        status.name = name
        return status


OK = Status("cudaSuccess")


def plan_bytes(inputs, outputs, *, dtype="float32"):
    """A plan file of the stand-in, with shapes by name: output number n is input number n, at half the level
    for the first stem, and so on."""
    facts = {"inputs": dict(inputs), "outputs": dict(outputs), "dtype": dtype}
    return MAGIC + json.dumps(facts).encode() + b"\nend"


class Machine:
    """What is allocated, what is queued, and what was called."""

    def __init__(self):
        self.lock = threading.RLock()
        self.calls, self.faults = [], []
        self.fail, self.error, self.lost = None, "cudaErrorIllegalAddress", None
        self.capability, self.name = (8, 9), "Pretended RTX 4090"
        self.free, self.total = 20_000_000_000, 24_000_000_000
        self.devices, self.driver_version = 1, 13000
        self.contexts_fit, self.says = 100, "the stand-in refuses"
        self.alive, self.buffers, self.pending, self.marks = {}, {}, {}, {}
        self.current = threading.local()
        self.callers_streams = set()
        self.contexts, self.made_contexts = weakref.WeakSet(), 0
        self.networks, self.compiled, self.given_cache = 0, b"", None
        self._next = 1000

    # Calls

    def step(self, name):
        """Count a call; the status it ends with."""
        with self.lock:
            self.calls.append(name)
            if self.lost is None and self.fail == len(self.calls) - 1:
                if self.error not in PASSING:
                    self.lost = self.error
                    self.pending = {stream: [] for stream in self.pending}
                return Status(self.error)
            return OK if self.lost is None else Status(self.lost)

    def library_step(self, name):
        """The same for a call of TensorRT, which must find the primary context current."""
        self.in_primary_context(name)
        return self.step(name)

    def in_primary_context(self, name):
        if self.lost is None and getattr(self.current, "stack", [])[-1:] != [PRIMARY]:
            self.faults.append(f"{name} outside the primary context")

    def create(self, kind):
        self._next += 1
        self.alive[self._next] = kind
        return self._next

    def destroy(self, kind, handle):
        if self.alive.pop(int(handle), None) != kind:
            self.faults.append(f"{kind} {handle} freed twice or never made")
        if any(self.pending.values()):
            self.faults.append(f"{kind} {handle} freed while work is under way")

    def allocate(self, kind, size):
        buffer = (ctypes.c_float * (size // 4))(*([float("nan")] * (size // 4)))
        address = ctypes.addressof(buffer)
        self.buffers[address] = buffer  # kept: what is used after it was freed must not crash the tests
        self.alive[address] = kind
        return address

    def floats(self, address, count, kinds):
        if self.alive.get(address) not in kinds:
            self.faults.append(f"{address} is no live {kinds}")
        return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))

    # Streams

    def queue(self, stream, operation):
        if self.alive.get(stream) != "stream" and stream not in self.callers_streams:
            self.faults.append(f"work on stream {stream}, which is not there")
        self.pending.setdefault(stream, []).append(operation)

    def finish(self, stream, marker=None):
        """Do what is queued on a stream, up to a marker of it."""
        with self.lock:
            queue = self.pending.setdefault(stream, [])
            if marker is not None and marker not in queue:
                return
            while queue:
                operation = queue.pop(0)
                if operation is marker:
                    return
                operation()

    def record(self, event, stream):
        def marker():
            pass

        self.queue(stream, marker)
        self.marks[event] = stream, marker

    def install(self, monkeypatch, *, library="tensorrt_rtx", version="1.7.1"):
        """Put the stand-ins where they will be imported from; `library` None leaves TensorRT as it is."""
        cuda, bindings = types.ModuleType("cuda"), types.ModuleType("cuda.bindings")
        bindings.runtime, bindings.driver = Runtime(self), Driver(self)
        modules = {"cuda": cuda, "cuda.bindings": bindings}
        if library is not None:
            modules[library] = tensorrt(self, library, version)
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        return self

    def settled(self):
        """Nothing is left, nothing was freed twice, no context of ours is left current in this thread."""
        assert self.faults == []
        assert self.alive == {}
        assert getattr(self.current, "stack", []) == []
        assert len(self.contexts) == 0


class Runtime:
    """cuda.bindings.runtime."""

    cudaStreamNonBlocking, cudaEventDisableTiming, cudaEventBlockingSync = 1, 2, 1

    class cudaMemcpyKind:
        cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost = "in", "out"

    def __init__(self, machine):
        self.machine = machine

    def cudaGetErrorString(self, status):
        return OK, f"text of {status.name}".encode()

    def cudaDriverGetVersion(self):
        return OK, self.machine.driver_version

    def cudaGetDeviceCount(self):
        return self._done("cudaGetDeviceCount", lambda: self.machine.devices)

    def cudaGetDevice(self):
        return self._done("cudaGetDevice", lambda: 0)

    def cudaGetDeviceProperties(self, ordinal):
        major, minor = self.machine.capability
        facts = types.SimpleNamespace(name=self.machine.name.encode() + b"\0", major=major, minor=minor)
        return self._done("cudaGetDeviceProperties", lambda: facts)

    def cudaMemGetInfo(self):
        status = self.machine.step("cudaMemGetInfo")
        return (status, 0, 0) if status else (OK, self.machine.free, self.machine.total)

    def cudaStreamCreateWithFlags(self, flags):
        assert flags == 1
        return self._done("cudaStreamCreateWithFlags", lambda: self.machine.create("stream"))

    def cudaEventCreateWithFlags(self, flags):
        assert flags == 3
        return self._done("cudaEventCreateWithFlags", lambda: self.machine.create("event"))

    def cudaMalloc(self, size):
        return self._done("cudaMalloc", lambda: self.machine.allocate("device", size))

    def cudaMallocHost(self, size):
        return self._done("cudaMallocHost", lambda: self.machine.allocate("pinned", size))

    def cudaFree(self, address):
        return self._freed("cudaFree", "device", address)

    def cudaFreeHost(self, address):
        return self._freed("cudaFreeHost", "pinned", address)

    def cudaStreamDestroy(self, handle):
        return self._freed("cudaStreamDestroy", "stream", handle)

    def cudaEventDestroy(self, handle):
        return self._freed("cudaEventDestroy", "event", handle)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        machine = self.machine
        kinds = ("device", "pinned") if kind == "in" else ("pinned", "device")

        def copy():
            machine.floats(target, size // 4, (kinds[0],))[:] = machine.floats(source, size // 4, (kinds[1],))

        return self._done(f"copy {kind}", lambda: machine.queue(stream, copy), values=0)

    def cudaEventRecord(self, event, stream):
        return self._done("cudaEventRecord", lambda: self.machine.record(event, stream), values=0)

    def cudaStreamWaitEvent(self, stream, event, flags):
        machine = self.machine

        def waiting():
            recorded, marker = machine.marks[event]
            machine.queue(stream, lambda: machine.finish(recorded, marker))

        return self._done("cudaStreamWaitEvent", waiting, values=0)

    def cudaEventSynchronize(self, event):
        machine = self.machine
        return self._done("cudaEventSynchronize", lambda: machine.finish(*machine.marks[event]), values=0)

    def cudaStreamSynchronize(self, stream):
        return self._done("cudaStreamSynchronize", lambda: self.machine.finish(stream), values=0)

    def _done(self, name, action, values=1):
        with self.machine.lock:
            if not name.startswith("cudaGet"):
                self.machine.in_primary_context(name)
            status = self.machine.step(name)
            if status:
                return (status, *[None] * values)
            result = action()
            return (OK, result) if values else (OK,)

    def _freed(self, name, kind, handle):
        with self.machine.lock:
            status = self.machine.step(name)
            self.machine.destroy(kind, handle)
            return (status,)


class Driver:
    """cuda.bindings.driver."""

    def __init__(self, machine):
        self.machine = machine

    def cuInit(self, flags):
        return (self.machine.step("cuInit"),)

    def cuDevicePrimaryCtxRetain(self, device):
        status = self.machine.step("cuDevicePrimaryCtxRetain")
        if not status:
            self.machine.alive[PRIMARY] = "primary"
        return status, PRIMARY

    def cuDevicePrimaryCtxRelease(self, device):
        status = self.machine.step("cuDevicePrimaryCtxRelease")
        self.machine.destroy("primary", PRIMARY)
        return (status,)

    def cuCtxPushCurrent(self, context):
        status = self.machine.step("cuCtxPushCurrent")
        if not status:
            self._stack().append(context)
        return (status,)

    def cuCtxPopCurrent(self):
        self._stack().pop()
        return self.machine.step("cuCtxPopCurrent"), PRIMARY

    def cuStreamGetCtx(self, stream):
        status = self.machine.step("cuStreamGetCtx")
        return status, PRIMARY if stream in self.machine.callers_streams else FOREIGN

    def _stack(self):
        if not hasattr(self.machine.current, "stack"):
            self.machine.current.stack = []
        return self.machine.current.stack


def tensorrt(machine, name, version):
    """The module tensorrt_rtx, or tensorrt, which has no cache of kernels."""
    module = types.ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__version__ = version

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING = "internal error", "error", "warning"

    module.ILogger = ILogger
    module.TensorIOMode = types.SimpleNamespace(INPUT="input", OUTPUT="output")
    module.DataType = types.SimpleNamespace(FLOAT="float32")

    class Runtime:
        engine_host_code_allowed = False

        def __init__(self, logger):
            self.logger = logger
            if machine.library_step("Runtime"):
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def deserialize_cuda_engine(self, plan):
            assert not self.engine_host_code_allowed
            bad = not plan.startswith(MAGIC) or not plan.endswith(b"\nend")
            if machine.library_step("deserialize_cuda_engine") or bad:
                refuse(self.logger)
                return None
            facts = json.loads(plan.removeprefix(MAGIC).removesuffix(b"\nend"))
            engine = RtxEngine if name == "tensorrt_rtx" else Engine
            return engine(self.logger, facts)

    def refuse(logger):
        logger.log("warning", "of no account")
        memory = machine.error == "cudaErrorMemoryAllocation"
        logger.log("error", "Error Code 2: OutOfMemory (no further information)" if memory else machine.says)

    class Engine:
        device_memory_size_v2 = 3_000_000_000

        def __init__(self, logger, facts):
            self.logger, self.facts = logger, facts
            self.shapes = facts["inputs"] | facts["outputs"]
            self.num_io_tensors = len(self.shapes)

        def get_tensor_name(self, index):
            return list(self.shapes)[index]

        def get_tensor_mode(self, name):
            return "input" if name in self.facts["inputs"] else "output"

        def get_tensor_shape(self, name):
            return self.shapes[name]

        def get_tensor_dtype(self, name):
            return self.facts["dtype"]

        def create_execution_context(self):
            full = machine.made_contexts >= machine.contexts_fit
            if machine.library_step("create_execution_context") or full:
                if full:
                    self.logger.log("error", "Error Code 2: Out of memory")
                else:
                    refuse(self.logger)
                return None
            return Context(self)

    class RtxEngine(Engine):
        def create_runtime_config(self):
            return None if machine.library_step("create_runtime_config") else Config()

        def create_execution_context(self, config):
            assert isinstance(config, Config)
            return super().create_execution_context()

    class Config:
        def create_runtime_cache(self):
            return None if machine.library_step("create_runtime_cache") else Cache()

        def set_runtime_cache(self, cache):
            return not machine.library_step("set_runtime_cache")

    class Cache:
        def deserialize(self, content):
            machine.given_cache = content
            return not machine.library_step("cache.deserialize")

        def serialize(self):
            return None if machine.library_step("cache.serialize") else machine.compiled

    class Context:
        def __init__(self, engine):
            self.engine, self.addresses = engine, {}
            machine.made_contexts += 1
            machine.contexts.add(self)

        def set_tensor_address(self, name, address):
            if machine.library_step("set_tensor_address"):
                return False
            self.addresses[name] = address
            return True

        def execute_async_v3(self, stream):
            with machine.lock:
                if machine.library_step("execute_async_v3"):
                    refuse(self.engine.logger)
                    return False
                machine.queue(stream, partial(self.network, dict(self.addresses)))
                return True

        def network(self, at):
            machine.networks += 1
            facts = self.engine.facts
            for source, target in zip(facts["inputs"], facts["outputs"], strict=True):
                shape = facts["inputs"][source]
                given = machine.floats(at[source], np.prod(shape), ("device",)).reshape(shape)
                out = machine.floats(at[target], np.prod(facts["outputs"][target]), ("device",))
                gains = 0.5 ** np.arange(1, facts["outputs"][target][1] + 1, dtype=np.float32)
                out[:] = (gains.reshape(-1, *[1] * (len(shape) - 1)) * given[:, None]).ravel()

    module.Runtime = Runtime
    return module
