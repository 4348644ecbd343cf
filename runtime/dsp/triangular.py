"""The scheme `triangular`, that of Demucs (`apply_model`).

Chunks start every `step` samples of the song and are weighed by a triangle. A chunk that reaches past the
song is put in the middle of what the engine gets, with the song before it as its context and zeros behind;
the weights are those of its beginning. Networks other than v4 are given such a chunk in its own length by the
original: there the two differ in the last chunk. Networks of one branch get every chunk with some context.

With shifts the song is separated several times, each time with zeros before it, at most half a second of
them at 44.1 kHz, so that chunks begin elsewhere; the results are averaged. How many zeros is drawn by
Python's generator with a seed, 0 for an engine alone: the same song gives the same stems.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from heapq import merge
from itertools import count, tee
from random import Random

import numpy as np

from rofo.dsp.blocks import ZeroPadded
from rofo.dsp.scheme import Chunk, Floats, checked_overlap

DEFAULT_OVERLAP = 0.25
MAX_SHIFT = 22050  # samples


@dataclass(frozen=True)
class Triangular:
    """Chunk length and step between chunks in samples; `leads` are the zeros before the song in each pass.

    The engine gets `wide` samples, those around the chunk as its context; None for the chunk alone.
    """

    chunk: int
    step: int
    leads: tuple[int, ...] = (0,)
    wide: int | None = None

    @classmethod
    def of(cls, chunk: int, n_fft: int, overlap: float | None) -> "Triangular":
        """`overlap` is the fraction of a chunk shared with the next one."""
        share = checked_overlap(DEFAULT_OVERLAP if overlap is None else overlap)
        return cls(chunk, max(1, int((1 - share) * chunk)))

    def within(self, wide: int) -> "Triangular":
        """With so many samples for the engine, the chunk in their middle."""
        return replace(self, wide=wide)

    def shifted(self, shifts: int, seed: int = 0) -> "Triangular":
        """The mean of so many passes, each shifted by as many samples as a generator of this seed says."""
        draw = Random(seed)
        return replace(self, leads=tuple(MAX_SHIFT - draw.randint(0, MAX_SHIFT) for _ in range(shifts)))

    def cut(self, blocks: Iterable[Floats]) -> Iterator[Chunk]:
        """As in Scheme. The weights of a pass sum to 1, so that all passes weigh the same."""
        copies = tee(blocks, len(self.leads))
        passes = [
            self._numbered(i, copy, lead)
            for i, (copy, lead) in enumerate(zip(copies, self.leads, strict=True))
        ]
        finished = [0] * len(passes)
        in_order = merge(*passes, key=lambda numbered: numbered[1].start)
        for index, (number, chunk) in enumerate(in_order):
            finished[number] = chunk.finished
            yield replace(chunk, index=index, finished=min(finished))

    def _numbered(self, number: int, blocks: Iterable[Floats], lead: int) -> Iterator[tuple[int, Chunk]]:
        """One pass: the chunks, each with the number of the pass."""
        wide = self.wide or self.chunk
        song, back = ZeroPadded(blocks), wide // 2  # as much context as a chunk can need
        weights = cache(self._weights)
        for index, start in enumerate(count(-lead, self.step)):
            if start + self.chunk <= 0:
                continue  # nothing of the song
            around = song.chunk(start, back + wide, lead=back)
            if around is None:
                return
            length = song.within(start + self.chunk) - start
            context = (wide - length) // 2
            samples = around[:, back - context : back - context + wide]
            window = np.concatenate((np.zeros(context, np.float32), weights(min(index, self._most))[:length]))
            finished = max(0, song.within(start + self.step))
            yield number, Chunk(index, start - context, samples, window, finished)

    @property
    def _most(self) -> int:
        """Chunks before one that can reach into it."""
        return math.ceil(self.chunk / self.step)

    def _weights(self, before: int) -> Floats:
        """The triangle (chunk,) over the sum of all triangles there, of a chunk with so many before it."""
        half = self.chunk // 2
        triangle = np.concatenate((np.arange(1, half + 1), np.arange(self.chunk - half, 0, -1))).astype(
            np.float64
        )
        total = np.zeros(self.chunk)
        for i in range(-before, self._most + 1):
            begin, end = max(0, i * self.step), min(self.chunk, i * self.step + self.chunk)
            if begin < end:
                total[begin:end] += triangle[begin - i * self.step : end - i * self.step]
        weights: Floats = (triangle / total).astype(np.float32)
        return weights
