"""kuielab's mixer: stems of four MDX-Nets and the mix, weighted per sample, become the stems of one model."""

from collections.abc import Sequence
from pathlib import Path

import torch

import rofo
from rofo.errors import ManifestError, UsageError
from rofo.export.errors import CheckpointError
from rofo.export.source import Source as ModelFile
from rofo.manifest import (
    Manifest,
    Member,
    MixerManifest,
    Source,
    file_sha256,
    load_engine_manifest,
    manifest_path,
)

# The order of rows and columns in kuielab's matrix, each twice: left, right. The mix is the last column.
STEMS = ("bass", "drums", "other", "vocals")
_CHANNELS = 2
_KEYS = ("linear.weight", "mixing_layer.weight")


def is_mixer(file: ModelFile) -> bool:
    """Whether a checkpoint holds nothing but a mixer's matrix."""
    return len(file.state) == 1 and next(iter(file.state)) in _KEYS


def mixer_manifest(file: ModelFile, members: Sequence[Path], stem: Path) -> MixerManifest:
    """The manifest at `stem`.json that joins engines, given by their files, through the matrix of a mixer.

    Every stem is to have one member. Raises CheckpointError where members or the matrix do not fit,
    ManifestError for a member without a manifest, UsageError for one that lies in another folder.
    """
    name = file.path
    matrix = next(iter(file.state.values())).to(torch.float32)
    rows, columns = len(STEMS) * _CHANNELS, (len(STEMS) + 1) * _CHANNELS
    if tuple(matrix.shape) != (rows, columns):
        raise CheckpointError(
            f"{name}: a mixer of {tuple(matrix.shape)}, known is kuielab's of {(rows, columns)}; give that"
        )
    by_stem = _by_stem(name, members)
    manifests = [load_engine_manifest(path) for path in by_stem.values()]
    _check_alike(name, manifests)
    for path in members:
        if path.resolve().parent != stem.resolve().parent:
            raise UsageError(f"{path}: not beside {stem}.json; give --output a name in its folder")
    try:
        return MixerManifest(
            name=stem.name,
            sample_rate=manifests[0].sample_rate,
            channels=_CHANNELS,
            stems=STEMS,
            members=tuple(map(_member, by_stem.values())),
            matrix=tuple(tuple(row) for row in matrix.tolist()),
            source=Source(name.name, file.sha256, {}, rofo.__version__, torch.__version__),
        )
    except ManifestError as error:
        raise CheckpointError(f"{name}: {error}; give the published mixer and members") from None


def _by_stem(name: Path, members: Sequence[Path]) -> dict[str, Path]:
    """The member of every stem, in the order of the matrix."""
    found: dict[str, list[Path]] = {stem: [] for stem in STEMS}
    for path in members:
        stems = load_engine_manifest(path).stems
        if len(stems) != 1 or stems[0].lower() not in found:
            raise CheckpointError(
                f"{path}: gives {', '.join(stems)}; a member gives one of {', '.join(STEMS)}"
            )
        found[stems[0].lower()].append(path)
    wrong = [stem for stem, paths in found.items() if len(paths) != 1]
    if wrong:
        raise CheckpointError(
            f"{name}: a mixer; export its MDX-Nets with --scheme trim first, then give one --member for each "
            f"stem (not exactly one for: {', '.join(wrong)})"
        )
    return {stem: paths[0] for stem, paths in found.items()}


def _check_alike(name: Path, manifests: Sequence[Manifest]) -> None:
    kinds = {(manifest.sample_rate, manifest.channels) for manifest in manifests}
    if len(kinds) > 1 or next(iter(kinds))[1] != _CHANNELS:
        listed = ", ".join(f"{m.name} {m.sample_rate} Hz {m.channels} channels" for m in manifests)
        raise CheckpointError(
            f"{name}: its members must be stereo and of one rate, not {listed}; replace them"
        )


def _member(path: Path) -> Member:
    manifest = manifest_path(path)
    return Member(manifest.name, file_sha256(manifest), load_engine_manifest(manifest).stems[0])
