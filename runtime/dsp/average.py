"""The scheme `average`, that of MSST for Demucs.

Chunks start every `step` samples of the song, zeros lie behind it, and the chunks are averaged.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from rofo.dsp.blocks import ZeroPadded
from rofo.dsp.scheme import Chunk, Floats, checked_overlap

DEFAULT_OVERLAP = 0.75


@dataclass(frozen=True)
class Average:
    """Chunk length and step between chunks, in samples."""

    chunk: int
    step: int

    @classmethod
    def of(cls, chunk: int, n_fft: int, overlap: float | None) -> "Average":
        """`overlap` is the fraction of a chunk shared with the next one."""
        share = checked_overlap(DEFAULT_OVERLAP if overlap is None else overlap)
        return cls(chunk, max(1, round(chunk * (1 - share))))

    def cut(self, blocks: Iterable[Floats]) -> Iterator[Chunk]:
        """As in Scheme."""
        song = ZeroPadded(blocks)
        for index, start in enumerate(count(0, self.step)):
            samples = song.chunk(start, self.chunk)
            if samples is None:
                return
            window = np.ones(song.within(start + self.chunk) - start, np.float32)
            yield Chunk(index, start, samples, window, song.within(start + self.step))
