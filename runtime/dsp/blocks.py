"""Blocks of any lengths as a buffer that grows on demand, and as chunks with zeros around the song."""

from collections.abc import Iterable, Iterator

import numpy as np

from rofo.dsp.scheme import Floats


def fill(source: Iterator[Floats], buffer: Floats | None, samples: int) -> tuple[Floats, bool]:
    """Append blocks until the buffer holds `samples`; the flag tells whether the source has ended."""
    parts = [] if buffer is None else [buffer]
    held = sum(part.shape[1] for part in parts)
    while held < samples:
        block = next(source, None)
        if block is None:
            return _joined(parts), True
        parts.append(block)
        held += block.shape[1]
    return _joined(parts), False


def _joined(parts: list[Floats]) -> Floats:
    if len(parts) == 1:  # one block that is the whole song must not be copied for every chunk
        return parts[0]
    return np.concatenate(parts, axis=1) if parts else np.zeros((0, 0), np.float32)


def zero_padded(samples: Floats, before: int, after: int) -> Floats:
    """(channels, n) with zeros before and after; the very same where there are none."""
    return np.pad(samples, ((0, 0), (before, after))) if before or after else samples


class ZeroPadded:
    """A song with endless zeros before and after it. `length` is known once its end has been read."""

    def __init__(self, blocks: Iterable[Floats]) -> None:
        self._source = iter(blocks)
        self._held: Floats | None = None
        self._begin = 0
        self.length: int | None = None

    def chunk(self, begin: int, samples: int, lead: int = 0) -> Floats | None:
        """`samples` samples, the first of them `lead` before the song's sample `begin`; None past its end.

        Starts must not fall from call to call, nor leave out samples.
        """
        if self._is_over(begin):
            return None
        start = begin - lead
        self._read(start, start + samples)
        if self._is_over(begin):
            return None
        assert self._held is not None
        before = min(samples, self._begin - start)
        there = self._held[:, : max(0, samples - before)]
        return zero_padded(there, before, samples - before - there.shape[1])

    def within(self, sample: int) -> int:
        """`sample`, or the song's length where it is known to be less."""
        return sample if self.length is None else min(sample, self.length)

    def _read(self, start: int, end: int) -> None:
        if self._held is not None and start > self._begin:
            self._held, self._begin = self._held[:, start - self._begin :], start
        if self.length is None:
            self._held, ended = fill(self._source, self._held, max(1, end - self._begin))
            self.length = self._begin + self._held.shape[1] if ended else None

    def _is_over(self, begin: int) -> bool:
        return self.length is not None and max(begin, 0) >= self.length
