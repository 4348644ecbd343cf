"""Pieces through the engine: the STFT of the next chunk and the inverse of the last run beside it."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from rofo.engines import Engine
from rofo.engines.contract import Shapes
from rofo.errors import EngineOutputError
from rofo.schemes.piece import Floats, Piece
from rofo.spectrogram import Spectrogram


@dataclass(frozen=True)
class _Item:
    """What one place of an engine's batch holds; `closes` marks the last item of its piece."""

    piece: Piece
    samples: Floats
    closes: bool


class ChunkLoop:
    """Engine and transform of one model. Immutable: every call keeps its own state.

    A mono song fed to a stereo engine is doubled and its stems averaged; a stereo song fed to a mono engine
    is run channel by channel.
    """

    def __init__(
        self, engine: Engine, shapes: Shapes, transform: Spectrogram, name: str, sample_rate: int
    ) -> None:
        self._engine, self._shapes, self._transform = engine, shapes, transform
        self._name, self._sample_rate = name, sample_rate

    def __call__(self, pieces: Iterable[Piece]) -> Iterator[tuple[Piece, Floats]]:
        """Pieces of (channels, chunk) -> each with its estimate (stems, channels, chunk), in order.

        They may be of several songs: batches are filled across them.
        Raises EngineRunError, and EngineOutputError when the output is not finite or not the contract's.
        """
        items = self._items(pieces)
        estimates: list[Floats] = []
        worker = ThreadPoolExecutor(self._engine.in_flight, thread_name_prefix="rofo-engine")
        try:
            for batch, spectra in self._spectra(worker, items):
                self._check_shape(spectra)
                for item, spectrum in zip(batch, spectra, strict=False):
                    self._check_finite(item.piece, spectrum)
                    estimates.append(self._transform.inverse(spectrum))
                    if item.closes:
                        yield item.piece, self._combined(estimates, item.piece.samples.shape[0])
                        estimates = []
        finally:
            # Not waiting lets an interrupt through at once; the engine's current call ends by itself.
            worker.shutdown(wait=False, cancel_futures=True)

    def _spectra(
        self, worker: ThreadPoolExecutor, items: Iterator[_Item]
    ) -> Iterator[tuple[list[_Item], Floats]]:
        """Batches with the engine's output, in order; the engine has the next ones while one is consumed."""
        waiting: deque[tuple[list[_Item], Future[Floats]]] = deque()
        while batch := list(islice(items, self._engine.batch)):
            mix = np.zeros(self._shapes.mix, np.float32)
            for place, item in zip(mix, batch, strict=False):
                place[...] = self._transform.forward(item.samples)
            waiting.append((batch, worker.submit(self._engine.run, mix)))
            if len(waiting) > self._engine.in_flight:
                done, result = waiting.popleft()
                yield done, result.result()
        for done, result in waiting:
            yield done, result.result()

    def _items(self, pieces: Iterable[Piece]) -> Iterator[_Item]:
        channels = self._shapes.mix[1]
        for piece in pieces:
            song_channels = piece.samples.shape[0]
            if channels >= song_channels:
                shape = (channels, piece.samples.shape[1])
                yield _Item(piece, np.broadcast_to(piece.samples, shape), closes=True)
                continue
            for i in range(song_channels):
                yield _Item(piece, piece.samples[i : i + 1], closes=i == song_channels - 1)

    def _combined(self, estimates: list[Floats], song_channels: int) -> Floats:
        if self._shapes.mix[1] > song_channels:
            mean: Floats = estimates[0].mean(axis=1, keepdims=True)
            return mean
        return estimates[0] if len(estimates) == 1 else np.concatenate(estimates, axis=1)

    def _check_shape(self, spectra: Floats) -> None:
        if spectra.shape != self._shapes.stems or spectra.dtype != np.float32:
            raise EngineOutputError(
                f"{self._name}: the engine returned {spectra.dtype} {spectra.shape}, not float32 "
                f"{self._shapes.stems}; export again with rofo-export"
            )

    def _check_finite(self, piece: Piece, spectrum: Floats) -> None:
        if not np.isfinite(spectrum).all():
            seconds = max(0, piece.start) / self._sample_rate
            chunk = piece.index if piece.song is None else f"{piece.index} of mixes[{piece.song}]"
            raise EngineOutputError(
                f"{self._name}: the engine returned samples that are not finite for chunk {chunk}, "
                f"at {seconds:.1f} s; try --precision fp32, or export the checkpoint again"
            )
