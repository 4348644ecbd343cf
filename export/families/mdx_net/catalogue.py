"""What the files of public MDX-Net and MDX23C models cannot say, by the hash of their tails."""

import functools
import json
from dataclasses import dataclass
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class MdxNetEntry:
    """One public MDX-Net file. `compensate` is the gain that UVR applies to its `stem`.

    `n_fft` is in samples; `dim_f` and `dim_t` are the bins and frames that the network sees.
    """

    tail_md5: str
    n_fft: int
    dim_f: int
    dim_t: int
    compensate: float
    stem: str
    name: str = "MDX-Net"


@dataclass(frozen=True)
class Mdx23cEntry:
    """The public TFC-TDF v3 files that share one of UVR's yaml files, called `yaml`.

    `n_fft` and `hop_length` are in samples, `dim_t` is the frames of a chunk. `stems` are in the order of the
    network's outputs, `instruments` all names where the network puts out only some.
    """

    yaml: str
    tail_md5s: tuple[str, ...]
    n_fft: int
    hop_length: int
    dim_t: int
    stems: tuple[str, ...]
    instruments: tuple[str, ...] | None = None


def find_mdx_net(tail_md5: str) -> MdxNetEntry | None:
    """The entry of an MDX-Net file."""
    return next((entry for entry in load_mdx_net() if entry.tail_md5 == tail_md5), None)


def find_mdx23c(tail_md5: str) -> Mdx23cEntry | None:
    """The entry of a TFC-TDF v3 file."""
    return next((entry for entry in load_mdx23c() if tail_md5 in entry.tail_md5s), None)


@functools.cache
def load_mdx_net() -> tuple[MdxNetEntry, ...]:
    """Every MDX-Net entry of the catalogue that is installed with rofo."""
    return tuple(MdxNetEntry(**raw) for raw in _read("mdx_net"))


@functools.cache
def load_mdx23c() -> tuple[Mdx23cEntry, ...]:
    """Every TFC-TDF v3 entry of the catalogue that is installed with rofo."""
    return tuple(Mdx23cEntry(**raw) for raw in _read("tfc_tdf_v3"))


def _read(family: str) -> list[dict[str, Any]]:
    text = resources.files("rofo.checkpoints").joinpath("mdx_catalogue.json").read_text(encoding="utf-8")
    entries = json.loads(text)[family]
    return [{key: tuple(v) if isinstance(v, list) else v for key, v in raw.items()} for raw in entries]
