"""A song on its way to a model's sample rate and level, and its estimates on their way back."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rofo.audio import MAX_RATE, MIN_RATE
from rofo.errors import AudioReadError
from rofo.resample import resample_blocks
from rofo.sources import BLOCK

Floats = NDArray[np.float32]
Blocks = Callable[[], Iterable[Floats]]


@dataclass(frozen=True)
class Song:
    """A song at its own rate. `blocks` gives its samples from the start, each time it is called.

    `samples` is None while they are unknown. `number` is its place among several in one call, None for a
    song that is alone.
    """

    blocks: Blocks
    channels: int
    sample_rate: int
    samples: int | None
    number: int | None = None


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


class Held:
    """Samples between going into a model and their estimates coming out."""

    def __init__(self) -> None:
        self._blocks: deque[Floats] = deque()

    def put(self, block: Floats) -> None:
        """Hold a block (channels, n)."""
        self._blocks.append(block)

    def take(self, samples: int | None) -> Floats:
        """Up to `samples` of the oldest samples held, all of them for None."""
        taken, count = [], 0
        while self._blocks and (samples is None or count < samples):
            block = self._blocks.popleft()
            room = block.shape[1] if samples is None else samples - count
            taken.append(block[:, :room])
            count += taken[-1].shape[1]
            if block.shape[1] > room:
                self._blocks.appendleft(block[:, room:])
        return np.concatenate(taken, axis=1) if taken else np.zeros((0, 0), np.float32)


class Passage:
    """One song's way to a model that wants `sample_rate` and gives `stems` stems, and the way back.

    With `normalize` the mean and deviation of the whole song's channel mean are taken out, and put back.
    """

    def __init__(self, song: Song, sample_rate: int, stems: int, *, normalize: bool) -> None:
        self.song, self._rate, self._stems = song, sample_rate, stems
        self._normalize, self._level = normalize, (np.float32(0), np.float32(1))
        self._held = Held()

    def blocks(self) -> Iterator[Floats]:
        """The song as the model wants it, (channels, n). May be read once."""
        if not self._normalize:
            yield from self._resampled(self._kept())
            return
        mean, deviation = self._level = self._measured()
        for block in self._resampled(self._kept()):
            yield (block - mean) / deviation

    def aligned(self, estimates: Iterable[Floats]) -> Iterator[tuple[Floats, Floats]]:
        """Pairs of mix (channels, n) and estimates (stems, channels, n), at the song's rate.

        `estimates` are (stems, channels, n) at the model's. The mix is held back until its estimates are
        there, which also fixes their number: resampling there and back may be a sample off.
        """
        count, channels = self._stems, self.song.channels
        flat = (self._put_back(e).reshape(count * channels, -1) for e in estimates)
        for block in resample_blocks(flat, count * channels, self._rate, self.song.sample_rate, length=None):
            mix = self._held.take(block.shape[1])
            if not mix.shape[1]:
                continue
            yield mix, block[:, : mix.shape[1]].reshape(count, channels, -1)
        rest = self._held.take(None)
        if rest.shape[1]:
            yield rest, np.zeros((count, *rest.shape), np.float32)

    def _kept(self) -> Iterator[Floats]:
        for block in self.song.blocks():
            self._held.put(block)
            yield block

    def _put_back(self, estimates: Floats) -> Floats:
        mean, deviation = self._level
        return estimates * deviation + mean if self._normalize else estimates

    def _resampled(self, blocks: Iterable[Floats]) -> Iterator[Floats]:
        return resample_blocks(blocks, self.song.channels, self.song.sample_rate, self._rate, length=None)

    def _measured(self) -> tuple[np.float32, np.float32]:
        """Mean and deviation of the song's channel mean at the model's rate; deviation 1 for silence."""
        count, total, squares = 0, 0.0, 0.0
        for block in self._resampled(self.song.blocks()):
            mono = block.mean(axis=0, dtype=np.float64)
            count, total, squares = count + mono.size, total + mono.sum(), squares + np.square(mono).sum()
        mean = total / max(count, 1)
        deviation = max(squares / max(count, 1) - mean**2, 0.0) ** 0.5
        return np.float32(mean), np.float32(deviation) or np.float32(1)


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
    bad = int(np.count_nonzero(~np.isfinite(floats)))
    if bad:
        raise AudioReadError(f"{name} has {bad} samples that are not finite; replace them first")
    return floats


def _same_channels(first: Floats, rest: Iterable[Floats]) -> Iterator[Floats]:
    yield first
    for block in rest:
        if block.shape[0] != first.shape[0]:
            raise AudioReadError(f"a block has {block.shape[0]} channels, the first had {first.shape[0]}")
        yield block
