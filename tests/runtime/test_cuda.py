"""The CUDA layer against a pretended GPU: what it frees, what it says, and what it leaves as it was."""

import sys
from pathlib import Path

import numpy as np
import pytest
from gpu_standin import CODES, FOREIGN, Machine

from rofo import EngineLoadError
from rofo.engines.cuda import CudaError, CudaMemoryError, open_cuda

PLAN = Path("x.plan")


@pytest.fixture
def machine(monkeypatch):
    return Machine().install(monkeypatch)


@pytest.fixture
def cuda(machine):
    opened = open_cuda(PLAN, "rofo[rtx]")
    yield opened
    opened.close()
    machine.settled()


def refusal(**_):
    with pytest.raises(EngineLoadError) as caught:
        open_cuda(PLAN, "rofo[rtx]")
    text = str(caught.value)
    assert text.startswith("x.plan: ")
    assert "\n" not in text
    return text


def test_the_device_is_described(cuda):
    assert (cuda.gpu.ordinal, cuda.gpu.name, cuda.gpu.compute_capability) == (0, "Pretended RTX 4090", "8.9")
    with cuda.current():
        assert cuda.memory() == (20_000_000_000, 24_000_000_000)


def test_a_round_trip_through_the_gpu(cuda):
    with cuda.current(), cuda.allocations() as own:
        stream, event, near = own.stream(), own.event(), own.device((2, 3))
        there, back = own.pinned((2, 3)), own.pinned((2, 3))
        there[:] = np.arange(6).reshape(2, 3)
        cuda.copy_in(near, there, stream)
        cuda.copy_out(back, near, stream)
        cuda.record(event, stream)
        assert np.isnan(back).all()
        cuda.wait(event)
        np.testing.assert_array_equal(back, [[0, 1, 2], [3, 4, 5]])
    own.close()


def test_the_callers_context_is_left_as_it_was(cuda, machine):
    machine.current.stack = [FOREIGN]
    with cuda.current(), pytest.raises(CudaMemoryError), cuda.allocations() as own:
        own.stream()
        machine.fail, machine.error = len(machine.calls), "cudaErrorMemoryAllocation"
        own.device((1000,))
    assert machine.current.stack == [FOREIGN]
    machine.current.stack = []


def test_out_of_memory_names_the_size_and_the_side(cuda, machine):
    machine.error = "cudaErrorMemoryAllocation"
    with cuda.current(), cuda.allocations() as own:
        for allocate, on_host in ((own.device, False), (own.pinned, True)):
            machine.fail = len(machine.calls)
            with pytest.raises(CudaMemoryError) as caught:
                allocate((1000,))
            assert (caught.value.needed, caught.value.on_host) == (4000, on_host)
            assert not caught.value.fatal
        own.close()


@pytest.mark.parametrize(
    ("name", "fatal"),
    [
        ("cudaErrorIllegalAddress", True),
        ("cudaErrorECCUncorrectable", True),
        ("cudaErrorLaunchFailure", True),
        ("cudaErrorInvalidValue", False),
        ("CUDA_ERROR_ILLEGAL_ADDRESS", True),
        ("CUDA_ERROR_ECC_UNCORRECTABLE", True),
        ("CUDA_ERROR_LAUNCH_FAILED", True),
    ],
)
def test_which_errors_lose_the_gpu(cuda, machine, name, fatal):
    with cuda.current():
        machine.fail, machine.error = len(machine.calls), name
        with pytest.raises(CudaError, match=name) as caught:
            cuda.owns(77) if name.startswith("CUDA") else cuda.memory()
    assert caught.value.fatal is fatal


