"""The one path a song takes, behind four doors: an array, several arrays, streams of blocks, files."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rofo.audio import AudioReader
from rofo.engines import EngineSettings
from rofo.errors import CancelledError, UsageError
from rofo.manifest import Manifest, MixerManifest
from rofo.model import Block, Estimator, open_model
from rofo.output import output_format, stem_paths
from rofo.results import Progress, SeparatedFile
from rofo.song import Passage, Song, array_song, stream_song
from rofo.write import StemFiles

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class _Wish:
    """What a caller asked for, checked; the same for all songs of a call."""

    stems: tuple[str, ...]
    estimator: Estimator
    progress: Callable[[Progress], None] | None
    cancel: threading.Event | None


class Separator:
    """An engine, loaded once. Immutable after construction: share it between threads.

    `engine` is the path of an engine file with its manifest beside it, or of a manifest: that of a mixer
    opens all its members. `backend`, `precision`, `threads` and `cuda_stream` as in
    rofo.engines.EngineSettings. Raises EngineLoadError (ManifestError, EngineMismatchError).
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
        settings = EngineSettings(backend, precision, threads, cuda_stream)
        self._model = open_model(Path(engine), settings)
        self.manifest: Manifest | MixerManifest = self._model.manifest

    @property
    def backend(self) -> str:
        """The backend in use; those of a mixer's members joined by + where they differ."""
        return self._model.backend

    @property
    def precision(self) -> str:
        """The precision in use: fp32, bf16 or fp16; joined as the backends are."""
        return self._model.precision

    @property
    def healthy(self) -> bool:
        """False once the GPU is lost to this process: end it and start anew."""
        return self._model.healthy

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
        scheme: str | None = None,
        progress: Callable[[Progress], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> dict[str, Floats]:
        """Separate an array: mix (channels, samples) float in [-1, 1] -> {stem: (channels, samples)}.

        Stems have the mix's rate, channels and length. `stems` chooses among `self.stems`; `scheme` (see
        rofo.dsp) overrides how the manifest joins chunks and `overlap` the fraction of a chunk shared
        with the next one. `progress` is called after every chunk; setting `cancel` stops before the next
        one with CancelledError.
        Raises AudioReadError for samples that cannot be separated, UsageError for an unknown stem or scheme
        and for an overlap that the scheme cannot have.
        """
        song = array_song(mix, sample_rate)
        return self._arrays([song], self._wish(stems, scheme, overlap, progress, cancel))[0]

    def separate_songs(
        self,
        mixes: Sequence[ArrayLike],
        sample_rate: int,
        *,
        stems: Sequence[str] | None = None,
        overlap: float | None = None,
        scheme: str | None = None,
        progress: Callable[[Progress], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> list[dict[str, Floats]]:
        """Separate several arrays of one rate, as `separate` does each, filling batches across them.

        Songs may differ in channels and length; an engine of batch 4 takes four songs of one chunk at once.
        `progress` counts all songs together. Arguments and errors as in `separate`; an error that is one
        song's calls it mixes[number].
        """
        songs = [array_song(mix, sample_rate, number) for number, mix in enumerate(mixes)]
        return self._arrays(songs, self._wish(stems, scheme, overlap, progress, cancel))

    def stream(
        self,
        blocks: Iterable[ArrayLike],
        sample_rate: int,
        *,
        stems: Sequence[str] | None = None,
        overlap: float | None = None,
        scheme: str | None = None,
        progress: Callable[[Progress], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Iterator[dict[str, Floats]]:
        """Separate blocks (channels, any length) as they come -> dicts of blocks as they are ready.

        The blocks of a stem together are as long as the song. A block is copied when it comes, so its
        memory may be used for the next one. Constant memory; latency is about one chunk. Other arguments
        and errors as in `separate`. Raises UsageError for an engine that normalises its input, which needs
        the whole song first.
        """
        if self._model.normalize:
            raise UsageError(
                f"{self.manifest.name}: this engine scales by the whole song's level; "
                "use separate or separate_file"
            )
        wish = self._wish(stems, scheme, overlap, progress, cancel)
        song = stream_song(blocks, sample_rate)
        return (ready for _, ready in self._separated([song] if song else [], wish))

    def separate_file(
        self,
        path: str | Path,
        output: str | Path = "separated",
        *,
        stems: Sequence[str] | None = None,
        overlap: float | None = None,
        scheme: str | None = None,
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
        began, wish = time.perf_counter(), self._wish(stems, scheme, overlap, progress, cancel)
        with AudioReader(
            path,
            allow_truncated=allow_truncated,
            sanitize=sanitize,
            channels=channels,
            max_minutes=max_minutes,
        ) as reader:
            source = reader.format
            song = Song(reader.blocks, source.channels, source.sample_rate, source.frames)
            written = output_format(Path(path), source, container, subtype)
            paths = stem_paths(Path(path), Path(output), wish.stems, written)
            seconds = source.frames / source.sample_rate
            # Stems of a song appear together: all being there means the song was finished.
            if resume and all(file.is_file() for file in paths.values()):
                return SeparatedFile(paths, seconds=seconds, elapsed=0.0, warnings=(), skipped=True)
            with StemFiles(paths, written) as files:
                for _, blocks in self._separated([song], wish):
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

    def check(self, scheme: str | None, overlap: float | None) -> None:
        """Raise the UsageError that separating with this scheme and overlap would raise."""
        self._model.estimator(scheme, overlap)

    def close(self) -> None:
        """Release the engine; the separator cannot be used afterwards. May be called twice."""
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wish(
        self,
        stems: Sequence[str] | None,
        scheme: str | None,
        overlap: float | None,
        progress: Callable[[Progress], None] | None,
        cancel: threading.Event | None,
    ) -> _Wish:
        return _Wish(self.choose(stems), self._model.estimator(scheme, overlap), progress, cancel)

    def _arrays(self, songs: Sequence[Song], wish: _Wish) -> list[dict[str, Floats]]:
        """The stems of every song as a whole."""
        shapes = [(song.channels, song.samples or 0) for song in songs]
        results = [{stem: np.empty(shape, np.float32) for stem in wish.stems} for shape in shapes]
        filled = [0] * len(songs)
        for place, blocks in self._separated(songs, wish):
            begin = filled[place]
            for stem, block in blocks.items():
                filled[place] = begin + block.shape[1]
                results[place][stem][:, begin : filled[place]] = block
        return results

    def _separated(self, songs: Sequence[Song], wish: _Wish) -> Iterator[tuple[int, dict[str, Floats]]]:
        """The loop: blocks of the chosen stems at each song's rate, as long together as the song.

        Each comes with the place of its song in `songs`, one song after the other.
        """
        began, done, total = time.perf_counter(), 0, _seconds(songs)
        names, residual = self.manifest.stems, self.manifest.residual
        for place, mix, estimates in self._aligned(songs, wish):
            blocks = dict(zip(names, estimates, strict=True))
            if residual in wish.stems:
                blocks[str(residual)] = mix - estimates.sum(axis=0)
            yield place, {stem: blocks[stem] for stem in wish.stems}
            done += mix.shape[1]
            if wish.progress is not None:
                seconds = done / songs[place].sample_rate
                wish.progress(Progress(seconds, total, time.perf_counter() - began))

    def _aligned(self, songs: Sequence[Song], wish: _Wish) -> Iterator[tuple[int, Floats, Floats]]:
        """Places of songs with their mix (channels, n) and its estimates (stems, channels, n), at their rate.

        The songs go through the model in one call, one after the other, and are told apart by their numbers.
        """
        passages = [self._passage(song) for song in songs]
        blocks = ((passage.song.number, block) for passage in passages for block in passage.blocks())
        nothing: tuple[int | None, Iterator[Block]] = (None, iter(()))
        numbered = groupby(self._until(wish.cancel, wish.estimator(blocks)), itemgetter(0))
        number, ready = next(numbered, nothing)
        for place, passage in enumerate(passages):
            # A song too short for any estimate is passed over by the estimator, but has stems as well.
            mine = passage.song.number == number
            for mix, estimates in passage.aligned(e for _, e in ready) if mine else passage.aligned(()):
                yield place, mix, estimates
            if mine:
                number, ready = next(numbered, nothing)

    def _passage(self, song: Song) -> Passage:
        rate, stems = self.manifest.sample_rate, len(self.manifest.stems)
        return Passage(song, rate, stems, normalize=self._model.normalize)

    def _until(self, cancel: threading.Event | None, estimates: Iterator[Block]) -> Iterator[Block]:
        for block in estimates:
            if cancel is not None and cancel.is_set():
                raise CancelledError(f"{self.manifest.name}: cancelled")
            yield block


def _seconds(songs: Sequence[Song]) -> float | None:
    """The length of all songs, which have one rate, together; None where one is unknown."""
    known = [song.samples for song in songs if song.samples is not None]
    return sum(known) / songs[0].sample_rate if songs and len(known) == len(songs) else None
