"""What turns songs into estimates of their stems: one engine, or a mixer of several in lock-step."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import groupby, tee
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
from rofo.song import Held

Floats = NDArray[np.float32]
# A block and the number of its song, see Song.number. From blocks (channels, n) of songs at the model's
# sample rate, one song after the other, to blocks (stems, channels, n) of estimates: as many samples in the
# same order.
Block = tuple[int | None, Floats]
Estimator = Callable[[Iterable[Block]], Iterator[Block]]


class EngineModel:
    """One engine. Immutable: every estimator call keeps its own state."""

    def __init__(self, engine: Engine, manifest: Manifest, name: str) -> None:
        self.manifest, self.normalize = manifest, manifest.normalize
        self._engine = engine
        self._loop = ChunkLoop(engine, manifest, name)

    @property
    def backend(self) -> str:
        """The backend in use."""
        return self._engine.backend

    @property
    def precision(self) -> str:
        """The precision in use."""
        return self._engine.precision

    @property
    def healthy(self) -> bool:
        """False once the GPU is lost to this process."""
        return self._engine.healthy

    def estimator(self, scheme: str | None, overlap: float | None) -> Estimator:
        """What separates with this scheme and overlap, None for the manifest's. Raises UsageError."""
        return partial(self._estimates, self.manifest.scheme(scheme, overlap))

    def close(self) -> None:
        """Release the engine. May be called twice."""
        self._engine.close()

    def _estimates(self, scheme: Scheme, blocks: Iterable[Block]) -> Iterator[Block]:
        for number, done in groupby(self._loop(_chunks(scheme, blocks)), lambda pair: pair[0].song):
            joined = OverlapAdder()
            for chunk, estimate in done:
                yield number, joined.add(chunk, estimate)


class MixerModel:
    """Engines side by side, whose stems are mixed with each other and with the mix by a matrix.

    `members` are the engines, each with the place of the stem that is taken of it.
    """

    normalize = False

    def __init__(self, manifest: MixerManifest, members: Sequence[tuple[EngineModel, int]]) -> None:
        self.manifest = manifest
        self._members = tuple(members)
        self._matrix = np.array(manifest.matrix, np.float32)

    @property
    def backend(self) -> str:
        """The backends in use, joined by +."""
        return "+".join(dict.fromkeys(member.backend for member, _ in self._members))

    @property
    def precision(self) -> str:
        """The precisions in use, joined by +."""
        return "+".join(dict.fromkeys(member.precision for member, _ in self._members))

    @property
    def healthy(self) -> bool:
        """False once the GPU is lost to this process."""
        return all(member.healthy for member, _ in self._members)

    def estimator(self, scheme: str | None, overlap: float | None) -> Estimator:
        """What separates with this scheme and overlap, None for each member's own. Raises UsageError."""
        return partial(self._estimates, [member.estimator(scheme, overlap) for member, _ in self._members])

    def close(self) -> None:
        """Release all engines. May be called twice."""
        for member, _ in self._members:
            member.close()

    def _estimates(self, estimators: Sequence[Estimator], blocks: Iterable[Block]) -> Iterator[Block]:
        held = Held()
        # A block is dropped when the last member has read it: they differ by a chunk or two, not by a song.
        copies = tee(self._widened(blocks, held), len(estimators))
        outputs = [estimator(copy) for estimator, copy in zip(estimators, copies, strict=True)]
        for number, estimates in _lock_step(outputs):
            mix = held.take(estimates[0].shape[-1])
            taken = [e[stem] for e, (_, stem) in zip(estimates, self._members, strict=True)]
            yield number, self._mixed([*taken, np.broadcast_to(mix, taken[0].shape)], mix.shape[0])

    def _widened(self, blocks: Iterable[Block], held: Held) -> Iterator[Block]:
        """A mono song for a stereo mixer is doubled here, not by the members: the matrix crosses channels."""
        for number, block in blocks:
            held.put(block)
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


Model = EngineModel | MixerModel


def open_model(path: Path, settings: EngineSettings) -> Model:
    """Open an engine file, or a manifest: the first engine file it has for the backend, or all of a mixer.

    The settings are those of every member of a mixer. Raises EngineLoadError (ManifestError,
    EngineMismatchError).
    """

    def opened(path: Path, manifest: Manifest) -> EngineModel:
        file = _engine_file(path, manifest, settings.backend)
        return EngineModel(open_engine(file, manifest, settings), manifest, str(file))

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
