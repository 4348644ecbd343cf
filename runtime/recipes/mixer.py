"""A mixer, kuielab's several engines and their matrix, as a recipe of two kinds of steps."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from rofo.audio.record import hash_engine
from rofo.errors import EngineMismatchError
from rofo.manifest import Manifest, Member, MixerManifest, load_engine_manifest, verify_file
from rofo.recipes.matrix import Matrix
from rofo.recipes.model import RecipeModel
from rofo.recipes.run import Run
from rofo.recipes.step import MIX, Model, Step


def open_mixer(
    path: Path, manifest: MixerManifest, opened: Callable[[Path], Model], **options: bool
) -> RecipeModel:
    """The model of a mixer; `opened` opens a member. Raises EngineLoadError."""
    models: dict[str, Model] = {}
    with ExitStack() as failed:
        for member in manifest.members:
            file = path.with_name(member.manifest)
            verify_file(file, member.sha256)
            _check_member(file, load_engine_manifest(file), member, manifest)
            models[member.manifest] = opened(file)
            failed.callback(models[member.manifest].close)
        failed.pop_all()
    parts = [f"{i} {member.stem}" for i, member in enumerate(manifest.members)]
    runs = [
        Run((part,), member.manifest, MIX, (member.stem,))
        for part, member in zip(parts, manifest.members, strict=True)
    ]
    steps: list[Step] = [*runs, Matrix(manifest.stems, (*parts, MIX), manifest.matrix)]
    identity = hash_engine(manifest, *(models[member.manifest].identity for member in manifest.members))
    return RecipeModel(manifest, steps, manifest.stems, models, identity, **options)


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
