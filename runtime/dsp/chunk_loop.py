"""Chunks through the engine; the transforms of those before and after run beside it, on several threads."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from operator import call
from threading import Event, Semaphore

import numpy as np

from rofo.dsp.scheme import Chunk, Floats
from rofo.dsp.spectrogram import Job, Share, Spectrogram
from rofo.engines.contract import Engine, Shapes, Tensors, described, fits
from rofo.engines.process import check_running
from rofo.errors import CancelledError, EngineOutputError
from rofo.manifest import Manifest
from rofo.threads import cores
from rofo.watch import Watch

Inputs = dict[str, Floats]


@dataclass(frozen=True)
class _Item:
    """What one place of an engine's batch holds; `closes` marks the last item of its chunk."""

    chunk: Chunk
    samples: Floats
    closes: bool


@dataclass(frozen=True)
class _Estimates:
    """What became of a batch: (stems, channels, samples) of every item.

    `seconds` are those the engine took, None where it was not run.
    """

    items: list[Floats]
    seconds: float | None


class ChunkLoop:
    """An engine between its transforms. Immutable: every call keeps its own state.

    A mono song fed to a stereo engine is doubled and its stems averaged; a stereo song fed to a mono engine
    is run channel by channel. A batch of exact zeros is not run where the manifest says that the engine makes
    exact zeros of it. `name` is the engine's in messages; `threads` do the transforms, None for all cores;
    the engine runs when it is its turn, None for those of its own.
    """

    def __init__(
        self,
        engine: Engine,
        manifest: Manifest,
        name: str,
        threads: int | None = None,
        turns: Semaphore | None = None,
    ) -> None:
        self._engine, self._manifest, self._name, self._turns = engine, manifest, name, turns
        self._threads = threads or cores()
        self._silent = manifest.keeps_silence(engine.backend, engine.precision)
        self._shapes = Shapes.of(manifest, engine.batch)
        self._transform = Spectrogram(manifest.stft, manifest.chunk.samples) if manifest.stft else None

    def __call__(self, chunks: Iterable[Chunk], watch: Watch | None = None) -> Iterator[tuple[Chunk, Floats]]:
        """Chunks of (channels, samples) -> each with its estimate (stems, channels, samples), in order.

        They may be of several songs: batches are filled across them. `watch` is told what the engine took.
        Raises EngineRunError, and EngineOutputError when the output is not finite or not the contract's.
        """
        made: list[Floats] = []
        for batch, estimates in self._batches(self._items(chunks)):
            if watch is not None:
                watch.check()
                watch.spend(self._manifest.name, estimates.seconds, [item.chunk for item in batch])
            for item, estimate in zip(batch, estimates.items, strict=True):
                made.append(estimate)
                if item.closes:
                    yield item.chunk, self._combined(made, item.chunk.samples.shape[0])
                    made = []

    def _batches(self, items: Iterator[_Item]) -> Iterator[tuple[list[_Item], _Estimates]]:
        """Batches with what became of them, in order.

        Beside those that the engine has, one is on its way there and one on its way back.
        """
        ahead = self._engine.in_flight + 2
        workers = ThreadPoolExecutor(ahead, thread_name_prefix="rofo-engine")
        transforms = ThreadPoolExecutor(self._threads, thread_name_prefix="rofo-transform")
        turns, spare = self._turns or Semaphore(self._engine.in_flight), deque[Inputs]()
        stopped = Event()

        def share(jobs: Iterable[Job]) -> None:
            for _ in transforms.map(call, jobs):
                pass

        waiting: deque[tuple[list[_Item], Future[_Estimates]]] = deque()
        try:
            while batch := list(islice(items, self._engine.batch)):
                check_running(self._name)
                waiting.append((batch, workers.submit(self._estimates, batch, share, turns, stopped, spare)))
                if len(waiting) == ahead:
                    done, result = waiting.popleft()
                    yield done, result.result()
            for done, result in waiting:
                check_running(self._name)
                yield done, result.result()
        finally:
            # Not waiting lets an interrupt through at once. The engine's current call ends by itself.
            stopped.set()
            for pool in (workers, transforms):
                pool.shutdown(wait=False, cancel_futures=True)

    def _estimates(
        self, batch: list[_Item], share: Share, turns: Semaphore, stopped: Event, spare: deque[Inputs]
    ) -> _Estimates:
        """STFT, engine when it is its turn, inverse STFT; `spare` are inputs whose memory nobody needs."""
        if self._silent and not any(item.samples.any() for item in batch):
            shape = len(self._manifest.stems), self._manifest.channels, self._manifest.chunk.samples
            return _Estimates([np.zeros(shape, np.float32) for _ in batch], None)
        inputs = self._inputs(batch, share, spare)
        with turns:
            if stopped.is_set():
                raise CancelledError("stopped before this batch")  # nobody asks for it any more
            began = time.perf_counter()
            outputs = self._engine.run(inputs)
            seconds = time.perf_counter() - began
        if not fits(outputs, self._shapes.outputs):
            raise EngineOutputError(
                f"{self._name}: the engine returned {described(outputs)}, not float32 "
                f"{self._shapes.outputs}; export again with rofo-export"
            )
        places = ({name: tensor[place] for name, tensor in outputs.items()} for place in range(len(batch)))
        found = [self._estimate(item, own, share) for item, own in zip(batch, places, strict=True)]
        spare.append(inputs)  # not before: outputs may be views of them
        return _Estimates(found, seconds)

    def _items(self, chunks: Iterable[Chunk]) -> Iterator[_Item]:
        channels = self._manifest.channels
        for chunk in chunks:
            song_channels, samples = chunk.samples.shape
            if channels >= song_channels:
                yield _Item(chunk, np.broadcast_to(chunk.samples, (channels, samples)), closes=True)
                continue
            for i in range(song_channels):
                yield _Item(chunk, chunk.samples[i : i + 1], closes=i == song_channels - 1)

    def _inputs(self, batch: list[_Item], share: Share, spare: deque[Inputs]) -> Inputs:
        """What the engine is given; places that no item fills are silent."""
        try:
            inputs = spare.pop()
        except IndexError:
            inputs = {name: np.empty(shape, np.float32) for name, shape in self._shapes.inputs.items()}
        for name, tensor in inputs.items():
            tensor[len(batch) :] = 0
            for place, item in zip(tensor, batch, strict=False):
                if name == "mix" and self._transform:
                    self._transform.forward(item.samples, place, share)
                else:
                    place[...] = item.samples
        return inputs

    def _estimate(self, item: _Item, outputs: Tensors, share: Share) -> Floats:
        """(stems, channels, samples) of one place: the inverse STFT of `stems`, and `waveforms` with it."""
        if self._transform is None:
            estimate = outputs["waveforms"].copy()  # outputs may be views of inputs, which are used again
        else:
            estimate = self._transform.inverse(outputs["stems"], share)
            if "waveforms" in outputs:
                estimate += outputs["waveforms"]
        if not np.isfinite(estimate).all():
            chunk = item.chunk
            seconds = max(0, chunk.start) / self._manifest.sample_rate
            number = chunk.index if chunk.song is None else f"{chunk.index} of mixes[{chunk.song}]"
            raise EngineOutputError(
                f"{self._name}: the engine returned samples that are not finite for chunk {number}, "
                f"at {seconds:.1f} s; try --precision fp32, or export the checkpoint again"
            )
        return estimate

    def _combined(self, estimates: list[Floats], song_channels: int) -> Floats:
        if self._manifest.channels > song_channels:
            mean: Floats = estimates[0].mean(axis=1, keepdims=True)
            return mean
        return estimates[0] if len(estimates) == 1 else np.concatenate(estimates, axis=1)
