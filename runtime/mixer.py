"""Engines side by side, whose stems are mixed with each other and with the mix by a matrix."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import tee
from typing import TYPE_CHECKING

import numpy as np

from rofo.audio.record import hash_engine
from rofo.manifest import MixerManifest
from rofo.song import Block, Estimator, Floats, Queue

if TYPE_CHECKING:
    from rofo.model import EngineModel


class MixerModel:
    """Engines side by side, whose stems are mixed with each other and with the mix by a matrix.

    `members` are the engines, each with the place of the stem that is taken of it.
    """

    normalize = False

    def __init__(self, manifest: MixerManifest, members: Sequence[tuple["EngineModel", int]]) -> None:
        self.manifest = manifest
        self._members = tuple(members)
        self.engines = tuple(engine for member, _ in members for engine in member.engines)
        self.identity = hash_engine(manifest, *(member.identity for member, _ in members))
        self._matrix = np.array(manifest.matrix, np.float32)

    def estimator(self, scheme: str | None, overlap: float | None, shifts: int = 0) -> Estimator:
        """What separates with this scheme and overlap, None for each member's own. Raises UsageError."""
        estimators = [member.estimator(scheme, overlap, shifts) for member, _ in self._members]
        return partial(self._estimates, estimators)

    def close(self) -> None:
        """Release all engines. May be called twice."""
        for member, _ in self._members:
            member.close()

    def _estimates(self, estimators: Sequence[Estimator], blocks: Iterable[Block]) -> Iterator[Block]:
        waiting = Queue()
        # A block is dropped when the last member has read it: they differ by a chunk or two, not by a song.
        copies = tee(self._widened(blocks, waiting), len(estimators))
        outputs = [estimator(copy) for estimator, copy in zip(estimators, copies, strict=True)]
        for number, estimates in _lock_step(outputs):
            mix = waiting.take(estimates[0].shape[-1])
            taken = [e[stem] for e, (_, stem) in zip(estimates, self._members, strict=True)]
            yield number, self._mixed([*taken, np.broadcast_to(mix, taken[0].shape)], mix.shape[0])

    def _widened(self, blocks: Iterable[Block], waiting: Queue) -> Iterator[Block]:
        """A mono song for a stereo mixer is doubled here, not by the members: the matrix crosses channels."""
        for number, block in blocks:
            waiting.put(block)
            channels = max(self.manifest.channels, block.shape[0])
            yield number, np.broadcast_to(block, (channels, block.shape[1]))

    def _mixed(self, parts: Sequence[Floats], song_channels: int) -> Floats:
        """The matrix on parts (channels, n) -> (stems, song_channels, n).

        A stereo song of a mono mixer is mixed channel by channel. Products are summed in a fixed order, as
        no matrix product promises to, so that samples do not depend on how many are computed at once.
        """
        channels, samples = self.manifest.channels, parts[0].shape[-1]
        columns = np.stack(parts).reshape(len(parts) * channels, -1, samples)
        mixed = np.zeros((len(self._matrix), *columns.shape[1:]), np.float32)
        for weights, column in zip(self._matrix.T, columns, strict=True):
            mixed += weights[:, None, None] * column
        stems = mixed.reshape(len(self.manifest.stems), -1, samples)
        return stems.mean(axis=1, keepdims=True) if stems.shape[1] > song_channels else stems


def _lock_step(streams: Sequence[Iterator[Block]]) -> Iterator[tuple[int | None, list[Floats]]]:
    """The same samples of every stream, as many at a time as all have ready."""
    heads = [_following(stream) for stream in streams]
    while all(block.shape[-1] for _, block in heads):
        ready = min(block.shape[-1] for _, block in heads)
        yield heads[0][0], [block[..., :ready] for _, block in heads]
        heads = [
            (number, block[..., ready:]) if block.shape[-1] > ready else _following(stream)
            for (number, block), stream in zip(heads, streams, strict=True)
        ]


def _following(stream: Iterator[Block]) -> Block:
    """The next block that holds samples; an empty one at the end of the stream."""
    return next((block for block in stream if block[1].shape[-1]), (None, np.zeros(0, np.float32)))
