"""Songs as the separator takes them: checked arrays, streams and files, and what is kept on the way."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rofo.audio.decoders import BLOCK
from rofo.audio.reader import MAX_RATE, MIN_RATE
from rofo.audio.samples import fault, usable
from rofo.errors import AudioReadError
from rofo.watch import Watch

Floats = NDArray[np.float32]
# A block (..., n) and the number of its song, see Song.number. An estimator makes of blocks (channels, n) of
# songs at the engine's rate, one song after the other, blocks (stems, channels, n) of estimates: as many
# samples in the same order.
Block = tuple[int | None, Floats]
Estimator = Callable[[Iterable[Block], Watch], Iterator[Block]]


class Queue:
    """Samples that wait for their estimates."""

    def __init__(self) -> None:
        self._blocks: deque[Floats] = deque()
        self.samples = 0

    def put(self, block: Floats) -> None:
        """Let a block (channels, n) wait."""
        self._blocks.append(block)
        self.samples += block.shape[1]

    def take(self, samples: int) -> Floats:
        """So many of the oldest samples, which must be there."""
        taken = []
        self.samples -= samples
        while samples:
            block = self._blocks.popleft()
            taken.append(block[:, :samples])
            samples -= taken[-1].shape[1]
            if block.shape[1] > taken[-1].shape[1]:
                self._blocks.appendleft(block[:, taken[-1].shape[1] :])
        return np.concatenate(taken, axis=1)


@dataclass(frozen=True)
class Level:
    """Mean and deviation of a song's channel mean; the deviation of silence is 1."""

    mean: np.float32
    deviation: np.float32

    def taken_out(self, block: Floats) -> Floats:
        """The block at mean 0 and deviation 1."""
        return (block - self.mean) / self.deviation

    def put_back(self, estimates: Floats) -> Floats:
        """The estimates at the song's level."""
        return estimates * self.deviation + self.mean

    @classmethod
    def of(cls, blocks: Iterable[Floats]) -> "Level":
        """Measure blocks (channels, n)."""
        count, total, squares = 0, 0.0, 0.0
        for block in blocks:
            mono = block.mean(axis=0, dtype=np.float64)
            count, total, squares = count + mono.size, total + mono.sum(), squares + np.square(mono).sum()
        mean = total / max(count, 1)
        deviation = max(squares / max(count, 1) - mean**2, 0.0) ** 0.5
        return cls(np.float32(mean), np.float32(deviation) or np.float32(1))


@dataclass(eq=False)
class Song:
    """A song at its own rate, on its way once. `read` gives its blocks from the start at every call.

    `samples` is None while they are unknown. `number` is its place among several in one call, None for a
    song that is alone.
    """

    read: Callable[[], Iterable[Floats]]
    channels: int
    sample_rate: int
    samples: int | None
    number: int | None = None
    _waiting: Queue = field(default_factory=Queue)
    _again: Iterator[Floats] | None = None

    def blocks(self, *, again: bool) -> Iterator[Floats]:
        """The samples from the start, for `take` to give them once more: from memory, or `again` from `read`
        where their estimates come only after the last of them."""
        if again:
            self._again = iter(self.read())
            yield from self.read()
        else:
            for block in self.read():
                self._waiting.put(block)
                yield block

    def take(self, samples: int) -> Floats:
        """The next samples (channels, n) of those that went on their way."""
        while self._again is not None and self._waiting.samples < samples:
            self._waiting.put(next(self._again))
        return self._waiting.take(samples)


def array_song(mix: ArrayLike, sample_rate: int, number: int | None = None) -> Song:
    """A song that is an array (channels, samples). Raises AudioReadError."""
    samples = _checked(np.asarray(mix), "the mix" if number is None else f"mixes[{number}]")
    # The blocks a file of these samples would be read in: no copy of the whole song is ever made.
    starts = range(0, samples.shape[1], BLOCK)
    return Song(
        lambda: (samples[:, start : start + BLOCK] for start in starts),
        samples.shape[0],
        _checked_rate(sample_rate),
        samples.shape[1],
        number,
    )


def stream_song(blocks: Iterable[ArrayLike], sample_rate: int) -> Song | None:
    """A song that can be read once, from blocks (channels, any length); None where there are no blocks.

    A block is copied when it comes. Raises AudioReadError, for later blocks when they come.
    """
    rate = _checked_rate(sample_rate)
    source = (_checked(np.array(block), "the mix") for block in blocks)
    first = next(source, None)
    if first is None:
        return None
    return Song(lambda: _same_channels(first, source), first.shape[0], rate, None)


def _checked_rate(sample_rate: int) -> int:
    if not MIN_RATE <= sample_rate <= MAX_RATE or sample_rate != int(sample_rate):
        raise AudioReadError(
            f"the sample rate is {sample_rate} Hz; rofo takes whole numbers from {MIN_RATE} to {MAX_RATE}"
        )
    return int(sample_rate)


def _checked(samples: NDArray[np.generic], name: str) -> Floats:
    if samples.ndim != 2 or samples.shape[0] not in (1, 2):
        raise AudioReadError(f"{name} has shape {samples.shape}; give (channels, samples), 1 or 2 channels")
    if not np.issubdtype(samples.dtype, np.floating):
        raise AudioReadError(f"{name} is of type {samples.dtype}; give floating point samples in [-1, 1]")
    floats = samples.astype(np.float32, copy=False)
    bad = int(np.count_nonzero(~usable(floats)))
    if bad:
        raise AudioReadError(f"{name} has {bad} {fault(floats)}; replace them first")
    return floats


def _same_channels(first: Floats, rest: Iterable[Floats]) -> Iterator[Floats]:
    yield first
    for block in rest:
        if block.shape[0] != first.shape[0]:
            raise AudioReadError(
                f"a block has {block.shape[0]} channels, the first had {first.shape[0]}; give one song"
            )
        yield block
