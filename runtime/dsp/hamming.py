"""The scheme `hamming`, that of audio-separator for Roformers.

Chunks start every `step` samples of the song and are weighed by a Hamming window. One that reaches past the
song is put back to the song's end, and is counted as often as there are such chunks. The original's chunks
are 8 s apart, or as far as they are long where that is less: for a chunk of 11 s its overlap is 3 / 11. A
song shorter than a chunk, which the original gives its network as it is, has zeros behind it here.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from rofo.dsp.blocks import ZeroPadded
from rofo.dsp.scheme import Chunk, Floats, checked_overlap


@dataclass(frozen=True)
class Hamming:
    """Chunk length and step between chunks, in samples."""

    chunk: int
    step: int

    @classmethod
    def of(cls, chunk: int, n_fft: int, overlap: float | None) -> "Hamming":
        """`overlap` is the fraction of a chunk shared with the next one, None is none."""
        return cls(chunk, max(1, int(chunk * (1 - checked_overlap(overlap or 0)))))

    def cut(self, blocks: Iterable[Floats]) -> Iterator[Chunk]:
        """As in Scheme."""
        song, window = ZeroPadded(blocks), np.hamming(self.chunk).astype(np.float32)
        for index, start in enumerate(count(0, self.step)):
            # One step more tells where the next chunk begins.
            samples = song.chunk(start, self.chunk + self.step)
            if samples is None:
                return
            seen = start + self.chunk + self.step
            length = song.within(seen)
            if length == seen:
                yield Chunk(index, start, samples[:, : self.chunk], window, start + self.step)
                continue
            last, put_back = max(0, length - self.chunk), -(-length // self.step) - 1 - index
            apart = start < last
            if apart:
                yield Chunk(index, start, samples[:, : self.chunk], window, last)
            ours = samples[:, last - start : last - start + self.chunk]
            weighed = (window * np.float32(put_back + (not apart)))[: length - last]
            yield Chunk(index + apart, last, ours, weighed, length)
            return
