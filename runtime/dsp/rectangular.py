"""The scheme `rectangular`, that of the SDX'23 kit and Ultimate Vocal Remover for MDX23C models.

Chunks start every chunk // N samples, chunk - chunk // N zeros lie before the song and after it, and the
chunks are averaged. The reference divides their sum by N, which is the number of chunks over every sample
where N divides the chunk; rofo divides by that number, so that the level is right for any N.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from rofo.dsp.blocks import ZeroPadded
from rofo.dsp.scheme import Chunk, Floats, checked_overlap

DEFAULT_CHUNKS = 8


@dataclass(frozen=True)
class Rectangular:
    """Chunk length and step between chunks, in samples."""

    chunk: int
    step: int

    @classmethod
    def of(cls, chunk: int, n_fft: int, overlap: float | None) -> "Rectangular":
        """N is 1 / (1 - overlap), rounded: 0.5 is 2 chunks over every sample, 0.75 is 4, None is 8."""
        chunks = DEFAULT_CHUNKS if overlap is None else round(1 / (1 - checked_overlap(overlap)))
        return cls(chunk, max(1, chunk // chunks))

    def cut(self, blocks: Iterable[Floats]) -> Iterator[Chunk]:
        """As in Scheme. Chunks that lie wholly behind the song are left out."""
        song = ZeroPadded(blocks)
        window = np.ones(self.chunk, np.float32)
        for index, start in enumerate(count(self.step - self.chunk, self.step)):
            samples = song.chunk(start, self.chunk)
            if samples is None:
                return
            yield Chunk(index, start, samples, window, max(0, song.within(start + self.step)))
