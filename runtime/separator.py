"""The one path a song takes, behind four doors: an array, several arrays, streams of blocks, files.

    read block      AudioReader.blocks (audio/reader.py), or what the caller gives (song.py)
    resample        audio/resample.py, to the engine's rate
    chunk           Scheme.cut (one file per scheme, dsp/)
    STFT            Spectrogram.forward    \\
    engine          Engine.run              } beside each other, on threads, in ChunkLoop (dsp/chunk_loop.py)
    inverse STFT    Spectrogram.inverse    /
    overlap-add     OverlapAdder; these five are EngineModel (model.py), several such RecipeModel (recipes/)
    resample        back to the song's rate (rates.py)
    write block     StemFiles (audio/writer.py), or into the caller's arrays

Every step is a generator that takes from the one before it, so no more of a song is held than a chunk or two.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from rofo.audio.files import check_format, output_format, stem_paths, track_name
from rofo.audio.parts import alone_in, remove_stale_parts
from rofo.audio.reader import AudioReader
from rofo.audio.record import Record, input_sha256
from rofo.audio.writer import StemFiles
from rofo.engines import EngineSettings
from rofo.engines.folder import stems_of
from rofo.engines.process import is_forked
from rofo.errors import AudioReadError, UsageError
from rofo.manifest import Manifest, MixerManifest
from rofo.model import Opener, open_model
from rofo.options import Options
from rofo.rates import OwnRate
from rofo.recipes.recipe import Recipe
from rofo.results import SeparatedFile
from rofo.song import Estimator, Floats, Song, array_song, stream_song
from rofo.text import printable
from rofo.watch import Watch

Stems = dict[str, Floats]  # by name: (channels, n)


class Separator:
    """An engine, loaded once. Immutable after construction: share it between threads.

    `engine` is the path of an engine file with its manifest beside it, of a manifest, where that of a mixer
    opens all its members, or of a recipe (.toml), which opens all its engines; `low_memory` opens them one
    after the other, each for its part of the way. `backend`, `precision`, `threads` and `cuda_stream` as in
    rofo.engines.EngineSettings. `opener` opens every engine file in place of rofo.engines.open_engine: a
    service may have engines of its own (serving/triton.py has). Raises EngineLoadError (ManifestError,
    EngineMismatchError, RecipeError).
    """

    def __init__(
        self,
        engine: str | Path,
        *,
        backend: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        cuda_stream: int | None = None,
        low_memory: bool = False,
        opener: Opener | None = None,
    ) -> None:
        settings = EngineSettings(backend, precision, threads, cuda_stream)
        self._model = open_model(Path(engine), settings, low_memory=low_memory, opener=opener)
        self.manifest: Manifest | MixerManifest | Recipe = self._model.manifest
        self.footprint = self._model.footprint

    @property
    def backend(self) -> str:
        """The backend in use; those of a mixer's members joined by + where they differ."""
        return "+".join(dict.fromkeys(engine.backend for engine in self._model.engines))

    @property
    def precision(self) -> str:
        """The precision in use: fp32, bf16 or fp16; joined as the backends are."""
        return "+".join(dict.fromkeys(engine.precision for engine in self._model.engines))

    @property
    def device(self) -> str:
        """What computes: cpu, or the GPU's name; joined as the backends are."""
        return "+".join(dict.fromkeys(engine.device for engine in self._model.engines))

    @property
    def healthy(self) -> bool:
        """False once the GPU is lost to this process, and in a process that was forked from the one that
        opened the engine: end it and start anew. Costs nothing; `self_test` runs the engine."""
        return not is_forked() and all(engine.healthy for engine in self._model.engines)

    def self_test(self) -> float:
        """Run noise of one chunk through all engines -> the seconds that took.

        The first one is a warm-up: kernels are compiled, memory is taken. What does not work is raised as
        from `separate`.
        """
        rate = self.manifest.sample_rate
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, round(self.footprint.chunk_seconds * rate)))
        began = time.perf_counter()
        self.separate(noise, rate)
        return time.perf_counter() - began

    @property
    def stems(self) -> tuple[str, ...]:
        """All stems that can be asked for, the residual last."""
        return stems_of(self.manifest)

    def separate(self, mix: ArrayLike, sample_rate: int, options: Options = Options()) -> Stems:
        """Separate an array: mix (channels, samples) float in [-1, 1] -> {stem: (channels, samples)}.

        Stems have the mix's rate, channels and length.
        Raises AudioReadError for samples that cannot be separated, UsageError for an unknown stem or scheme
        and for an overlap that the scheme cannot have, CancelledError, EngineRunError (EngineOutputError).
        """
        return self._whole([array_song(mix, sample_rate)], options)[0]

    def separate_songs(
        self, mixes: Sequence[ArrayLike], sample_rate: int, options: Options = Options()
    ) -> list[Stems]:
        """Separate several arrays of one rate, as `separate` does each, filling batches across them.

        Songs may differ in channels and length; an engine of batch 4 takes four songs of one chunk at once.
        Progress counts all songs together. Errors as in `separate`; one that is a song's own calls it
        mixes[number].
        """
        songs = [array_song(mix, sample_rate, number) for number, mix in enumerate(mixes)]
        return self._whole(songs, options)

    def stream(
        self, blocks: Iterable[ArrayLike], sample_rate: int, options: Options = Options()
    ) -> Iterator[Stems]:
        """Separate blocks (channels, any length) as they come -> dicts of blocks as they are ready.

        The blocks of a stem together are as long as the song. A block is copied when it comes, so its
        memory may be used for the next one. Constant memory; latency is about one chunk. Errors as in
        `separate`, and UsageError for an engine that normalises its input, and for a recipe of several
        passes: they need the whole song first.
        """
        if self._model.normalize or self._model.ahead:
            needs = (
                "scales by the whole song's level" if self._model.normalize else "needs the whole song first"
            )
            raise UsageError(f"{self.manifest.name}: this engine {needs}; use separate or separate_file")
        estimator, stems = self._checked(options)
        song = stream_song(blocks, sample_rate)
        path = self._path([song] if song else [], estimator, stems, self._watch(options))
        return (ready for _, ready in path)

    def separate_file(
        self,
        path: str | Path,
        output: str | Path = "separated",
        options: Options = Options(),
        *,
        track: str | None = None,
        sha256: str | None = None,
    ) -> SeparatedFile:
        """Separate a file into OUTPUT/<track>/<stem>.<ext>; all stems appear or none.

        `track` is the name of the folder, None for the file's. With the `sha256` that the file must have, a
        song that is finished is skipped without reading it.
        Raises AudioReadError, OutputWriteError, and what `separate` raises.
        """
        path, watch = Path(path), self._watch(options, Path(path))
        folder = Path(output) / (track_name(path) if track is None else track)
        estimator, stems = self._checked(options)
        remove_stale_parts(folder)
        known = sha256 or input_sha256(path)
        record = Record(folder, {**self.made_with(options), "input": known})
        if options.resume and (done := record.finished(stems)):
            return SeparatedFile(
                done.paths,
                seconds=done.seconds,
                elapsed=0.0,
                warnings=(),
                sha256=done.sha256,
                song_sha256=known,
                skipped=True,
            )
        if sha256 and sha256 != (found := input_sha256(path)):
            raise AudioReadError(f"{path}: its sha256 is {found}, not {sha256}; name the right file")
        with AudioReader(
            path,
            allow_truncated=options.allow_truncated,
            sanitize=options.sanitize,
            channels=options.channels,
            max_minutes=options.max_minutes,
            cancel=options.cancel,
        ) as reader:
            source = reader.format
            song = Song(reader.blocks, source.channels, source.sample_rate, source.frames)
            written = output_format(path, source, options.container, options.subtype)
            paths = stem_paths(path, folder, stems, written)
            with ExitStack() as alone:
                with StemFiles(paths, written) as files:
                    for _, blocks in self._path([song], estimator, stems, watch):
                        files.write(blocks)
                    alone.enter_context(alone_in(folder))
                    record.remove()
                done = record.write(paths, source.frames / source.sample_rate)
            empty = [] if source.frames else ["holds no samples; its stems are empty"]
            warnings = [*reader.warnings, *files.warnings, *empty]
        for warning in warnings:
            watch.warn(warning)
        return SeparatedFile(
            done.paths,
            seconds=done.seconds,
            elapsed=watch.elapsed,
            warnings=warnings,
            sha256=done.sha256,
            song_sha256=known,
            engines=watch.engines,
            silent=watch.silent,
        )

    def _watch(self, options: Options, song: Path | None = None) -> Watch:
        name = None if song is None else printable(song)
        return Watch(self.manifest.name, options.cancel, options.progress, song=name)

    def check(self, options: Options) -> tuple[str, ...]:
        """The names of the stems that would be made. Raises the UsageError that separating would raise."""
        return self._checked(options)[1]

    def close(self) -> None:
        """Release the engine; the separator cannot be used afterwards. May be called twice."""
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _path(
        self, songs: Sequence[Song], estimator: Estimator, stems: Sequence[str], watch: Watch
    ) -> Iterator[tuple[int, Stems]]:
        """The path of the songs, one after the other -> the place of each in `songs` with its blocks."""
        if not songs:
            return
        model, rate = self._model, songs[0].sample_rate
        by_number = {song.number: (place, song) for place, song in enumerate(songs)}
        watch.total = _seconds(songs)
        levels = (lambda number: by_number[number][1].read()) if model.normalize else None
        at_its_rate = OwnRate(estimator, len(self.manifest.stems), self.manifest.sample_rate, rate, levels)
        again = model.ahead > 0
        blocks = ((song.number, block) for song in songs for block in song.blocks(again=again))
        for number, estimate in at_its_rate(blocks, watch):
            place, song = by_number[number]
            mix = song.take(estimate.shape[-1])
            watch.check()
            made = dict(zip(self.manifest.stems, estimate, strict=True))
            if self.manifest.residual in stems:
                made[str(self.manifest.residual)] = mix - estimate.sum(axis=0)
            yield place, {stem: made[stem] for stem in stems}
            watch.advance(mix.shape[1] * (1 - model.ahead), rate)
        watch.finish()

    def _whole(self, songs: Sequence[Song], options: Options) -> list[Stems]:
        """The stems of every song in one piece."""
        estimator, stems = self._checked(options)
        shapes = [(song.channels, song.samples or 0) for song in songs]
        results = [{stem: np.empty(shape, np.float32) for stem in stems} for shape in shapes]
        filled = [0] * len(songs)
        for place, blocks in self._path(songs, estimator, stems, self._watch(options)):
            begin = filled[place]
            for stem, block in blocks.items():
                filled[place] = begin + block.shape[1]
                results[place][stem][:, begin : filled[place]] = block
        return results

    def _checked(self, options: Options) -> tuple[Estimator, tuple[str, ...]]:
        """What separates as `options` say, and the names of the stems chosen, in the order asked for."""
        estimator = self._model.estimator(options.scheme, options.overlap, options.shifts)
        if options.container is not None:
            check_format(options.container, options.subtype)
        if options.stems is None:
            return estimator, self.stems
        by_name = {stem.lower(): stem for stem in self.stems}
        unknown = [stem for stem in options.stems if stem.lower() not in by_name]
        if unknown or not options.stems:
            raise UsageError(
                f"{self.manifest.name} has no stem {', '.join(unknown) or '(none given)'}; "
                f"choose among {', '.join(self.stems)}"
            )
        return estimator, tuple(dict.fromkeys(by_name[stem.lower()] for stem in options.stems))

    def made_with(self, options: Options) -> dict[str, object]:
        """What decides over stems beside the song: the hash of the `engine`, and those of the `options`."""
        names = (
            "scheme",
            "overlap",
            "shifts",
            "container",
            "subtype",
            "channels",
            "allow_truncated",
            "sanitize",
        )
        chosen = {name: getattr(options, name) for name in names}
        return {"engine": self._model.identity, "options": chosen}


def _seconds(songs: Sequence[Song]) -> float | None:
    """The length of all songs, which have one rate, together; None where one is unknown."""
    known = [song.samples for song in songs if song.samples is not None]
    return sum(known) / songs[0].sample_rate if songs and len(known) == len(songs) else None
