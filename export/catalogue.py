"""Facts about public checkpoints that their weights cannot say: what to do when no yaml is at hand."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from rofo.export.facts import Facts
from rofo.export.source import Source


@dataclass(frozen=True)
class Entry:
    """One public checkpoint, or several that differ in their weights only.

    `files` are names of files; `sha256` and `tail_md5` may be first digits. `facts` go by the names of
    rofo.export.facts and of the family, lengths in samples.
    """

    name: str
    files: tuple[str, ...]
    facts: Mapping[str, Any]
    sha256: tuple[str, ...] = ()
    tail_md5: tuple[str, ...] = ()

    def fits(self, weights: Facts) -> bool:
        """Whether a network with these facts in its weights can be this checkpoint."""
        stems = len(self.facts["stems"])
        agrees = all(weights.get(name, value) == value for name, value in self.facts.items())
        return agrees and weights.get("num_stems", stems) == stems

    def plain(self) -> dict[str, Any]:
        """The entry as JSON data."""
        return {"name": self.name, **self.facts}


def find_entry(source: Source, weights: Facts) -> Entry | None:
    """The entry of a checkpoint: by hash, else by file name without its ending; its facts must fit too."""
    fitting = [entry for entry in load_catalogue() if entry.fits(weights)]
    for entry in fitting:
        if source.sha256.startswith(entry.sha256) or source.tail_md5.startswith(entry.tail_md5):
            return entry
    name = source.path.stem.lower()
    return next((e for e in fitting if name in (Path(file).stem.lower() for file in e.files)), None)


@functools.cache
def load_catalogue() -> tuple[Entry, ...]:
    """Every entry of the catalogue that is installed with rofo."""
    text = resources.files("rofo.checkpoints").joinpath("catalogue.json").read_text(encoding="utf-8")
    return tuple(Entry(**{**_tuples(raw), "facts": _tuples(raw["facts"])}) for raw in json.loads(text))


def _tuples(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
