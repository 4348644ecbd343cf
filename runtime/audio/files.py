"""Names: which songs a user means, where their stems go, and in which format."""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from rofo.audio.samples import AudioFormat
from rofo.errors import AudioReadError, UsageError

# What is taken from a folder. A file named directly is tried whatever its suffix.
SUFFIXES = frozenset(
    f".{name}"
    for names in ("wav w64 rf64 flac ogg oga opus mp3 aif aiff", "m4a m4b mp4 aac webm mka wma")
    for name in names.split()
)
_SUBTYPES = {
    "WAV": ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "PCM_U8"),
    "FLAC": ("PCM_16", "PCM_24"),
}
_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³]) *(\.|$)", re.IGNORECASE)
# What FLAC makes of sample formats it does not have: the nearest that loses nothing, or else the deepest.
_IN_FLAC = {"PCM_U8": "PCM_16", "PCM_S8": "PCM_16"}


def list_inputs(named: Iterable[Path]) -> list[Path]:
    """Files as they are, and the audio files directly in each folder, by name.

    Raises AudioReadError for a folder that cannot be read, UsageError for one without audio, and when two
    files would get one output folder.
    """
    files: list[Path] = []
    for path in named:
        found = _in_folder(path) if path.is_dir() else [path]
        if not found:
            raise UsageError(f"{path}: no audio files in this folder; give files or another folder")
        files += found
    tracks: dict[str, Path] = {}
    for file in dict.fromkeys(files):
        # On many file systems Song and song are one folder, and so are an accent's two spellings.
        name = unicodedata.normalize("NFC", track_name(file)).casefold()
        other = tracks.setdefault(name, file)
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


def track_name(path: Path) -> str:
    """The folder of a file's stems: its name without suffix, dots and spaces at the ends as underscores.

    "..." without suffix is "..", which is another folder; and Windows drops dots and spaces at the end, and
    opens a device where a name is that of one, whatever follows its dot.
    """
    name = "_" + path.stem if _DEVICE.match(path.stem) else path.stem
    middle = name.strip(". ")
    before, _, after = name.partition(middle) if middle else (name, "", "")
    return "_" * len(before) + middle + "_" * len(after)


def stem_paths(path: Path, folder: Path, stems: Iterable[str], written: AudioFormat) -> dict[str, Path]:
    """{stem: FOLDER/<stem>.<ext>} of an input file. Raises UsageError if one is the input itself."""
    paths = {stem: folder / f"{stem}.{written.container.lower()}" for stem in stems}
    if path.resolve() in (file.resolve() for file in paths.values()):
        raise UsageError(f"{path}: would be replaced by its own stem; choose another --output")
    return paths


def check_format(container: str, subtype: str | None) -> None:
    """Raise UsageError, in any case of letters, for names that are not known or do not go together."""
    known = _SUBTYPES.get(container.upper())
    if known is None:
        raise UsageError(f"cannot write {container}; choose {' or '.join(_SUBTYPES).lower()}")
    if subtype and subtype.upper() not in known:
        raise UsageError(f"{container.upper()} has no {subtype}; choose {', '.join(known)}")


def output_format(path: Path, source: AudioFormat, container: str | None, subtype: str | None) -> AudioFormat:
    """The format of the stems of `path`: its own, but for what is asked for by name, in any case.

    Raises UsageError as `check_format`.
    """
    wanted = (container or source.container).upper()
    try:
        check_format(wanted, subtype)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    chosen = (subtype or source.subtype).upper()
    if chosen not in _SUBTYPES[wanted]:
        chosen = _IN_FLAC.get(chosen, "PCM_24")
    return AudioFormat(source.sample_rate, source.channels, source.frames, wanted, chosen)
