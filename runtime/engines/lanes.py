"""Execution contexts of one engine: three streams and two sets of buffers each, lent to concurrent calls.

A lane serves two calls at once: while one is computed, the input of the next is copied in and the output
of the last is copied out, each on a stream of its own, so that the GPU computes without a pause.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from rofo.engines.contract import Shapes
from rofo.engines.cuda import Allocations, Cuda, CudaError, CudaMemoryError, Floats
from rofo.engines.tensorrt_library import Library

SLOTS = 2


class ClosedError(Exception):
    """The engine was closed."""


@dataclass(frozen=True)
class _Slot:
    """Buffers of one call, on both sides, and the events between its three steps."""

    mix: Floats
    stems: Floats
    mix_on_gpu: int
    stems_on_gpu: int
    copied_in: int
    computed: int
    copied_out: int

    @classmethod
    def of(cls, shapes: Shapes, allocations: Allocations) -> "_Slot":
        own = allocations
        buffers = own.pinned(shapes.mix), own.pinned(shapes.stems)
        return cls(*buffers, own.device(shapes.mix), own.device(shapes.stems), *(own.event() for _ in "abc"))


class Lane:
    """One execution context, as `context` makes it. Computes on `stream`, or for None on one of its own.

    Raises CudaError (CudaMemoryError) and LibraryError; nothing stays allocated then.
    """

    def __init__(
        self,
        cuda: Cuda,
        library: Library,
        context: Callable[[], Any],
        shapes: Shapes,
        stream: int | None = None,
        slots: int = SLOTS,
    ) -> None:
        self._cuda, self._library = cuda, library
        self._enqueuing = threading.Lock()
        with cuda.current(), cuda.allocations() as self._allocations:
            self._incoming, self._outgoing = self._allocations.stream(), self._allocations.stream()
            self._computing = self._allocations.stream() if stream is None else stream
            self.slots = [_Slot.of(shapes, self._allocations) for _ in range(slots)]
            self._context = context()

    def run(self, slot: _Slot, mix: Floats) -> Floats:
        """mix -> a copy of the stems. Raises CudaError, LibraryError; nothing is under way afterwards."""
        np.copyto(slot.mix, mix)
        with self._cuda.current():
            try:
                with self._enqueuing:
                    self._enqueue(slot)
                self._cuda.wait(slot.copied_out)
            except BaseException as error:
                self._settle(error)
                raise
        return slot.stems.copy()

    def close(self) -> None:
        """Free everything; no call may be under way."""
        with self._cuda.releasing():
            self._context = None
        self._allocations.close()

    def _enqueue(self, slot: _Slot) -> None:
        cuda, call, context = self._cuda, self._library.call, self._context
        cuda.copy_in(slot.mix_on_gpu, slot.mix, self._incoming)
        cuda.record(slot.copied_in, self._incoming)
        cuda.after(slot.copied_in, self._computing)
        call(context.set_tensor_address, "mix", slot.mix_on_gpu)
        call(context.set_tensor_address, "stems", slot.stems_on_gpu)
        call(context.execute_async_v3, self._computing)
        cuda.record(slot.computed, self._computing)
        cuda.after(slot.computed, self._outgoing)
        cuda.copy_out(slot.stems, slot.stems_on_gpu, self._outgoing)
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
    """The lanes of an engine, made when calls need them: the first at once, another for every two callers.

    Where the GPU's memory is too small for another lane, callers wait for those there are.
    """

    def __init__(self, build: Callable[[], Lane], most: int | None = None) -> None:
        self._build, self._most = build, most
        self._changed = threading.Condition()
        self._lanes: list[Lane] = []
        self._idle: list[tuple[Lane, _Slot]] = []
        self._lent, self._building, self._closed = 0, False, False
        self._grow()

    @contextmanager
    def lent(self) -> Iterator[tuple[Lane, _Slot]]:
        """A lane and a slot of it, for one call. Raises ClosedError, and what making a lane raises."""
        place = self._take()
        try:
            yield place
        finally:
            with self._changed:
                self._lent -= 1
                self._idle.append(place)
                self._changed.notify_all()

    def close(self) -> None:
        """Wait for the calls under way, then free the lanes; later calls raise ClosedError."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._lent and not self._building)
            lanes, self._lanes = self._lanes, []
            self._idle.clear()
        for lane in lanes:
            lane.close()

    def _take(self) -> tuple[Lane, _Slot]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._idle or self._may_grow())
                if self._closed:
                    raise ClosedError
                if self._idle:
                    self._lent += 1
                    return self._idle.pop()
                self._building = True
            try:
                self._grow()
            except CudaMemoryError:
                # Callers take turns on what there is. There is one lane at least: the first is not made here.
                self._most = len(self._lanes)
            finally:
                with self._changed:
                    self._building = False
                    self._changed.notify_all()

    def _may_grow(self) -> bool:
        return not self._building and (self._most is None or len(self._lanes) < self._most)

    def _grow(self) -> None:
        lane = self._build()
        with self._changed:
            self._lanes.append(lane)
            self._idle += [(lane, slot) for slot in lane.slots]
