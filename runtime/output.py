"""Where the stems of a file go, and in which format."""

from collections.abc import Iterable
from pathlib import Path

from rofo.errors import UsageError
from rofo.pcm import AudioFormat

_SUBTYPES = {
    "WAV": ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "PCM_U8"),
    "FLAC": ("PCM_16", "PCM_24"),
}

# What FLAC makes of sample formats it does not have: the nearest that loses nothing, or else the deepest.
_IN_FLAC = {"PCM_U8": "PCM_16", "PCM_S8": "PCM_16"}


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


def stem_paths(path: Path, output: Path, stems: Iterable[str], written: AudioFormat) -> dict[str, Path]:
    """{stem: OUTPUT/<track>/<stem>.<ext>} of an input file. Raises UsageError if one is the input itself."""
    paths = {stem: output / path.stem / f"{stem}.{written.container.lower()}" for stem in stems}
    if path.resolve() in (file.resolve() for file in paths.values()):
        raise UsageError(f"{path}: would be replaced by its own stem; choose another --output")
    return paths
