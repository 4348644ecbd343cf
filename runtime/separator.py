"""The one path a song takes, behind three doors: arrays, streams of blocks, files."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rofo.audio import MAX_RATE, MIN_RATE, AudioReader
from rofo.chunk_loop import ChunkLoop
from rofo.engines import open_engine
from rofo.engines.contract import Shapes
from rofo.errors import AudioReadError, CancelledError, EngineLoadError, UsageError
from rofo.manifest import Manifest, load_manifest
from rofo.output import output_format, stem_paths
from rofo.overlap_add import ChunkPlan, OverlapAdd, cut
from rofo.resample import resample_blocks
from rofo.sources import BLOCK
from rofo.spectrogram import Spectrogram
from rofo.write import StemFiles

Floats = NDArray[np.float32]
Blocks = Callable[[], Iterable[Floats]]


@dataclass(frozen=True)
class Progress:
    """How far a separation has come; `total` is None while the length of a stream is unknown."""

    done: float
    total: float | None
    elapsed: float

    @property
    def speed(self) -> float:
        """Seconds of song per second."""
        return self.done / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def remaining(self) -> float | None:
        """Seconds still to go at this speed."""
        return None if self.total is None or not self.speed else (self.total - self.done) / self.speed


class SeparatedFile(dict[str, Path]):
    """{stem: path} of one file, with its length and the time taken in seconds, and what to know about it.

    `skipped` tells that the stems were there already.
    """

    def __init__(
        self,
        paths: dict[str, Path],
        *,
        seconds: float,
        elapsed: float,
        warnings: Sequence[str],
        skipped: bool = False,
    ) -> None:
        super().__init__(paths)
        self.seconds, self.elapsed = seconds, elapsed
        self.warnings, self.skipped = tuple(warnings), skipped


@dataclass(frozen=True)
class _Song:
    """A song at its own rate. `blocks` gives its samples from the start, each time it is called."""

    blocks: Blocks
    channels: int
    sample_rate: int
    samples: int | None


class Separator:
    """An engine, loaded once. Immutable after construction: share it between threads.

    `engine` is the path of an engine file with its manifest beside it. `backend`, `precision`, `threads`
    and `cuda_stream` as in rofo.engines.open_engine. Raises EngineLoadError (ManifestError,
    EngineMismatchError).
    """

    def __init__(
        self,
        engine: str | Path,
        *,
        backend: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        cuda_stream: int | None = None,
    ) -> None:
        path = Path(engine)
        if not path.exists():
            raise EngineLoadError(f"{path}: no such engine; export a checkpoint with rofo-export")
        if threads is not None and threads < 1:
            raise UsageError(f"threads is {threads}; give 1 or more")
        self.manifest: Manifest = load_manifest(path)
        self._engine = open_engine(
            path,
            self.manifest,
            backend=backend,
            precision=precision,
            threads=threads,
            cuda_stream=cuda_stream,
        )
        self._transform = Spectrogram(self.manifest.stft, self.manifest.chunk.samples)
        shapes = Shapes.of(self.manifest, self._engine.batch)
        self._loop = ChunkLoop(self._engine, shapes, self._transform, str(path), self.manifest.sample_rate)

    @property
    def backend(self) -> str:
        """The backend in use."""
        return self._engine.backend

    @property
    def precision(self) -> str:
        """The precision in use: fp32, bf16 or fp16."""
        return self._engine.precision

    @property
    def healthy(self) -> bool:
        """False once the GPU is lost to this process: end it and start anew."""
        return self._engine.healthy

    @property
    def stems(self) -> tuple[str, ...]:
        """All stems that can be asked for, the residual last."""
        residual = self.manifest.residual
        return (*self.manifest.stems, *([residual] if residual else []))

    def separate(
        self,
        mix: ArrayLike,
        sample_rate: int,
        *,
        stems: Sequence[str] | None = None,
        overlap: float | None = None,
        progress: Callable[[Progress], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> dict[str, Floats]:
        """Separate an array: mix (channels, samples) float in [-1, 1] -> {stem: (channels, samples)}.

        Stems have the mix's rate, channels and length. `stems` chooses among `self.stems`; `overlap`
        overrides the manifest's fraction of a chunk shared with the next one. `progress` is called after
        every chunk; setting `cancel` stops before the next one with CancelledError.
        Raises AudioReadError for samples that cannot be separated, UsageError for an unknown stem.
        """
        samples = _checked(np.asarray(mix))
        song = _Song(lambda: _sliced(samples), samples.shape[0], _checked_rate(sample_rate), samples.shape[1])
        plan, chosen = self._plan(overlap), self.choose(stems)
        result = {stem: np.empty_like(samples) for stem in chosen}
        at = 0
        for blocks in self._separated(song, chosen, plan, progress, cancel):
            for stem, block in blocks.items():
                result[stem][:, at : at + block.shape[1]] = block
            at += next(iter(blocks.values())).shape[1]
        return result

    def stream(
        self,
        blocks: Iterable[ArrayLike],
        sample_rate: int,
        *,
        stems: Sequence[str] | None = None,
        overlap: float | None = None,
        progress: Callable[[Progress], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Iterator[dict[str, Floats]]:
        """Separate blocks (channels, any length) as they come -> dicts of blocks as they are ready.

        The blocks of a stem together are as long as the song. A block is copied when it comes, so its
        memory may be used for the next one. Constant memory; latency is about one chunk. Other arguments
        and errors as in `separate`. Raises UsageError for an engine that normalises its input, which needs
        the whole song first.
        """
        if self.manifest.normalize:
            raise UsageError(
                f"{self.manifest.name}: this engine scales by the whole song's level; "
                "use separate or separate_file"
            )
        rate, plan, chosen = _checked_rate(sample_rate), self._plan(overlap), self.choose(stems)
        source = (_checked(np.array(block)) for block in blocks)
        first = next(source, None)
        if first is None:
            return iter(())
        song = _Song(lambda: _same_channels(first, source), first.shape[0], rate, None)
        return self._separated(song, chosen, plan, progress, cancel)

    def separate_file(
        self,
        path: str | Path,
        output: str | Path = "separated",
        *,
        stems: Sequence[str] | None = None,
        overlap: float | None = None,
        container: str | None = None,
        subtype: str | None = None,
        allow_truncated: bool = False,
        sanitize: bool = False,
        channels: Sequence[int] | None = None,
        max_minutes: float = 180,
        resume: bool = False,
        progress: Callable[[Progress], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> SeparatedFile:
        """Separate a file into OUTPUT/<track>/<stem>.<ext>; all stems appear or none.

        `container` (wav, flac) and `subtype` (PCM_16, PCM_24, FLOAT) default to those of the input; lossy
        inputs give WAV in FLOAT. `allow_truncated` takes what is there of a file cut short, `sanitize`
        replaces samples that are not finite, `channels` chooses one or two of many, `resume` skips a song
        whose stems are all there.
        Raises AudioReadError, OutputWriteError, and what `separate` raises.
        """
        began, plan, chosen = time.perf_counter(), self._plan(overlap), self.choose(stems)
        with AudioReader(
            path,
            allow_truncated=allow_truncated,
            sanitize=sanitize,
            channels=channels,
            max_minutes=max_minutes,
        ) as reader:
            source = reader.format
            song = _Song(reader.blocks, source.channels, source.sample_rate, source.frames)
            written = output_format(Path(path), source, container, subtype)
            paths = stem_paths(Path(path), Path(output), chosen, written)
            seconds = source.frames / source.sample_rate
            # Stems of a song appear together: all being there means the song was finished.
            if resume and all(file.is_file() for file in paths.values()):
                return SeparatedFile(paths, seconds=seconds, elapsed=0.0, warnings=(), skipped=True)
            with StemFiles(paths, written) as files:
                for blocks in self._separated(song, chosen, plan, progress, cancel):
                    files.write(blocks)
            empty = [] if source.frames else ["holds no samples; its stems are empty"]
            warnings = [*reader.warnings, *files.warnings, *empty]
        elapsed = time.perf_counter() - began
        return SeparatedFile(paths, seconds=seconds, elapsed=elapsed, warnings=warnings)

    def choose(self, stems: Sequence[str] | None) -> tuple[str, ...]:
        """Names in any case -> the names of `self.stems`, all of them for None. Raises UsageError."""
        if stems is None:
            return self.stems
        by_name = {stem.lower(): stem for stem in self.stems}
        unknown = [stem for stem in stems if stem.lower() not in by_name]
        if unknown or not stems:
            raise UsageError(
                f"{self.manifest.name} has no stem {', '.join(unknown) or '(none given)'}; "
                f"choose among {', '.join(self.stems)}"
            )
        return tuple(dict.fromkeys(by_name[stem.lower()] for stem in stems))

    def close(self) -> None:
        """Release the engine; the separator cannot be used afterwards. May be called twice."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _separated(
        self,
        song: _Song,
        chosen: tuple[str, ...],
        plan: ChunkPlan,
        progress: Callable[[Progress], None] | None,
        cancel: threading.Event | None,
    ) -> Iterator[dict[str, Floats]]:
        """The loop: blocks of the chosen stems at the song's rate, as long together as the song."""
        began, done = time.perf_counter(), 0
        total = None if song.samples is None else song.samples / song.sample_rate
        names = self.manifest.stems
        for mix, estimates in self._aligned(song, plan, cancel):
            blocks = dict(zip(names, estimates, strict=True))
            if self.manifest.residual in chosen:
                blocks[str(self.manifest.residual)] = mix - estimates.sum(axis=0)
            yield {stem: blocks[stem] for stem in chosen}
            done += mix.shape[1]
            if progress is not None:
                progress(Progress(done / song.sample_rate, total, time.perf_counter() - began))

    def _aligned(
        self, song: _Song, plan: ChunkPlan, cancel: threading.Event | None
    ) -> Iterator[tuple[Floats, Floats]]:
        """Pairs of mix (channels, n) and estimates (stems, channels, n), at the song's rate.

        The mix is held back until its estimates are there, which also fixes their number: resampling there
        and back may be a sample off.
        """
        held = _Held()
        rate, count = self.manifest.sample_rate, len(self.manifest.stems)
        blocks = resample_blocks(
            held.passing(song.blocks()), song.channels, song.sample_rate, rate, length=None
        )
        flat = (e.reshape(count * song.channels, -1) for e in self._estimates(song, blocks, plan, cancel))
        for block in resample_blocks(flat, count * song.channels, rate, song.sample_rate, length=None):
            mix = held.take(block.shape[1])
            if not mix.shape[1]:
                continue
            yield mix, block[:, : mix.shape[1]].reshape(count, song.channels, -1)
        rest = held.take(None)
        if rest.shape[1]:
            yield rest, np.zeros((count, *rest.shape), np.float32)

    def _estimates(
        self, song: _Song, blocks: Iterable[Floats], plan: ChunkPlan, cancel: threading.Event | None
    ) -> Iterator[Floats]:
        """Estimates (stems, channels, n) at the engine's rate."""
        mean, deviation = self._level(song) if self.manifest.normalize else (0.0, 1.0)
        levelled = ((block - np.float32(mean)) / np.float32(deviation) for block in blocks)
        joined = OverlapAdd(plan)
        for piece, estimate in self._loop(cut(levelled if self.manifest.normalize else blocks, plan)):
            if cancel is not None and cancel.is_set():
                raise CancelledError(f"{self.manifest.name}: cancelled")
            finished = joined.add(piece, estimate)
            yield finished * np.float32(deviation) + np.float32(mean) if self.manifest.normalize else finished

    def _level(self, song: _Song) -> tuple[float, float]:
        """Mean and deviation of the song's channel mean at the engine's rate; deviation 1 for silence."""
        count, total, squares = 0, 0.0, 0.0
        for block in resample_blocks(
            song.blocks(), song.channels, song.sample_rate, self.manifest.sample_rate, length=None
        ):
            mono = block.mean(axis=0, dtype=np.float64)
            count, total, squares = count + mono.size, total + mono.sum(), squares + np.square(mono).sum()
        mean = total / max(count, 1)
        deviation = max(squares / max(count, 1) - mean**2, 0.0) ** 0.5
        return mean, deviation or 1.0

    def _plan(self, overlap: float | None) -> ChunkPlan:
        chosen = self.manifest.overlap_add.overlap if overlap is None else overlap
        if not 0 <= chosen < 1:
            raise UsageError(f"overlap is {chosen}; give a fraction of a chunk, 0 or more and below 1")
        return ChunkPlan.with_overlap(self.manifest.chunk.samples, chosen)


