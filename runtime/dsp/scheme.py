"""What a scheme is, and what it cuts a song into."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from rofo.errors import UsageError

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Chunk:
    """The chunk number `index` of a song, beginning at its sample `start`, below 0 before the song.

    `samples` (channels, chunk) is what the engine gets; `window` (n,), n <= chunk, weighs the first n samples
    of what it gives. Once the chunk is added, the song is finished before its sample `finished`. `song` is
    the song's number among several that share an engine, None for one that is alone. `weight` (n,) is the
    chunk's part of what the sum of weighed chunks is divided by; None where that is the window.
    """

    index: int
    start: int
    samples: Floats
    window: Floats
    finished: int
    song: int | None = None
    weight: Floats | None = None


class Scheme(Protocol):
    """A way of cutting songs, with its numbers. Immutable: every call of `cut` keeps its own state."""

    @classmethod
    def of(cls, chunk: int, n_fft: int, overlap: float | None) -> Self:
        """For an engine's chunk and transform, in samples; `overlap` None is the scheme's own default.

        Raises UsageError for a chunk or overlap that it cannot work with.
        """
        ...

    def cut(self, blocks: Iterable[Floats]) -> Iterator[Chunk]:
        """Cut a song, given as (channels, n) blocks of any lengths, into chunks; none for an empty song.

        They come in the order of their start, and their `finished` never falls; that of the last is
        the song's length. No more of the song is held than a chunk, the scheme's borders and a block.
        """
        ...


def checked_overlap(overlap: float) -> float:
    """An overlap that is a fraction, 0 <= overlap < 1. Raises UsageError."""
    if not 0 <= overlap < 1:
        raise UsageError(f"overlap is {overlap}, not 0 or more and below 1")
    return overlap


def check_trimmed(scheme: str, chunk: int, n_fft: int) -> None:
    """Raise UsageError where cutting n_fft / 2 samples off both ends of a chunk leaves nothing."""
    if chunk <= n_fft:
        raise UsageError(
            f"a chunk of {chunk} samples is too short for scheme {scheme}, "
            f"which needs more than n_fft {n_fft}"
        )
