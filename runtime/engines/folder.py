"""The engines that lie in a folder, for those who have not said which."""

from dataclasses import dataclass
from pathlib import Path

from rofo.errors import EngineLoadError
from rofo.manifest import Manifest, MixerManifest, load_manifest
from rofo.recipes.read import read_recipe
from rofo.recipes.recipe import Recipe


@dataclass(frozen=True)
class Found:
    """What `rofo-run --engine` takes, any of `files`, and the stems it makes, the residual last."""

    files: tuple[Path, ...]
    stems: tuple[str, ...]


def engines_in(folder: Path) -> list[Found]:
    """Every engine and recipe of a folder that can be read, by name; a model once, whatever its files."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".toml") and path.is_file():
            try:
                described = describe(path)
            except (EngineLoadError, OSError):
                continue  # another kind of file, or a recipe whose engines are missing
            if files := _files(path, described):
                found.append(Found(files, stems_of(described)))
    return found


def describe(path: Path) -> Manifest | MixerManifest | Recipe:
    """What an engine file, a manifest or a recipe says of itself. Raises EngineLoadError."""
    return read_recipe(path) if path.suffix == ".toml" else load_manifest(path)


def stems_of(described: Manifest | MixerManifest | Recipe) -> tuple[str, ...]:
    """The stems that can be asked for, the residual last."""
    return (*described.stems, *([described.residual] if described.residual else []))


def _files(path: Path, described: Manifest | MixerManifest | Recipe) -> tuple[Path, ...]:
    """The engine files that are there; an int8 one comes with the fp32 one beside it."""
    if not isinstance(described, Manifest):
        return (path,)
    files = (path.with_name(entry.file) for entry in described.engines if entry.precision != "int8")
    return tuple(file for file in files if file.is_file())
