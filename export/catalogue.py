"""Facts about public checkpoints that their weights cannot say: what to do when no yaml is at hand."""

import functools
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from rofo.export.families.roformer.settings import Settings
from rofo.export.families.roformer.shapes import Shapes


@dataclass(frozen=True)
class Entry:
    """One public checkpoint, or several that differ in their weights only.

    `sha256` and `tail_md5` may be the first digits. `chunk` and `hop_length` are in samples. `stems` are in
    the order of the network's outputs, `instruments` all names of its yaml. None is not known.
    """

    name: str
    family: str
    files: tuple[str, ...]
    dim: int
    depth: int
    mask_layers: int
    sample_rate: int
    hop_length: int
    chunk: int
    stems: tuple[str, ...]
    sha256: str | None = None
    tail_md5: str | None = None
    mlp_expansion: int | None = None
    shared_bias: str | None = None
    num_overlap: int | None = None
    instruments: tuple[str, ...] | None = None
    zero_dc: bool = True  # what current MSST does with every one of them
    skip_connection: bool = False
    normalize: bool = False

    def fits(self, shapes: Shapes) -> bool:
        """Whether a state dict of these shapes can be this checkpoint."""
        known = (
            "family",
            "dim",
            "depth",
            "mask_layers",
            *(name for name in ("mlp_expansion", "shared_bias") if getattr(self, name) is not None),
        )
        same = all(getattr(self, name) == getattr(shapes, name) for name in known)
        return same and len(self.stems) == shapes.num_stems

    def settings(self) -> Settings:
        """What the entry says."""
        return Settings(
            sample_rate=self.sample_rate,
            hop_length=self.hop_length,
            chunk=self.chunk,
            overlaps=self.num_overlap,
            stems=self.stems,
            instruments=self.instruments,
            zero_dc=self.zero_dc,
            skip_connection=self.skip_connection,
            normalize=self.normalize,
        )


def find_entry(path: Path, sha256: str, tail_md5: str, shapes: Shapes) -> Entry | None:
    """The entry of a checkpoint: by hash, else by file name without its ending; its shapes must fit too."""
    fitting = [entry for entry in load_catalogue() if entry.fits(shapes)]
    for entry in fitting:
        if _begins(sha256, entry.sha256) or _begins(tail_md5, entry.tail_md5):
            return entry
    name = path.stem.lower()
    return next((e for e in fitting if name in (Path(file).stem.lower() for file in e.files)), None)


@functools.cache
def load_catalogue() -> tuple[Entry, ...]:
    """Every entry of the catalogue that is installed with rofo."""
    text = resources.files("rofo.checkpoints").joinpath("catalogue.json").read_text(encoding="utf-8")
    return tuple(_entry(raw) for raw in json.loads(text))


def _entry(raw: dict[str, Any]) -> Entry:
    fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in raw.items()}
    return Entry(**fields)


def _begins(digest: str, known: str | None) -> bool:
    return known is not None and digest.startswith(known)
