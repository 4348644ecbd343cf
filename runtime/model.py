"""Opening a model, one engine or a mixer of several, and one engine's part of the path of a song."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from rofo.audio.record import hash_engine
from rofo.dsp.chunk_loop import ChunkLoop
from rofo.dsp.overlap_add import OverlapAdder
from rofo.dsp.scheme import Chunk, Scheme
from rofo.engines import BACKENDS, EngineSettings, open_engine
from rofo.engines.contract import Engine
from rofo.errors import EngineLoadError, EngineMismatchError
from rofo.manifest import (
    Manifest,
    Member,
    MixerManifest,
    load_engine_manifest,
    load_manifest,
    manifest_path,
    verify_file,
)
from rofo.mixer import MixerModel
from rofo.song import Block, Estimator


class EngineModel:
    """One engine. Immutable: every estimator call keeps its own state."""

    def __init__(self, engine: Engine, manifest: Manifest, file: Path) -> None:
        self.manifest, self.normalize = manifest, manifest.normalize
        self.engines = (engine,)
        (entry,) = (entry for entry in manifest.engines if entry.file == file.name)
        # All that decides over the stems: file, backend, precision, and what the manifest says of the sound.
        made_of = entry.sha256, entry.data_sha256, engine.backend, engine.precision
        self.identity = hash_engine(manifest, *made_of)
        self._loop = ChunkLoop(engine, manifest, str(file))

    def estimator(self, scheme: str | None, overlap: float | None, shifts: int = 0) -> Estimator:
        """What separates with this scheme and overlap, None for the manifest's. Raises UsageError."""
        return partial(self._estimates, self.manifest.scheme(scheme, overlap, shifts))

    def close(self) -> None:
        """Release the engine. May be called twice."""
        self.engines[0].close()

    def _estimates(self, scheme: Scheme, blocks: Iterable[Block]) -> Iterator[Block]:
        """Chunk -> STFT -> engine -> inverse STFT (those three in the loop) -> overlap-add."""
        for number, done in groupby(self._loop(_chunks(scheme, blocks)), lambda pair: pair[0].song):
            joined = OverlapAdder()
            for chunk, estimate in done:
                yield number, joined.add(chunk, estimate)


Model = EngineModel | MixerModel


def open_model(path: Path, settings: EngineSettings) -> Model:
    """Open an engine file, or a manifest: the first engine file it has for the backend, or all of a mixer.

    The settings are those of every member of a mixer. Raises EngineLoadError (ManifestError,
    EngineMismatchError).
    """

    def opened(path: Path, manifest: Manifest) -> EngineModel:
        file = _engine_file(path, manifest, settings.backend)
        return EngineModel(open_engine(file, manifest, settings), manifest, file)

    if not path.exists():
        raise EngineLoadError(f"{path}: no such engine; export a checkpoint with rofo-export")
    manifest = load_manifest(path)
    if isinstance(manifest, Manifest):
        return opened(path, manifest)
    if path != manifest_path(path):
        raise EngineMismatchError(
            f"{path}: {manifest_path(path).name} describes a mixer, not this file; give the .json as engine"
        )
    return _open_mixer(path, manifest, opened)


def _open_mixer(
    path: Path, manifest: MixerManifest, opened: Callable[[Path, Manifest], EngineModel]
) -> MixerModel:
    members = []
    with ExitStack() as failed:
        for member in manifest.members:
            file = path.with_name(member.manifest)
            verify_file(file, member.sha256)
            described = load_engine_manifest(file)
            _check_member(file, described, member, manifest)
            model = opened(file, described)
            failed.callback(model.close)
            members.append((model, described.stems.index(member.stem)))
        failed.pop_all()
    return MixerModel(manifest, members)


def _check_member(file: Path, found: Manifest, member: Member, mixer: MixerManifest) -> None:
    wanted = {"sample_rate": mixer.sample_rate, "channels": mixer.channels, "normalize": False}
    problems = [
        f"its {key} is {getattr(found, key)}, the mixer {mixer.name} needs {value}"
        for key, value in wanted.items()
        if getattr(found, key) != value
    ]
    if member.stem not in found.stems:
        problems.append(f"it has no stem {member.stem}, which the mixer {mixer.name} needs")
    if problems:
        raise EngineMismatchError(f"{file}: {', and '.join(problems)}; export again with rofo-export")


def _engine_file(path: Path, manifest: Manifest, backend: str) -> Path:
    """`path`, or where it is a manifest, the first engine file there that the backend runs."""
    if path != manifest_path(path):
        return path
    kind = BACKENDS[backend].file if backend in BACKENDS else None
    fitting = [entry for entry in manifest.engines if entry.backend == kind]
    return path.with_name((fitting or manifest.engines)[0].file)


def _chunks(scheme: Scheme, blocks: Iterable[Block]) -> Iterator[Chunk]:
    """The chunks of one song after the other, each with its song's number."""
    for number, song in groupby(blocks, itemgetter(0)):
        for chunk in scheme.cut(block for _, block in song):
            yield replace(chunk, song=number)
