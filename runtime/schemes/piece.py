"""What a scheme cuts a song into."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Piece:
    """The chunk number `index` of a song, beginning at its sample `start`, below 0 before the song.

    `samples` (channels, chunk) is what the engine gets; `window` (n,), n <= chunk, weighs the first n samples
    of what it gives. Once the piece is added, the song is finished before its sample `finished`. `song` is
    the song's number among several that share an engine, None for one that is alone.
    """

    index: int
    start: int
    samples: Floats
    window: Floats
    finished: int
    song: int | None = None


class Cutter(Protocol):
    """A scheme with its numbers. Immutable: every call of `cut` keeps its own state."""

    def cut(self, blocks: Iterable[Floats]) -> Iterator[Piece]:
        """Cut a song, given as (channels, n) blocks of any lengths, into pieces; none for an empty song.

        The pieces come in the order of their start, and their `finished` never falls; that of the last is
        the song's length. No more of the song is held than a chunk, the scheme's borders and a block.
        """
        ...
