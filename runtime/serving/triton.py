"""What our models inside Triton share: tensors, errors as answers, and the engine that is another model.

The only file that knows Triton's Python backend. Arrays go in and out by DLPack, without a copy: a server
whose backend was built before numpy 2 (24.10 is) reads numpy's own arrays of a numpy 2 with item size 0.
"""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from rofo.engines.contract import Shapes, Tensors
from rofo.errors import (
    AudioReadError,
    CancelledError,
    EngineOutputError,
    EngineRunError,
    UsageError,
)
from rofo.manifest import Manifest
from rofo.serving.repository import Network
from rofo.text import one_line

_CONSUMED = b"used_dltensor"  # Python keeps the pointer, not a copy


class _Lent:
    """An array that Triton takes over. It names what it consumed its own way, and numpy would complain of
    every tensor on stderr: `settle` gives the capsule the name that DLPack has for it."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = np.require(array, requirements=("C", "W"))

    def __dlpack__(self, **_: Any) -> Any:
        self._capsule = self._array.__dlpack__()
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)  # the processor's memory

    def settle(self) -> None:
        ctypes.pythonapi.PyCapsule_SetName(ctypes.py_object(self._capsule), _CONSUMED)


def to_tensor(name: str, array: NDArray[Any]) -> Any:
    """An array as a tensor of Triton's."""
    lent = _Lent(array)
    tensor = pb_utils.Tensor.from_dlpack(name, lent)
    lent.settle()
    return tensor


def from_tensor(tensor: Any) -> NDArray[Any]:
    """A tensor's array, which may not be written to."""
    array: NDArray[Any] = np.from_dlpack(tensor)
    return array


def inputs_of(request: Any) -> dict[str, NDArray[Any]]:
    """The inputs of a request by name."""
    return {tensor.name(): from_tensor(tensor) for tensor in request.inputs()}


def answer(outputs: Mapping[str, NDArray[Any]]) -> Any:
    """The response that carries these outputs."""
    return pb_utils.InferenceResponse([to_tensor(name, array) for name, array in outputs.items()])


def refusal(error: Exception) -> Any:
    """The response that carries an error, on one line. Raising it instead is suspected of leaking memory
    (https://github.com/triton-inference-server/server/issues/7481)."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(one_line(error), _code(error)))


def log(text: str) -> None:
    """A line in the server's log."""
    pb_utils.Logger.log_info(text)


def _code(error: Exception) -> Any:
    if isinstance(error, UsageError | AudioReadError):
        return pb_utils.TritonError.INVALID_ARG
    if isinstance(error, CancelledError):
        return pb_utils.TritonError.CANCELLED
    if isinstance(error, EngineRunError) and not isinstance(error, EngineOutputError):
        return pb_utils.TritonError.UNAVAILABLE  # the network is full, not loaded, or failed: not the song
    return pb_utils.TritonError.INTERNAL


class TritonEngine:
    """Another model of the same Triton, called by BLS: an Engine of rofo.engines.contract like all others.

    `in_flight` calls of one chunk keep its batches full. That its output fits is for the caller to see.
    """

    backend, device = "triton", "triton"  # which one it is placed on is Triton's to say
    batch = 1
    healthy = True

    def __init__(self, network: Network, manifest: Manifest) -> None:
        self.in_flight, self.precision = network.calls, network.precision
        self._model, self._outputs = network.model, list(Shapes.of(manifest, self.batch).outputs)

    def run(self, inputs: Tensors) -> Tensors:
        """See rofo.engines.contract.Engine. From any thread."""
        processor = pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)
        request = pb_utils.InferenceRequest(
            model_name=self._model,
            requested_output_names=self._outputs,
            inputs=[to_tensor(name, array) for name, array in inputs.items()],
            preferred_memory=processor,
        )
        response = request.exec()
        if response.has_error():
            raise EngineRunError(f"{self._model}: {one_line(Exception(response.error().message()))}")
        return {tensor.name(): from_tensor(tensor) for tensor in response.output_tensors()}

    def close(self) -> None:
        """See rofo.engines.contract.Engine."""


def gathered(batches: Sequence[NDArray[np.float32]], places: int) -> NDArray[np.float32]:
    """What several requests brought for one input, (places, ...): one after the other, then silence."""
    brought = np.concatenate(batches)
    silence = np.zeros((places - len(brought), *brought.shape[1:]), np.float32)
    return np.concatenate([brought, silence]) if len(silence) else brought
