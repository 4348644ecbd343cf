"""The scheme `trim`, that of kuielab for its MDX-Net models.

Of each chunk n_fft // 2 samples are cut off at both ends and the rest, the `generated` samples, is put end to
end. Zeros lie before and after the song. There is no overlap to choose.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from rofo.dsp.blocks import ZeroPadded
from rofo.dsp.scheme import Chunk, Floats, check_trimmed
from rofo.errors import UsageError


@dataclass(frozen=True)
class Trim:
    """Chunk length and transform length, in samples."""

    chunk: int
    n_fft: int

    @classmethod
    def of(cls, chunk: int, n_fft: int, overlap: float | None) -> "Trim":
        """`overlap` is None."""
        if overlap is not None:
            raise UsageError(f"scheme trim has no overlap to choose, and {overlap} is given")
        check_trimmed("trim", chunk, n_fft)
        return cls(chunk, n_fft)

    @property
    def trim(self) -> int:
        """Samples cut off at either end of a chunk."""
        return self.n_fft // 2

    @property
    def generated(self) -> int:
        """Samples kept of a chunk."""
        return self.chunk - 2 * self.trim

    def window(self, kept: int) -> Floats:
        """The weights of a chunk of which the first `kept` generated samples are kept."""
        return np.repeat(np.array([0, 1], np.float32), [self.trim, kept])

    def cut(self, blocks: Iterable[Floats]) -> Iterator[Chunk]:
        """As in Scheme. Chunks of which nothing is kept are left out."""
        song = ZeroPadded(blocks)
        window = self.window(self.generated)
        for index, begin in enumerate(count(0, self.generated)):
            samples = song.chunk(begin, self.chunk, lead=self.trim)
            if samples is None:
                return
            finished = song.within(begin + self.generated)
            yield Chunk(index, begin - self.trim, samples, window, finished)
