"""Public checkpoints: facts that their weights cannot say, and where their files lie."""

import difflib
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rofo.export.errors import CheckpointError
from rofo.export.facts import Facts

if TYPE_CHECKING:  # loads PyTorch, which listing the catalogue need not wait for
    from rofo.export.source import Source

_SHOWN = 6  # stems; one network has 53
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class Download:
    """A public file of weights, as public tables describe it; what they do not say is None or empty.

    `link` and `config`, the yaml, are hf://owner/repo[@revision]/file or https://. `sha256`, or else the MD5
    of the last 10,240,000 bytes, is what the file must have; `size` is in bytes. `sdr` is in dB, by stem, on
    the Multisong set of mvsep.com. `title` is the name in place of the file's own.
    """

    link: str
    config: str | None = None
    sha256: str | None = None
    tail_md5: str | None = None
    size: int | None = None
    licence: str | None = None
    sdr: Mapping[str, float] = field(default_factory=dict)
    title: str = ""

    @property
    def file(self) -> str:
        """Name of the file."""
        return self.link.rpartition("/")[2]

    @property
    def name(self) -> str:
        """What `rofo-export NAME` calls it: the file's name without its ending."""
        return self.title or Path(self.file).stem


@dataclass(frozen=True)
class Entry:
    """One public checkpoint, or several that differ in their weights only.

    `files` are names of files; `sha256` and `tail_md5` may be first digits. `facts` go by the names of
    rofo.export.facts and of the family, lengths in samples. `stems` are those of a network whose facts do
    not tell their order.
    """

    name: str
    facts: Mapping[str, Any]
    files: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()
    tail_md5: tuple[str, ...] = ()
    stems: tuple[str, ...] = ()
    downloads: tuple[Download, ...] = ()

    def fits(self, weights: Facts) -> bool:
        """Whether a network with these facts in its weights can be this checkpoint."""
        stems = len(self.facts.get("stems", self.stems))
        agrees = all(weights.get(name, value) == value for name, value in self.facts.items())
        return agrees and weights.get("num_stems", stems) == stems

    def plain(self) -> dict[str, Any]:
        """The entry as JSON data."""
        return {"name": self.name, **self.facts}


def find_entry(source: "Source", weights: Facts) -> Entry | None:
    """The entry of a checkpoint: by hash, else by file name without its ending; its facts must fit too."""
    fitting = [entry for entry in load_catalogue() if entry.fits(weights)]
    for entry in fitting:
        if source.sha256.startswith(entry.sha256) or source.tail_md5.startswith(entry.tail_md5):
            return entry
    name = source.path.stem.lower()
    return next((e for e in fitting if name in (Path(file).stem.lower() for file in e.files)), None)


def find_download(name: str) -> Download:
    """The file of this name, whatever its case, with its ending or without. Raises CheckpointError."""
    known = {key.lower(): d for _, d in list_downloads() for key in (d.name, d.file)}
    if name.lower() in known:
        return known[name.lower()]
    near = difflib.get_close_matches(name.lower(), [d.name.lower() for _, d in list_downloads()], 3, 0.5)
    alike = f" (alike are {', '.join(known[key].name for key in near)})" if near else ""
    raise CheckpointError(f"{name}: No such file, nor a name of the catalogue{alike}; see rofo-export --list")


def list_downloads(word: str = "") -> list[tuple[Entry, Download]]:
    """The files that can be downloaded, of those entries that have this word in what is listed of them."""
    return [
        (entry, download)
        for entry in load_catalogue()
        for download in entry.downloads
        if word.lower() in " ".join((entry.name, *described(entry, download))).lower()
    ]


def described(entry: Entry, download: Download) -> tuple[str, str, str, str, str]:
    """A file in words: name, architecture, stems with their SDR, size, licence."""
    stems = entry.facts.get("stems", entry.stems)
    sdr = {stem.lower(): f" {value:.2f}" for stem, value in download.sdr.items()}
    listed = ", ".join(f"{stem}{sdr.get(stem.lower(), '')}" for stem in stems[:_SHOWN])
    more = f" and {len(stems) - _SHOWN} more" if len(stems) > _SHOWN else ""
    size = f"{download.size / 1e6:.0f} MB" if download.size else _UNKNOWN
    architecture = str(entry.facts["architecture"])
    return download.name, architecture, listed + more, size, download.licence or _UNKNOWN


@functools.cache
def load_catalogue() -> tuple[Entry, ...]:
    """Every entry of the catalogue that is installed with rofo."""
    text = resources.files("rofo.checkpoints").joinpath("catalogue.json").read_text(encoding="utf-8")
    return tuple(_entry(_tuples(raw)) for raw in json.loads(text))


def _entry(raw: Mapping[str, Any]) -> Entry:
    downloads = tuple(Download(**one) for one in raw.get("downloads", ()))
    told = {
        "files": (*raw.get("files", ()), *(one.file for one in downloads)),
        "sha256": (*raw.get("sha256", ()), *(one.sha256 for one in downloads if one.sha256)),
    }
    return Entry(**{**raw, **told, "facts": _tuples(raw["facts"]), "downloads": downloads})


def _tuples(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
