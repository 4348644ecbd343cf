"""Opening a model, one engine or several, and one engine's part of the path of a song."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from threading import Semaphore

from rofo.audio.record import hash_engine
from rofo.dsp.chunk_loop import ChunkLoop
from rofo.dsp.overlap_add import OverlapAdder
from rofo.dsp.scheme import Chunk, Scheme
from rofo.engines import EngineSettings, open_engine
from rofo.engines.choice import engine_file
from rofo.engines.contract import Engine
from rofo.engines.process import is_forked
from rofo.errors import EngineLoadError, EngineMismatchError
from rofo.footprint import footprint
from rofo.manifest import Manifest, is_there, load_manifest, manifest_path
from rofo.recipes.mixer import open_mixer
from rofo.recipes.model import RecipeModel
from rofo.recipes.read import read_recipe
from rofo.recipes.step import Model
from rofo.song import Block, Estimator
from rofo.watch import Watch

# What opens an engine file: rofo.engines.open_engine, or a service's own.
Opener = Callable[[Path, Manifest, EngineSettings], Engine]


class EngineModel:
    """One engine; `threads` do the transforms. Immutable: every estimator call keeps its own state.

    `turns` are those of several engines with the same cores, None where it is alone.
    """

    ahead = 0.0  # the share of the work before the first estimate comes
    seeds = 1

    def __init__(
        self,
        engine: Engine,
        manifest: Manifest,
        file: Path,
        threads: int | None,
        turns: Semaphore | None = None,
    ) -> None:
        self.manifest, self.normalize = manifest, manifest.normalize
        self.engines: tuple[Engine, ...] = (engine,)
        (entry,) = (entry for entry in manifest.engines if entry.file == file.name)
        self.footprint = footprint(file, entry, manifest, engine)
        # All that decides over the stems: file, backend, precision, and what the manifest says of the sound.
        made_of = entry.sha256, entry.data_sha256, engine.backend, engine.precision
        self.identity = hash_engine(manifest, *made_of)
        self._loop = ChunkLoop(engine, manifest, str(file), threads, turns)

    def estimator(
        self, scheme: str | None, overlap: float | None, shifts: int = 0, seed: int = 0
    ) -> Estimator:
        """What separates with this scheme and overlap, None for the manifest's. Raises UsageError."""
        return partial(self.estimates, self.manifest.scheme(scheme, overlap, shifts, seed))

    def close(self) -> None:
        """Release the engine, not in a forked process. May be called twice."""
        if not is_forked():
            self.engines[0].close()

    def estimates(self, scheme: Scheme, blocks: Iterable[Block], watch: Watch) -> Iterator[Block]:
        """Chunk -> STFT -> engine -> inverse STFT (those three in the loop) -> overlap-add."""
        for number, done in groupby(self._loop(_chunks(scheme, blocks), watch), lambda pair: pair[0].song):
            joined = OverlapAdder()
            for chunk, estimate in done:
                yield number, joined.add(chunk, estimate)


class ClosedModel:
    """One engine that is opened for every song anew and closed after it, to have one at a time in memory.

    `open_` opens it: once at once, so that what cannot be opened is known before any work.
    """

    seeds = 1

    def __init__(self, open_: Callable[[], EngineModel]) -> None:
        self._open = open_
        with closing(open_()) as model:
            self.manifest, self.normalize, self.ahead = model.manifest, model.normalize, model.ahead
            self.engines, self.identity = model.engines, model.identity
            self.footprint = model.footprint

    def estimator(
        self, scheme: str | None, overlap: float | None, shifts: int = 0, seed: int = 0
    ) -> Estimator:
        """As in EngineModel."""
        return partial(self._estimates, self.manifest.scheme(scheme, overlap, shifts, seed))

    def close(self) -> None:
        """Nothing is open."""

    def _estimates(self, scheme: Scheme, blocks: Iterable[Block], watch: Watch) -> Iterator[Block]:
        with closing(self._open()) as model:
            yield from model.estimates(scheme, blocks, watch)


def open_model(
    path: Path, settings: EngineSettings, *, low_memory: bool = False, opener: Opener | None = None
) -> Model:
    """Open an engine file, or a manifest: the first engine file it has for the backend, or all of a mixer;
    or a recipe with all its engines.

    The settings are those of every engine; `low_memory` is for several. Raises EngineLoadError
    (ManifestError, EngineMismatchError, RecipeError).
    """
    return _open(path, settings, low_memory=low_memory, opener=opener)


def _open(
    path: Path,
    settings: EngineSettings,
    *,
    low_memory: bool,
    opener: Opener | None,
    turns: Semaphore | None = None,
) -> Model:
    """As open_model; `turns` are those of the recipe or mixer whose engine it is, None for none.

    All engines in a recipe, and in recipes within it, take turns: three at once on two cores took 8 % more
    processor time than one after the other.
    """
    if not is_there(path):
        raise EngineLoadError(f"{path}: no such engine; export a checkpoint with rofo-export")
    opened = partial(
        _open, settings=settings, low_memory=low_memory, opener=opener, turns=turns or Semaphore()
    )
    if path.suffix == ".toml":
        return _open_recipe(path, opened, low_memory=low_memory)
    manifest = load_manifest(path)
    if isinstance(manifest, Manifest):
        open_ = partial(_open_engine, path, manifest, settings, opener, turns)
        return ClosedModel(open_) if low_memory and turns else open_()
    if path != manifest_path(path):
        raise EngineMismatchError(
            f"{path}: {manifest_path(path).name} describes a mixer, not this file; give the .json as engine"
        )
    return open_mixer(path, manifest, opened, low_memory=low_memory)


def _open_recipe(path: Path, opened: Callable[[Path], Model], *, low_memory: bool) -> RecipeModel:
    """`opened` opens its engines."""
    recipe = read_recipe(path)
    by_file: dict[Path, Model] = {}
    with ExitStack() as failed:
        for file in recipe.engines.values():
            if file not in by_file:
                by_file[file] = opened(file)
                failed.callback(by_file[file].close)
        models = {name: by_file[file] for name, file in recipe.engines.items()}
        identity = recipe.identity([model.identity for model in models.values()])
        model = RecipeModel(recipe, recipe.steps, recipe.outputs, models, identity, low_memory=low_memory)
        failed.pop_all()
    return model


def _open_engine(
    path: Path, manifest: Manifest, settings: EngineSettings, opener: Opener | None, turns: Semaphore | None
) -> EngineModel:
    file = engine_file(path, manifest, settings)
    engine = (opener or open_engine)(file, manifest, settings)
    # One that wants several runs in flight computes elsewhere than on the cores.
    return EngineModel(engine, manifest, file, settings.threads, turns if engine.in_flight == 1 else None)


def _chunks(scheme: Scheme, blocks: Iterable[Block]) -> Iterator[Chunk]:
    """The chunks of one song after the other, each with its song's number."""
    for number, song in groupby(blocks, itemgetter(0)):
        for chunk in scheme.cut(block for _, block in song):
            yield replace(chunk, song=number)