# CUDA's runtime and driver on which errors end a process, as their headers say.
FATAL = """
    cudaErrorAssert cudaErrorContained cudaErrorContextIsDestroyed cudaErrorCudartUnloading
    cudaErrorDeviceUninitialized cudaErrorDevicesUnavailable cudaErrorECCUncorrectable cudaErrorExternalDevice
    cudaErrorHardwareStackError cudaErrorIllegalAddress cudaErrorIllegalInstruction
    cudaErrorInvalidAddressSpace cudaErrorInvalidPc cudaErrorLaunchFailure cudaErrorLaunchTimeout
    cudaErrorMisalignedAddress cudaErrorMpsClientTerminated cudaErrorNvlinkUncorrectable
    cudaErrorTensorMemoryLeak cudaErrorUnknown
    CUDA_ERROR_ASSERT CUDA_ERROR_CONTAINED CUDA_ERROR_CONTEXT_IS_DESTROYED CUDA_ERROR_DEINITIALIZED
    CUDA_ERROR_DEVICE_UNAVAILABLE CUDA_ERROR_ECC_UNCORRECTABLE CUDA_ERROR_EXTERNAL_DEVICE
    CUDA_ERROR_HARDWARE_STACK_ERROR CUDA_ERROR_ILLEGAL_ADDRESS CUDA_ERROR_ILLEGAL_INSTRUCTION
    CUDA_ERROR_INVALID_ADDRESS_SPACE CUDA_ERROR_INVALID_CONTEXT CUDA_ERROR_INVALID_PC
    CUDA_ERROR_LAUNCH_FAILED CUDA_ERROR_LAUNCH_TIMEOUT CUDA_ERROR_MISALIGNED_ADDRESS
    CUDA_ERROR_MPS_CLIENT_TERMINATED CUDA_ERROR_NVLINK_UNCORRECTABLE CUDA_ERROR_TENSOR_MEMORY_LEAK
    CUDA_ERROR_UNKNOWN
"""


def test_the_real_numbers_are_those_that_lose_the_gpu():
    runtime = pytest.importorskip("cuda.bindings.runtime")
    driver = pytest.importorskip("cuda.bindings.driver")
    real = {**runtime.cudaError_t.__members__, **driver.CUresult.__members__}
    assert {name: int(real[name]) for name in CODES} == CODES
    assert {name for name, code in real.items() if CudaError("", code, "").fatal} == set(FATAL.split())


def test_special_streams_belong_to_every_context(cuda, machine):
    machine.callers_streams.add(77)
    assert [cuda.owns(stream) for stream in (0, 1, 77, 78)] == [True, True, True, False]


# Machines without


@pytest.mark.parametrize(
    ("error", "version", "said"),
    [
        ("InsufficientDriver", 0, "no NVIDIA driver on this machine; install one and see that nvidia-smi"),
        ("InsufficientDriver", 11080, "too old, it knows CUDA up to 11.8 .*; install a newer one"),
        ("NoDevice", 13000, "no CUDA GPU to be seen; check nvidia-smi and CUDA_VISIBLE_DEVICES"),
        ("SystemDriverMismatch", 13000, "CUDA cannot be used: .*SystemDriverMismatch.*; check nvidia-smi"),
    ],
)
def test_no_driver_or_no_gpu(machine, error, version, said):
    machine.fail, machine.error, machine.driver_version = 0, f"cudaError{error}", version
    with pytest.raises(EngineLoadError, match=said):
        open_cuda(PLAN, "rofo[rtx]")
    refusal()
    machine.settled()


def test_a_driver_that_the_linker_does_not_find(machine, monkeypatch):
    def missing():
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    monkeypatch.setattr(sys.modules["cuda.bindings"].runtime, "cudaGetDeviceCount", missing)
    assert "no NVIDIA driver on this machine (Failed to dlopen libcuda.so.1); install one" in refusal()


def test_cuda_bindings_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    text = refusal()
    assert "cuda-bindings cannot be imported" in text
    assert text.endswith("pip install 'rofo[rtx]'")


def test_every_call_of_opening_may_fail(machine):
    open_cuda(PLAN, "x").close()
    count = len(machine.calls) - 1  # letting go of the context is the last, and nobody is told
    for number in range(count):
        machine.calls.clear()
        machine.lost, machine.fail = None, number
        refusal()
        machine.settled()
