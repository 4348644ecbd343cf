"""The scheme `fade`, that of ZFTurbo's Music-Source-Separation-Training.

It is `demix` in its generic mode as it acts at batch size 1: the song is extended by `border` reflected
samples on both sides, unless it is no longer than two borders; chunks start every `step` samples; a window of
ones with linear fades of chunk // 10, exact zeros at both ends, weighs each chunk, without fade-in on the
first and without fade-out on the last; the sum of weighted chunks is divided by the sum of weights, and is 0
where no chunk has any weight.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from rofo.dsp.blocks import fill
from rofo.dsp.scheme import Chunk, Floats, checked_overlap

DEFAULT_OVERLAP = 0.5


@dataclass(frozen=True)
class Fade:
    """Chunk length, step between chunks and what follows from them, in samples."""

    chunk: int
    step: int

    @classmethod
    def of(cls, chunk: int, n_fft: int, overlap: float | None) -> "Fade":
        """`overlap` is the fraction of a chunk shared with the next one, 0 <= overlap < 1."""
        share = checked_overlap(DEFAULT_OVERLAP if overlap is None else overlap)
        return cls(chunk, max(1, round(chunk * (1 - share))))

    @property
    def border(self) -> int:
        """Reflected samples put before and after a song."""
        return self.chunk - self.step

    @property
    def flank(self) -> int:
        """Length of the window's linear fades."""
        return self.chunk // 10

    def borders(self, length: int) -> int:
        """The border that a song of `length` samples really gets."""
        return self.border if length > 2 * self.border else 0

    def window(self, *, first: bool, last: bool) -> Floats:
        """The weights of a chunk, (chunk,)."""
        window = np.ones(self.chunk, np.float32)
        ramp = np.linspace(0, 1, self.flank, dtype=np.float32)
        if not last or first:
            window[self.chunk - self.flank :] = ramp[::-1]
        if not first:
            window[: self.flank] = ramp
        return window

    def cut(self, blocks: Iterable[Floats]) -> Iterator[Chunk]:
        """As in Scheme. Chunks that lie wholly behind the song are left out: they would touch no sample."""
        source = iter(blocks)
        # One sample more than a chunk tells whether the chunk is the last; one more than that leaves
        # border + 1 samples after a step, which is what reflecting the end needs.
        ahead = max(self.chunk, self.step + 1) + 1
        buffer, ended = fill(source, None, max(2 * self.border + 1, ahead))
        border = self.borders(buffer.shape[1])
        if border:
            buffer = np.concatenate((_reflection(buffer[:, 1 : border + 1]), buffer), axis=1)
        start, end, window = 0, None, cache(self.window)
        while True:
            if not ended:
                buffer, ended = fill(source, buffer, ahead)
            if ended and end is None:
                end = start + buffer.shape[1]
                tail = buffer[:, buffer.shape[1] - border - 1 : -1] if border else buffer[:, :0]
                buffer = np.concatenate((buffer, _reflection(tail)), axis=1)
            if end is not None and start >= end:
                return
            yield self._chunk(buffer, window, start=start, border=border, end=end)
            buffer, start = buffer[:, self.step :], start + self.step

    def _chunk(
        self, buffer: Floats, window: Callable[..., Floats], *, start: int, border: int, end: int | None
    ) -> Chunk:
        """The next chunk of a song that lies in `start` to `end`, its border in front counted in."""
        samples = buffer[:, : self.chunk]
        length = samples.shape[1]
        if length < self.chunk:
            # Both ways of padding are the reference's; a reflection needs more song than padding.
            mode = "reflect" if length > self.chunk // 2 else "constant"
            samples = np.pad(samples, ((0, 0), (0, self.chunk - length)), mode=mode)  # type: ignore[call-overload]
        last = end is not None and buffer.shape[1] <= self.step
        finished = start + self.step if end is None else min(start + self.step, end)
        return Chunk(
            index=start // self.step,
            start=start - border,
            samples=samples,
            window=window(first=start == 0, last=last)[:length],
            finished=max(0, finished - border),
        )


def _reflection(samples: Floats) -> Floats:
    return samples[:, ::-1]
