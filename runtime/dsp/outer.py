"""The scheme `outer`, that of MVSEP's `demix_full` for MDX-Net models, with its defaults for GPUs.

The song is cut into long overlapping slices; every slice is separated by the scheme `trim` as if it were the
whole song, with zeros beyond its ends; the slices are averaged. The chunks of all slices are taken in the
order of the samples that they give, so that no slice is ever held as a whole.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise

from rofo.dsp.blocks import ZeroPadded, zero_padded
from rofo.dsp.scheme import Chunk, Floats, check_trimmed, checked_overlap
from rofo.dsp.trim import Trim

SLICE = 1_000_000
DEFAULT_OVERLAP = 0.6


@dataclass(frozen=True)
class Outer:
    """How slices are separated, their length and the step between them, in samples."""

    inner: Trim
    slice: int
    step: int

    @classmethod
    def of(cls, chunk: int, n_fft: int, overlap: float | None) -> "Outer":
        """`overlap` is the fraction of a slice shared with the next one."""
        check_trimmed("outer", chunk, n_fft)
        share = checked_overlap(DEFAULT_OVERLAP if overlap is None else overlap)
        return cls(Trim(chunk, n_fft), SLICE, max(1, int(SLICE * (1 - share))))

    def cut(self, blocks: Iterable[Floats]) -> Iterator[Chunk]:
        """As in Scheme. Chunks of which nothing is kept are left out."""
        song = ZeroPadded(blocks)
        for index, ((begin, first), (following, _)) in enumerate(pairwise(self._places())):
            samples = song.chunk(begin, self.inner.chunk, lead=self.inner.trim)
            if samples is None:
                return
            start, last = begin - self.inner.trim, first + self.slice
            window = self.inner.window(min(self.inner.generated, last - begin))
            yield Chunk(index, start, _inside(samples, start, first, last), window, song.within(following))

    def _places(self) -> Iterator[tuple[int, int]]:
        """The first sample that each chunk gives, ascending, and the first sample of its slice; endless."""
        waiting = [(0, 0)]
        while True:
            begin, first = heappop(waiting)
            yield begin, first
            if begin == first:
                heappush(waiting, (first + self.step, first + self.step))
            if begin + self.inner.generated < first + self.slice:
                heappush(waiting, (begin + self.inner.generated, first))


def _inside(samples: Floats, start: int, first: int, last: int) -> Floats:
    """A chunk that begins at the song's sample `start`, with zeros outside of the slice `first` to `last`."""
    before = max(0, first - start)
    after = max(0, start + samples.shape[1] - last)
    return zero_padded(samples[:, before : samples.shape[1] - after], before, after)
