"""The scheme `ramp`, that of X-LANCE for long files (`inference_full.py` of xlance-msr).

Chunks start every chunk - fade samples of the song, zeros lie behind it, and each chunk fades in and out
linearly, from and to exact zeros, so that weights sum to 1 where two meet. Nothing meets the first chunk's
beginning nor the last one's end: the song begins in silence, and ends in it as far as zeros do not fill the
last chunk.

The original counts in samples of the file where the network has another rate as well: of a file at 48 kHz
its chunks are 480,000 samples long at 44.1 kHz too. Chunk and fade here are the engine's. A song that is no
longer than a fade, at which the original fails, is one chunk.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from rofo.dsp.blocks import ZeroPadded
from rofo.dsp.scheme import Chunk, Floats, checked_overlap
from rofo.errors import UsageError

DEFAULT_OVERLAP = 1 / 10  # 1 s of 10 s


@dataclass(frozen=True)
class Ramp:
    """Chunk length and how far two chunks overlap, in samples."""

    chunk: int
    fade: int

    @classmethod
    def of(cls, chunk: int, n_fft: int, overlap: float | None) -> "Ramp":
        """`overlap` is the fraction of a chunk shared with the next one, at most a half."""
        share = checked_overlap(DEFAULT_OVERLAP if overlap is None else overlap)
        if share > 1 / 2:
            raise UsageError(f"overlap is {overlap}, more than the half of a chunk that ramp allows")
        return cls(chunk, round(chunk * share))

    def cut(self, blocks: Iterable[Floats]) -> Iterator[Chunk]:
        """As in Scheme."""
        song, step = ZeroPadded(blocks), self.chunk - self.fade
        for index, start in enumerate(count(0, step)):
            # One sample more tells whether the chunk is the last.
            samples = song.chunk(start, self.chunk + 1)
            if samples is None:
                return
            end = song.within(start + self.chunk)
            last = song.length == end
            window, length = self._window(), end - start
            weight = window.copy()
            if not index:
                weight[: self.fade] = 1
            if last:
                weight[self.chunk - self.fade :] = 1
            finished = end if last else start + step
            yield Chunk(
                index, start, samples[:, : self.chunk], window[:length], finished, weight=weight[:length]
            )
            if last:
                return

    def _window(self) -> Floats:
        """(chunk,): ones that fade in and out."""
        window = np.ones(self.chunk, np.float32)
        ramp = np.linspace(0, 1, self.fade)
        window[: self.fade] *= ramp
        window[self.chunk - self.fade :] *= ramp[::-1]
        return window
