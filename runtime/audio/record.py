"""The record beside a song's stems of what they were made from: what --resume goes by, not names.

It is written last and removed before a stem is replaced. A song is finished where the record there is of this
engine, these options and this input, and the stems have the sizes it states.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rofo.audio.parts import in_words, write_whole
from rofo.audio.reader import naming
from rofo.manifest import Manifest, MixerManifest, file_sha256

NAME = ".rofo.json"
_FORMAT = 1


@dataclass(frozen=True)
class Finished:
    """Stems that are there, the sha256 of each file, and their length in seconds."""

    paths: dict[str, Path]
    sha256: dict[str, str]
    seconds: float


class Record:
    """The record of the song in `folder`; `made_from` is what decides over its stems."""

    def __init__(self, folder: Path, made_from: Mapping[str, Any]) -> None:
        self._path = folder / NAME
        # As it will be read: tuples are lists there, and numbers of numpy numbers.
        self._made_from = json.loads(json.dumps({"format": _FORMAT, **made_from}, default=float))

    def finished(self, stems: Sequence[str]) -> Finished | None:
        """These stems, if they are there and were made from the same; None otherwise."""
        try:
            found = json.loads(self._path.read_bytes())
            if found["made_from"] != self._made_from:
                return None
            files = {stem: found["stems"][stem] for stem in stems}
            # A name with a folder in it was not written here.
            paths = {stem: self._path.with_name(file["file"]) for stem, file in files.items()}
            if any(path.stat().st_size != files[stem]["bytes"] for stem, path in paths.items()):
                return None
            # Records of 0.1.0 have no sha256.
            hashes = {stem: file.get("sha256") or file_sha256(paths[stem]) for stem, file in files.items()}
            return Finished(paths, hashes, float(found["seconds"]))
        except (OSError, ValueError, TypeError, LookupError):  # no record, or none of ours
            return None

    def remove(self) -> None:
        """Before stems are replaced, which one after the other takes a moment."""
        with in_words(self._path):
            self._path.unlink(missing_ok=True)

    def write(self, paths: dict[str, Path], seconds: float) -> Finished:
        """Once all stems are there. Raises OutputWriteError."""
        with in_words(self._path), ThreadPoolExecutor(len(paths)) as pool:  # 0.7 GB/s each
            hashes = dict(zip(paths, pool.map(file_sha256, paths.values()), strict=True))
            stems = {
                stem: {"file": path.name, "bytes": path.stat().st_size, "sha256": hashes[stem]}
                for stem, path in paths.items()
            }
        content = {"made_from": self._made_from, "stems": stems, "seconds": seconds}
        write_whole(self._path, (json.dumps(content, indent=2) + "\n").encode())
        return Finished(paths, hashes, seconds)


def hash_engine(manifest: Manifest | MixerManifest, *others: str | None) -> str:
    """A hash of what a manifest says of the sound, and of `others`; not of other files it lists beside."""
    facts = dataclasses.asdict(manifest)
    for name in ("engines", "parity", "source"):
        facts.pop(name, None)
    return hashlib.sha256(json.dumps([facts, others], sort_keys=True).encode()).hexdigest()


def input_sha256(path: Path) -> str:
    """What a song is known by: its content, wherever it lies. 1 GB/s, so 0.04 s for a song in WAV; a size and
    a time would be free, but a copy loses its time, and a mix exported anew may keep its size.

    "" for what is no file, which AudioReader refuses in words. Raises AudioReadError.
    """
    with naming(path):
        return file_sha256(path) if path.is_file() else ""
