"""What goes with a separation on its way: whether it was cancelled, how far it is, what its engines took."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rofo.errors import CancelledError
from rofo.results import Progress


@dataclass
class Watch:
    """Of one call. `name` is the engine's in messages, `total` the seconds of its songs."""

    name: str
    cancel: threading.Event | None = None
    progress: Callable[[Progress], None] | None = None
    total: float | None = None
    engines: dict[str, float] = field(default_factory=dict)  # seconds within each, by its manifest's name
    silent: dict[str, int] = field(default_factory=dict)  # chunks of zeros that each was not run for
    began: float = field(default_factory=time.perf_counter)
    _samples: dict[int, float] = field(default_factory=dict)  # done, by their rate

    @property
    def elapsed(self) -> float:
        """Seconds since the call began."""
        return time.perf_counter() - self.began

    def check(self) -> None:
        """Raise CancelledError once that is asked for."""
        if self.cancel is not None and self.cancel.is_set():
            raise CancelledError(f"{self.name}: cancelled")

    def advance(self, samples: float, rate: int) -> None:
        """So many samples of song are done, or as much work as they stand for."""
        self.check()
        self._samples[rate] = self._samples.get(rate, 0) + samples
        if self.progress is not None:
            done = sum(samples / rate for rate, samples in self._samples.items())
            if self.total is not None and done > self.total - 1e-6:  # sums of shares round
                done = self.total
            self.progress(Progress(done, self.total, self.elapsed))

    def spend(self, engine: str, seconds: float | None, chunks: int) -> None:
        """An engine took so long for so many chunks; None where it was not run, as they are silent."""
        self.engines[engine] = self.engines.get(engine, 0.0) + (seconds or 0.0)
        if seconds is None:
            self.silent[engine] = self.silent.get(engine, 0) + chunks

    def quiet(self) -> "Watch":
        """The same for a part whose progress is told by the whole."""
        return replace(self, progress=None)
