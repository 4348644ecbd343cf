"""Joining weighted chunks in one pass with constant memory, whatever scheme cut them."""

import numpy as np

from rofo.dsp.scheme import Chunk, Floats


class OverlapAdder:
    """Sums the weighted chunks of one song, divides by the sum of weights, and gives what is finished.

    Where all weights are 0, so is the song.
    """

    def __init__(self) -> None:
        self._begin = 0  # the song's first sample that has not been given out
        self._sum: Floats | None = None  # (..., n), from there on
        self._weight = np.zeros(0, np.float32)

    def add(self, chunk: Chunk, estimate: Floats) -> Floats:
        """Add the estimate (..., chunk) of a chunk -> the samples (..., n) it finishes, in order."""
        begin, end = max(chunk.start, self._begin), chunk.start + chunk.window.size
        kept = slice(begin - chunk.start, chunk.window.size)
        place = slice(begin - self._begin, end - self._begin)
        total = self._widened(estimate, end - self._begin)
        total[..., place] += estimate[..., kept] * chunk.window[kept]
        self._weight[place] += (chunk.window if chunk.weight is None else chunk.weight)[kept]
        return self._taken(total, chunk.finished - self._begin)

    def _widened(self, estimate: Floats, samples: int) -> Floats:
        """The sum so far, with room for `samples`; so are the weights."""
        missing = max(0, samples - self._weight.size)
        if self._sum is None:
            self._sum = np.zeros((*estimate.shape[:-1], 0), np.float32)
        if missing:
            self._sum = np.concatenate(
                (self._sum, np.zeros((*estimate.shape[:-1], missing), np.float32)), axis=-1
            )
            self._weight = np.concatenate((self._weight, np.zeros(missing, np.float32)))
        return self._sum

    def _taken(self, total: Floats, samples: int) -> Floats:
        """The first `samples` samples, finished; what follows them moves up."""
        weight = self._weight[:samples]
        finished = np.divide(
            total[..., :samples], weight, out=np.zeros_like(total[..., :samples]), where=weight > 0
        )
        self._sum, self._weight = total[..., samples:], self._weight[samples:]
        self._begin += samples
        return finished
