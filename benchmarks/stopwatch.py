"""Where the time of a song goes: the steps of its path, timed from inside, without touching the runtime."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

import rofo.model
from rofo.audio import AudioReader
from rofo.audio.writer import StemWriter
from rofo.dsp.spectrogram import Spectrogram

P = ParamSpec("P")
T = TypeVar("T")

READ, STFT, ENGINE, ISTFT, WRITE = "read", "STFT", "engine", "inverse STFT", "write"


class Stopwatch:
    """Seconds and calls by name, added up over all threads; steps that run side by side both count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget what was measured so far."""
        self.seconds: dict[str, float] = dict.fromkeys((READ, STFT, ENGINE, ISTFT, WRITE), 0.0)
        self.calls: dict[str, int] = dict.fromkeys(self.seconds, 0)

    def used(self) -> dict[str, float]:
        """Seconds of the steps that were taken, in the order of a song's path."""
        return {name: seconds for name, seconds in self.seconds.items() if self.calls[name]}

    def timed(self, name: str, function: Callable[P, T]) -> Callable[P, T]:
        """The function, its time counted under `name`."""

        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._count(name, time.perf_counter() - began)

        return call

    def timed_items(self, name: str, function: Callable[P, Iterator[T]]) -> Callable[P, Iterator[T]]:
        """A function that returns an iterator, the time until each item counted under `name`."""

        def call(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
            fetch = self.timed(name, lambda items: next(items, items))
            items = function(*args, **kwargs)
            while (item := fetch(items)) is not items:
                yield item

        return call

    def _count(self, name: str, seconds: float) -> None:
        with self._lock:
            self.seconds[name] += seconds
            self.calls[name] += 1


@contextmanager
def instrumented(stopwatch: Stopwatch) -> Iterator[None]:
    """Within, every step of every separation is counted; engines must be opened within as well."""

    def timing(name: str) -> Callable[[Any], Any]:
        return lambda function: stopwatch.timed(name, function)

    def timing_runs(open_engine: Callable[..., Any]) -> Callable[..., Any]:
        def opened(*args: Any, **kwargs: Any) -> Any:
            engine = open_engine(*args, **kwargs)
            engine.run = stopwatch.timed(ENGINE, engine.run)
            return engine

        return opened

    with ExitStack() as wrapping:
        for owner, name, wrap in (
            (rofo.model, "open_engine", timing_runs),
            (AudioReader, "blocks", lambda blocks: stopwatch.timed_items(READ, blocks)),
            (Spectrogram, "forward", timing(STFT)),
            (Spectrogram, "inverse", timing(ISTFT)),
            (StemWriter, "write", timing(WRITE)),
            (StemWriter, "finish", timing(WRITE)),
        ):
            wrapping.enter_context(wrapped(owner, name, wrap))
        yield


@contextmanager
def wrapped(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Within, `owner.name` is what `wrap` makes of it."""
    before = getattr(owner, name)
    setattr(owner, name, wrap(before))
    try:
        yield
    finally:
        setattr(owner, name, before)
