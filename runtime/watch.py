"""What goes with a separation on its way: whether it was cancelled, how far it is, what its engines took."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from logging import DEBUG
from typing import TYPE_CHECKING

from rofo.errors import CancelledError
from rofo.log import LOG
from rofo.results import Progress

if TYPE_CHECKING:
    from rofo.dsp.scheme import Chunk


@dataclass
class Watch:
    """Of one call. `name` is the engine's in messages, `total` the seconds of its songs; `song` is the file's
    name in the log, None for what is no file."""

    name: str
    cancel: threading.Event | None = None
    progress: Callable[[Progress], None] | None = None
    total: float | None = None
    song: str | None = None
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

    def spend(self, engine: str, seconds: float | None, chunks: "Sequence[Chunk]") -> None:
        """An engine took so long for these chunks; None where it was not run, as they are silent."""
        self.engines[engine] = self.engines.get(engine, 0.0) + (seconds or 0.0)
        if seconds is None:
            self.silent[engine] = self.silent.get(engine, 0) + len(chunks)
        if LOG.isEnabledFor(DEBUG):
            took = "silent, not run" if seconds is None else f"{seconds:.3f} s for {len(chunks)}"
            for chunk in chunks:
                song = self.song if chunk.song is None else f"mixes[{chunk.song}]"
                facts = {"engine": engine, "song": song, "chunk": chunk.index, "seconds": seconds}
                LOG.debug("%s: %s, chunk %d: %s", engine, song, chunk.index, took, extra=facts)

    def finish(self) -> None:
        """All songs of the call are done."""
        facts = {"engine": self.name, "song": self.song, "seconds": self.total, "elapsed": self.elapsed}
        LOG.info("%s: %s done in %.1f s", self.name, self.song or "the mix", self.elapsed, extra=facts)

    def warn(self, text: str) -> None:
        """What the caller is told of a song as well."""
        LOG.warning("%s: %s", self.song, text, extra={"engine": self.name, "song": self.song})

    def quiet(self) -> "Watch":
        """The same for a part whose progress is told by the whole."""
        return replace(self, progress=None)
