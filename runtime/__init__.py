"""Music source separation engines, run without PyTorch.

`Separator` loads an engine once and separates arrays, streams and files as `Options` say; `load_manifest`
tells what an engine is without loading it. Everything raised on purpose is a RofoError.
"""

from typing import TYPE_CHECKING, Any

from rofo.errors import (
    AudioReadError,
    CancelledError,
    EngineLoadError,
    EngineMismatchError,
    EngineOutputError,
    EngineRunError,
    ManifestError,
    OutputWriteError,
    RecipeError,
    RofoError,
    UsageError,
)

if TYPE_CHECKING:
    from rofo.manifest import Manifest, MixerManifest, load_manifest
    from rofo.options import Options
    from rofo.recipes.recipe import Recipe
    from rofo.results import Progress, SeparatedFile
    from rofo.separator import Separator
    from rofo.song_list import ListedSong, read_list, separate_list, separate_song
    from rofo.song_rows import SongRow, read_rows

__version__ = "0.1.0"

# Loaded on first use: numpy and soundfile take 0.15 s, which `rofo-run --help` need not wait for.
_LAZY = {
    "ListedSong": "rofo.song_list",
    "Manifest": "rofo.manifest",
    "MixerManifest": "rofo.manifest",
    "load_manifest": "rofo.manifest",
    "Options": "rofo.options",
    "Progress": "rofo.results",
    "Recipe": "rofo.recipes.recipe",
    "SeparatedFile": "rofo.results",
    "Separator": "rofo.separator",
    "SongRow": "rofo.song_rows",
    "read_list": "rofo.song_list",
    "read_rows": "rofo.song_rows",
    "separate_list": "rofo.song_list",
    "separate_song": "rofo.song_list",
}

__all__ = [
    "AudioReadError",
    "CancelledError",
    "EngineLoadError",
    "EngineMismatchError",
    "EngineOutputError",
    "EngineRunError",
    "ListedSong",
    "Manifest",
    "ManifestError",
    "MixerManifest",
    "Options",
    "OutputWriteError",
    "Progress",
    "Recipe",
    "RecipeError",
    "RofoError",
    "SeparatedFile",
    "Separator",
    "SongRow",
    "UsageError",
    "load_manifest",
    "read_list",
    "read_rows",
    "separate_list",
    "separate_song",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
