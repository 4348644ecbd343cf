"""Chunks through the engine: the STFT of the next one and the inverse of the last run beside it."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from rofo.dsp.scheme import Chunk, Floats
from rofo.dsp.spectrogram import Spectrogram
from rofo.engines.contract import Engine, Shapes, Tensors, described, fits
from rofo.errors import EngineOutputError
from rofo.manifest import Manifest
from rofo.watch import Watch


@dataclass(frozen=True)
class _Item:
    """What one place of an engine's batch holds; `closes` marks the last item of its chunk."""

    chunk: Chunk
    samples: Floats
    closes: bool


class ChunkLoop:
    """An engine between its transforms. Immutable: every call keeps its own state.

    A mono song fed to a stereo engine is doubled and its stems averaged; a stereo song fed to a mono engine
    is run channel by channel. `name` is the engine's in messages.
    """

    def __init__(self, engine: Engine, manifest: Manifest, name: str) -> None:
        self._engine, self._manifest, self._name = engine, manifest, name
        self._shapes = Shapes.of(manifest, engine.batch)
        self._transform = Spectrogram(manifest.stft, manifest.chunk.samples)

    def __call__(self, chunks: Iterable[Chunk], watch: Watch | None = None) -> Iterator[tuple[Chunk, Floats]]:
        """Chunks of (channels, samples) -> each with its estimate (stems, channels, samples), in order.

        They may be of several songs: batches are filled across them. `watch` is told what the engine took.
        Raises EngineRunError, and EngineOutputError when the output is not finite or not the contract's.
        """
        estimates: list[Floats] = []
        worker = ThreadPoolExecutor(self._engine.in_flight, thread_name_prefix="rofo-engine")
        try:
            for batch, (outputs, seconds) in self._outputs(worker, self._items(chunks)):
                if watch is not None:
                    watch.check()
                    watch.spend(self._manifest.name, seconds)
                self._check_shapes(outputs)
                for place, item in enumerate(batch):
                    own = {name: tensor[place] for name, tensor in outputs.items()}
                    self._check_finite(item.chunk, own)
                    estimates.append(self._estimate(own))
                    if item.closes:
                        yield item.chunk, self._combined(estimates, item.chunk.samples.shape[0])
                        estimates = []
        finally:
            # Not waiting lets an interrupt through at once; the engine's current call ends by itself.
            worker.shutdown(wait=False, cancel_futures=True)

    def _outputs(
        self, worker: ThreadPoolExecutor, items: Iterator[_Item]
    ) -> Iterator[tuple[list[_Item], tuple[Tensors, float]]]:
        """Batches with the engine's output, in order; the engine has the next ones while one is consumed."""
        waiting: deque[tuple[list[_Item], Future[tuple[Tensors, float]]]] = deque()
        while batch := list(islice(items, self._engine.batch)):
            waiting.append((batch, worker.submit(self._run, self._inputs(batch))))
            if len(waiting) > self._engine.in_flight:
                done, result = waiting.popleft()
                yield done, result.result()
        for done, result in waiting:
            yield done, result.result()

    def _run(self, inputs: Tensors) -> tuple[Tensors, float]:
        began = time.perf_counter()
        return self._engine.run(inputs), time.perf_counter() - began

    def _items(self, chunks: Iterable[Chunk]) -> Iterator[_Item]:
        channels = self._manifest.channels
        for chunk in chunks:
            song_channels, samples = chunk.samples.shape
            if channels >= song_channels:
                yield _Item(chunk, np.broadcast_to(chunk.samples, (channels, samples)), closes=True)
                continue
            for i in range(song_channels):
                yield _Item(chunk, chunk.samples[i : i + 1], closes=i == song_channels - 1)

    def _inputs(self, batch: list[_Item]) -> Tensors:
        """What the engine is given; places that no item fills are silent."""
        inputs = {name: np.zeros(shape, np.float32) for name, shape in self._shapes.inputs.items()}
        for name, tensor in inputs.items():
            for place, item in zip(tensor, batch, strict=False):
                place[...] = item.samples if name == "waveform" else self._transform.forward(item.samples)
        return inputs

    def _estimate(self, outputs: Tensors) -> Floats:
        """(stems, channels, samples) of one place: the inverse STFT of `stems`, and `waveforms` with it."""
        estimate = self._transform.inverse(outputs["stems"])
        return estimate + outputs["waveforms"] if "waveforms" in outputs else estimate

    def _combined(self, estimates: list[Floats], song_channels: int) -> Floats:
        if self._manifest.channels > song_channels:
            mean: Floats = estimates[0].mean(axis=1, keepdims=True)
            return mean
        return estimates[0] if len(estimates) == 1 else np.concatenate(estimates, axis=1)

    def _check_shapes(self, outputs: Tensors) -> None:
        if not fits(outputs, self._shapes.outputs):
            raise EngineOutputError(
                f"{self._name}: the engine returned {described(outputs)}, not float32 "
                f"{self._shapes.outputs}; export again with rofo-export"
            )

    def _check_finite(self, chunk: Chunk, outputs: Tensors) -> None:
        if not all(np.isfinite(tensor).all() for tensor in outputs.values()):
            seconds = max(0, chunk.start) / self._manifest.sample_rate
            number = chunk.index if chunk.song is None else f"{chunk.index} of mixes[{chunk.song}]"
            raise EngineOutputError(
                f"{self._name}: the engine returned samples that are not finite for chunk {number}, "
                f"at {seconds:.1f} s; try --precision fp32, or export the checkpoint again"
            )
