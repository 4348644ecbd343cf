"""Execution contexts of one engine: three streams and two sets of buffers each, lent to concurrent calls.

A lane serves two calls at once: while one is computed, the input of the next is copied in and the output
of the last is copied out, each on a stream of its own, so that the GPU computes without a pause.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from rofo.engines.contract import Shapes, Tensors
from rofo.engines.cuda import Allocations, Cuda, CudaError, Floats
from rofo.engines.tensorrt_library import Library

SLOTS = 2


class ClosedError(Exception):
    """The engine was closed."""


@dataclass(frozen=True)
class _Slot:
    """Buffers of one call by tensor, on both sides, and the events between its three steps."""

    host: dict[str, Floats]
    gpu: dict[str, int]
    copied_in: int
    computed: int
    copied_out: int

    @classmethod
    def of(cls, shapes: Shapes, own: Allocations) -> "_Slot":
        tensors = {**shapes.inputs, **shapes.outputs}
        host = {name: own.pinned(shape) for name, shape in tensors.items()}
        gpu = {name: own.device(shape) for name, shape in tensors.items()}
        return cls(host, gpu, own.event(), own.event(), own.event())


class Lane:
    """One execution context, as `context` makes it. Computes on `stream`, or for None on one of its own.

    `compiling` is held while work is queued, for that is when kernels are compiled.
    Raises CudaError (CudaMemoryError) and LibraryError; nothing stays allocated then.
    """

    def __init__(
        self,
        cuda: Cuda,
        library: Library,
        context: Callable[[], Any],
        shapes: Shapes,
        stream: int | None,
        compiling: threading.Lock,
    ) -> None:
        self._cuda, self._library, self._shapes, self._compiling = cuda, library, shapes, compiling
        with cuda.current(), cuda.allocations() as self._allocations:
            self._incoming, self._outgoing = self._allocations.stream(), self._allocations.stream()
            self._computing = self._allocations.stream() if stream is None else stream
            self.slots = [_Slot.of(shapes, self._allocations) for _ in range(SLOTS)]
            self._context = library.call(context)

    def run(self, slot: _Slot, inputs: Tensors) -> Tensors:
        """Inputs -> copies of the outputs, with nothing under way. Raises CudaError, LibraryError."""
        for name, tensor in inputs.items():
            np.copyto(slot.host[name], tensor)
        with self._cuda.current():
            try:
                with self._compiling:
                    self._enqueue(slot)
                self._cuda.wait(slot.copied_out)
            except BaseException as error:
                self._settle(error)
                raise
        return {name: slot.host[name].copy() for name in self._shapes.outputs}

    def close(self) -> None:
        """Free everything; no call may be under way."""
        with self._cuda.releasing():
            self._context = None
        self._allocations.close()

    def _enqueue(self, slot: _Slot) -> None:
        cuda, call, context = self._cuda, self._library.call, self._context
        for name in self._shapes.inputs:
            cuda.copy_in(slot.gpu[name], slot.host[name], self._incoming)
        cuda.record(slot.copied_in, self._incoming)
        cuda.after(slot.copied_in, self._computing)
        for name, address in slot.gpu.items():
            call(context.set_tensor_address, name, address)
        call(context.execute_async_v3, self._computing)
        cuda.record(slot.computed, self._computing)
        cuda.after(slot.computed, self._outgoing)
        for name in self._shapes.outputs:
            cuda.copy_out(slot.host[name], slot.gpu[name], self._outgoing)
        cuda.record(slot.copied_out, self._outgoing)

    def _settle(self, error: BaseException) -> None:
        """Wait out what a failed call left on the streams: its buffers will be used again.

        What the streams end with is the cause where the call itself could not tell, so it is raised instead.
        """
        ends = [self._cuda.drain(s) for s in (self._incoming, self._computing, self._outgoing)]
        fatal = next((end for end in ends if end is not None and end.fatal), None)
        if fatal is not None and not (isinstance(error, CudaError) and error.fatal):
            raise fatal from error


class Lanes:
    """The lanes of an engine and the calls that take turns on them."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._changed, self._closed = threading.Condition(), False
        # In turn, so that two callers get two lanes where there are two.
        self._idle = deque((lane, lane.slots[i]) for i in range(SLOTS) for lane in lanes)
        self._places = len(self._idle)

    @contextmanager
    def lent(self) -> Iterator[tuple[Lane, _Slot]]:
        """A lane and a slot of it, for one call. Raises ClosedError."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._idle)
            if self._closed:
                raise ClosedError
            place = self._idle.popleft()
        try:
            yield place
        finally:
            with self._changed:
                self._idle.append(place)
                self._changed.notify_all()

    def close(self) -> None:
        """Wait for the calls under way; later calls raise ClosedError."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._idle) == self._places)