class _Held:
    """The mix between going in and its estimates coming out."""

    def __init__(self) -> None:
        self._blocks: deque[Floats] = deque()

    def passing(self, blocks: Iterable[Floats]) -> Iterator[Floats]:
        for block in blocks:
            self._blocks.append(block)
            yield block

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


def _checked_rate(sample_rate: int) -> int:
    if not MIN_RATE <= sample_rate <= MAX_RATE or sample_rate != int(sample_rate):
        raise AudioReadError(
            f"the sample rate is {sample_rate} Hz; rofo takes whole numbers from {MIN_RATE} to {MAX_RATE}"
        )
    return int(sample_rate)


def _checked(samples: NDArray[np.generic]) -> Floats:
    if samples.ndim != 2 or samples.shape[0] not in (1, 2):
        raise AudioReadError(f"the mix has shape {samples.shape}; give (channels, samples), 1 or 2 channels")
    if not np.issubdtype(samples.dtype, np.floating):
        raise AudioReadError(f"the mix is of type {samples.dtype}; give floating point samples in [-1, 1]")
    floats = samples.astype(np.float32, copy=False)
    bad = int(np.count_nonzero(~np.isfinite(floats)))
    if bad:
        raise AudioReadError(f"the mix has {bad} samples that are not finite; replace them first")
    return floats


def _sliced(samples: Floats) -> Iterator[Floats]:
    """The blocks a file of these samples would be read in: no copy of the whole song is ever made."""
    return (samples[:, start : start + BLOCK] for start in range(0, samples.shape[1], BLOCK))


def _same_channels(first: Floats, rest: Iterable[Floats]) -> Iterator[Floats]:
    yield first
    for block in rest:
        if block.shape[0] != first.shape[0]:
            raise AudioReadError(f"a block has {block.shape[0]} channels, the first had {first.shape[0]}")
        yield block
