"""From what the user names, files or folders, to the list of files to separate."""

from collections.abc import Iterable
from pathlib import Path

from rofo.errors import AudioReadError, UsageError

# What is taken from a folder. A file named directly is tried whatever its suffix.
SUFFIXES = frozenset(
    f".{name}"
    for names in ("wav w64 rf64 flac ogg oga opus mp3 aif aiff", "m4a m4b mp4 aac webm mka wma")
    for name in names.split()
)


def list_inputs(named: Iterable[Path]) -> list[Path]:
    """Files as they are, and the audio files directly in each folder, by name.

    Raises AudioReadError for a folder that cannot be read, UsageError for one without audio, and when two
    files would get one output folder, which carries the name of the file without suffix.
    """
    files: list[Path] = []
    for path in named:
        found = _in_folder(path) if path.is_dir() else [path]
        if not found:
            raise UsageError(f"{path}: no audio files in this folder; give files or another folder")
        files += found
    tracks: dict[str, Path] = {}
    for file in dict.fromkeys(files):
        # Compared without case: on many file systems Song and song are one folder.
        other = tracks.setdefault(file.stem.lower(), file)
        if other != file:
            raise UsageError(
                f"{file}: its stems would be written over those of {other}; rename one, "
                "or separate them with different --output"
            )
    return list(tracks.values())


def _in_folder(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise AudioReadError(f"{folder}: {error.strerror or error}; give a readable folder") from None
    return [
        file
        for file in entries
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    ]
