"""The scheme `crossfade`, that of magronp/bsrnn.

Chunks overlap by `fade` samples, over which the one before fades out linearly and the next one in, so that
weights sum to 1. The first chunk is shorter than the others by a fade, the last one ends with the song. The
original runs these two at their own lengths; an engine has one length, to which they are continued by their
reflection. Of a BSRNN with seeded weights the last chunk is then 14 to 27 dB from the original's, with zeros
instead 5 to 15, and with the song that goes before it 5 to 6; all other chunks are equal.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from rofo.dsp.blocks import fill
from rofo.dsp.scheme import Chunk, Floats, checked_overlap
from rofo.errors import UsageError

DEFAULT_OVERLAP = 1 / 12  # 1 s of 12 s


@dataclass(frozen=True)
class Crossfade:
    """Chunk length and how far two chunks overlap, in samples."""

    chunk: int
    fade: int

    @classmethod
    def of(cls, chunk: int, n_fft: int, overlap: float | None) -> "Crossfade":
        """`overlap` is the fraction of a chunk shared with the next one, at most a third."""
        share = checked_overlap(DEFAULT_OVERLAP if overlap is None else overlap)
        if share > 1 / 3:
            raise UsageError(f"overlap is {overlap}, more than the third of a chunk that crossfade allows")
        return cls(chunk, round(chunk * share))

    def cut(self, blocks: Iterable[Floats]) -> Iterator[Chunk]:
        """As in Scheme."""
        source, step = iter(blocks), self.chunk - self.fade
        held: Floats | None = None
        begin = 0
        for index in count():
            start, end = max(0, index * step - self.fade), (index + 1) * step
            if held is not None:
                held, begin = held[:, start - begin :], start
            # One sample more tells whether the chunk is the last.
            held, ended = fill(source, held, end + 1 - start)
            last, samples = ended and start + held.shape[1] <= end, held[:, : end - start]
            if not samples.size:
                return
            window = self._window(samples.shape[1], into=index > 0, out=not last)
            finished = start + window.size if last else end - self.fade
            yield Chunk(index, start, _reflected(samples, self.chunk), window, finished)
            if last:
                return

    def _window(self, length: int, *, into: bool, out: bool) -> Floats:
        """(length,): ones that fade in and out."""
        window = np.ones(length, np.float32)
        ramp = np.linspace(0, 1, self.fade, dtype=np.float32)
        if into:
            window[: self.fade] = ramp
        if out:
            window[length - self.fade :] *= 1 - ramp
        return window


def _reflected(samples: Floats, length: int) -> Floats:
    """(channels, n), n > 0, continued to `length` by reflecting it again and again."""
    missing = length - samples.shape[1]
    return np.pad(samples, ((0, 0), (0, missing)), mode="reflect") if missing else samples
