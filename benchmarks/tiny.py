"""A tiny checkpoint and its engine, for proofs about files and processes, where no sound matters."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from rofo.benchmarks.shapes import write_shape
from rofo.export import ExportOptions, export_checkpoint

RATE = 44100


def tiny_checkpoint(folder: Path, growth: int = 4) -> Path:
    """An MDX-Net with chunks of 0.18 s; another `growth` is another network."""
    sizes = {"num_blocks": 3, "n_fft": 512, "hop_length": 128, "dim_f": 256, "dim_t": 64, "bn": 2}
    return write_shape("kim", folder, g=growth, **sizes)[0]


def tiny_engine(folder: Path) -> Path:
    """The engine of that checkpoint, for vocals."""
    checkpoint = tiny_checkpoint(folder / "checkpoint")
    options = ExportOptions(output=folder / "engine" / "tiny", verify=False)
    return export_checkpoint(checkpoint, options).files[0]


def write_list(path: Path, rows: Iterable[Mapping[str, str]]) -> Path:
    """A list of songs as `rofo-run --list` reads it."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path
