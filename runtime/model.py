"""What turns songs into estimates of their stems: one engine here, several in lock-step in mixer.py."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from rofo.audio.record import hash_engine
from rofo.chunk_loop import ChunkLoop
from rofo.engines import BACKEND_NAMES, BACKENDS, Engine, open_engine
from rofo.engines.contract import Shapes
from rofo.errors import EngineLoadError, EngineMismatchError, UsageError
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
from rofo.overlap_add import OverlapAdd
from rofo.schemes import choose_cutter
from rofo.schemes.piece import Cutter, Piece
from rofo.song import Block, Estimator
from rofo.spectrogram import Spectrogram


class EngineModel:
    """One engine. Immutable: every estimator call keeps its own state."""

    def __init__(self, engine: Engine, manifest: Manifest, file: Path) -> None:
        self.manifest, self.normalize = manifest, manifest.normalize
        self.engines = (engine,)
        (entry,) = (entry for entry in manifest.engines if entry.file == file.name)
        # All that decides over the stems: file, backend, precision, and what the manifest says of the sound.
        made_of = entry.sha256, entry.data_sha256, engine.backend, engine.precision
        self.identity = hash_engine(manifest, *made_of)
        transform = Spectrogram(manifest.stft, manifest.chunk.samples)
        shapes = Shapes.of(manifest, engine.batch)
        self._loop = ChunkLoop(engine, shapes, transform, str(file), manifest.sample_rate)

    def estimator(self, scheme: str | None, overlap: float | None) -> Estimator:
        """What separates with this scheme and overlap, None for the manifest's. Raises UsageError."""
        return partial(self._estimates, choose_cutter(self.manifest, scheme, overlap))

    def close(self) -> None:
        """Release the engine. May be called twice."""
        self.engines[0].close()

    def _estimates(self, cutter: Cutter, blocks: Iterable[Block]) -> Iterator[Block]:
        """Chunk -> STFT -> engine -> inverse STFT (those three in the loop) -> overlap-add."""
        for number, done in groupby(self._loop(_pieces(cutter, blocks)), lambda pair: pair[0].song):
            joined = OverlapAdd()
            for piece, estimate in done:
                yield number, joined.add(piece, estimate)


Model = EngineModel | MixerModel


def open_model(
    path: Path,
    *,
    backend: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    cuda_stream: int | None = None,
) -> Model:
    """Open an engine file, or a manifest: the first engine file it has for `backend`, or all of a mixer.

    Options as in open_engine, for every member of a mixer. Raises EngineLoadError (ManifestError,
    EngineMismatchError), and UsageError for a backend that there is not.
    """
    if backend != "auto" and backend not in BACKEND_NAMES:
        raise UsageError(f"there is no backend {backend}; choose auto, {', '.join(BACKEND_NAMES)}")

    def opened(path: Path, manifest: Manifest) -> EngineModel:
        file = _engine_file(path, manifest, backend)
        engine = open_engine(
            file, manifest, backend=backend, precision=precision, threads=threads, cuda_stream=cuda_stream
        )
        return EngineModel(engine, manifest, file)

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
    fitting = [entry for entry in manifest.engines if backend in BACKENDS.get(entry.backend, {})]
    return path.with_name((fitting or manifest.engines)[0].file)


def _pieces(cutter: Cutter, blocks: Iterable[Block]) -> Iterator[Piece]:
    """The pieces of one song after the other, each with its song's number."""
    for number, song in groupby(blocks, itemgetter(0)):
        for piece in cutter.cut(block for _, block in song):
            yield replace(piece, song=number)
