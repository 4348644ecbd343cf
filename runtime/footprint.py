"""What is known of an engine's memory without running it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

from rofo.engines import BACKENDS
from rofo.engines.contract import Engine, Shapes
from rofo.manifest import EngineFile, Manifest

_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Footprint:
    """Bytes, of one engine or of several that are open at a time.

    `files`: the engine as it lies on the disk, which is its weights. `buffers`: chunks, spectra and estimates
    of one song on the host. `gpu`: weights, activations and buffers there, 0 where that is not known.
    `chunk_seconds` is the length of the longest chunk.
    """

    files: int
    buffers: int
    gpu: int
    chunk_seconds: float


def footprint(file: Path, entry: EngineFile, manifest: Manifest, engine: Engine) -> Footprint:
    """Of one engine with the buffers that ChunkLoop holds: beside the batches that the engine has, one is on
    its way there and one on its way back. An engine that is elsewhere, as in serving/triton.py, has no files
    here."""
    shapes = Shapes.of(manifest, engine.batch)
    inputs, outputs = (_bytes(tensors.values()) for tensors in (shapes.inputs, shapes.outputs))
    waves = _bytes([(engine.batch, len(manifest.stems), manifest.channels, manifest.chunk.samples)])
    ahead = engine.in_flight + 2
    paths = [file.with_name(name) for name in (entry.file, entry.data) if name]
    files = sum(path.stat().st_size for path in paths if path.exists())
    backend = BACKENDS.get(engine.backend)
    on_gpu = backend is not None and backend.on_gpu and entry.device_memory is not None
    gpu = files + (entry.device_memory or 0) + engine.in_flight * (inputs + outputs) if on_gpu else 0
    buffers = ahead * (inputs + waves) + (engine.in_flight + 1) * outputs
    return Footprint(files, buffers, gpu, manifest.chunk.samples / manifest.sample_rate)


def together(parts: Iterable[Footprint], *, low_memory: bool) -> Footprint:
    """Of the engines of a recipe: all open, or one after the other."""
    own = tuple(parts)
    total: Callable[[Iterable[int]], int] = max if low_memory else sum
    return Footprint(
        total(part.files for part in own),
        total(part.buffers for part in own),
        total(part.gpu for part in own),
        max(part.chunk_seconds for part in own),
    )


def _bytes(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(_FLOAT * prod(shape) for shape in shapes)
