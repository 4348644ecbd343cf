"""Estimates at the rate and the level of a song, of an engine that has its own."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, groupby
from operator import itemgetter

import numpy as np

from rofo.audio.resample import resample_blocks
from rofo.song import Block, Estimator, Floats, Level
from rofo.watch import Watch


@dataclass(frozen=True)
class OwnRate:
    """An estimator of so many `stems` at its own rate, in Hz, as one of songs at another.

    As many samples come as went in: resampling there and back may be a sample off, and of a song that is too
    short to have any estimate they are zeros. `read` gives the samples of a song, at its rate, from the
    start: for an engine that wants the level of the whole song taken out; None for the others.
    """

    estimator: Estimator
    stems: int
    rate: int
    song_rate: int
    read: Callable[[int | None], Iterable[Floats]] | None = None

    def __call__(self, blocks: Iterable[Block], watch: Watch) -> Iterator[Block]:
        """Blocks (channels, n) of songs, one after the other -> blocks (stems, channels, n)."""
        songs: deque[_Passing] = deque()
        for number, estimates in groupby(self.estimator(self._there(blocks, songs), watch), itemgetter(0)):
            while songs[0].number != number:
                yield from songs.popleft().rest(self.stems)
            yield from self._back(songs[0], (estimate for _, estimate in estimates))
            yield from songs.popleft().rest(self.stems)
        for song in songs:
            yield from song.rest(self.stems)

    def _there(self, blocks: Iterable[Block], songs: "deque[_Passing]") -> Iterator[Block]:
        for number, group in groupby(blocks, itemgetter(0)):
            _, first = next(group)
            song = _Passing(number, first.shape[0])
            songs.append(song)
            level = song.level = self._level(song)
            whole = chain([first], map(itemgetter(1), group))  # noqa: B031 - read once
            for block in self._resampled(song.counted(whole), song.channels):
                yield number, level.taken_out(block) if level else block

    def _level(self, song: "_Passing") -> Level | None:
        if self.read is None:
            return None
        return Level.of(self._resampled(self.read(song.number), song.channels))

    def _resampled(self, blocks: Iterable[Floats], channels: int) -> Iterator[Floats]:
        return resample_blocks(blocks, channels, self.song_rate, self.rate)

    def _back(self, song: "_Passing", estimates: Iterable[Floats]) -> Iterator[Block]:
        rows, level = self.stems * song.channels, song.level
        levelled = (level.put_back(estimate) if level else estimate for estimate in estimates)
        flat = (estimate.reshape(rows, -1) for estimate in levelled)
        for block in resample_blocks(flat, rows, self.rate, self.song_rate):
            kept = block[:, : song.taken - song.given]
            if kept.shape[1]:
                song.given += kept.shape[1]
                yield song.number, kept.reshape(self.stems, song.channels, -1)


@dataclass
class _Passing:
    """A song on its way: how many of its samples were taken, and how many estimates of them were given."""

    number: int | None
    channels: int
    taken: int = 0
    given: int = 0
    level: Level | None = field(default=None)

    def counted(self, blocks: Iterable[Floats]) -> Iterator[Floats]:
        for block in blocks:
            self.taken += block.shape[1]
            yield block

    def rest(self, stems: int) -> Iterator[Block]:
        missing = self.taken - self.given
        if missing:
            yield self.number, np.zeros((stems, self.channels, missing), np.float32)
