"""The scheme `crossfade`, that of magronp/bsrnn.

Chunks overlap by `fade` samples, over which the one before fades out linearly and the next one in, so that
weights sum to 1. The first chunk is shorter than the others by a fade. The original runs it, and what is left
for the last one, at their own lengths; an engine has one length. Here they get more of the song, of which
nothing is kept: the first one what follows, the last one what goes before. A song shorter than a chunk is
continued by its reflection.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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
        source = iter(blocks)
        index, step, held, begin = 0, self.chunk - self.fade, None, 0
        while True:
            start, end = max(0, index * step - self.fade), (index + 1) * step
            held, ended = fill(source, held, max(end, self.chunk) + 1 - begin)
            song = begin + held.shape[1]
            last = ended and end >= song
            if song == 0:
                return
            first = max(0, min(start, song - self.chunk)) if last else start
            held, begin = held[:, first - begin :], first
            window = self._window(start - first, min(end, song) - start, into=index > 0, out=not last)
            finished = song if last else end - self.fade
            yield Chunk(index, first, _reflected(held[:, : self.chunk], self.chunk), window, finished)
            if last:
                return
            index += 1

    def _window(self, before: int, length: int, *, into: bool, out: bool) -> Floats:
        """(before + length,): zeros, then ones that fade in and out."""
        window = np.concatenate((np.zeros(before, np.float32), np.ones(length, np.float32)))
        ramp = np.linspace(0, 1, self.fade, dtype=np.float32)
        if into:
            window[before : before + self.fade] *= ramp
        if out:
            window[before + length - self.fade :] *= 1 - ramp
        return window


def _reflected(samples: Floats, length: int) -> Floats:
    """(channels, n), n > 0, continued to `length` by reflecting it again and again."""
    missing = length - samples.shape[1]
    return np.pad(samples, ((0, 0), (0, missing)), mode="reflect") if missing else samples
