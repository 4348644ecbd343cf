"""The scheme `hann`, that of Ultimate Vocal Remover for MDX-Net models.

n_fft // 2 zeros are put before the song, and enough behind it to fill what trimmed chunks would generate:
pad = generated + trim - length mod generated, with trim = n_fft // 2 and generated = chunk - 2 trim. Each
chunk is weighed by a symmetric Hann window as long as the part of it that lies in the padded song, so that
the windows of the last chunks shrink; with no overlap there is no window. The sum of weighted chunks is
divided by the sum of weights. Where all weights are exact zeros, which happens only at an overlap of a sample
or two, UVR gives NaN and rofo 0.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from rofo.dsp.blocks import ZeroPadded
from rofo.dsp.scheme import Chunk, Floats, check_trimmed, checked_overlap


@dataclass(frozen=True)
class Hann:
    """Chunk length, transform length and step between chunks, in samples."""

    chunk: int
    n_fft: int
    step: int

    @classmethod
    def of(cls, chunk: int, n_fft: int, overlap: float | None) -> "Hann":
        """`overlap` is the fraction of a chunk shared with the next one; None is UVR's "Default"."""
        check_trimmed("hann", chunk, n_fft)
        if overlap is None:
            return cls(chunk, n_fft, chunk - n_fft)
        return cls(chunk, n_fft, max(1, int((1 - checked_overlap(overlap)) * chunk)))

    def cut(self, blocks: Iterable[Floats]) -> Iterator[Chunk]:
        """As in Scheme."""
        song = ZeroPadded(blocks)
        whole = self._window(self.chunk)
        for index, start in enumerate(count(-(self.n_fft // 2), self.step)):
            samples = song.chunk(start, self.chunk)
            if samples is None:
                return
            length = self._length(start, song.length)
            window = whole if length == self.chunk else self._window(length)
            yield Chunk(index, start, samples, window, max(0, song.within(start + self.step)))

    def _length(self, start: int, song: int | None) -> int:
        """How much of the chunk lies in the padded song, which is at least as long as what has been read."""
        if song is None:
            return self.chunk
        trim = self.n_fft // 2
        generated = self.chunk - 2 * trim
        padded = song + generated + trim - song % generated
        return min(self.chunk, padded - start)

    def _window(self, length: int) -> Floats:
        if self.step == self.chunk:
            return np.ones(length, np.float32)
        return np.hanning(length).astype(np.float32)
