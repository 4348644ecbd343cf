"""What a command was given -> an engine to measure, and songs to measure it on."""

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soundfile

from rofo.benchmarks.processes import measured
from rofo.benchmarks.reference import Source, Told
from rofo.benchmarks.results import Exported, Model
from rofo.errors import UsageError
from rofo.manifest import Manifest, load_engine_manifest, manifest_path

# Both `rofo-export` and a Python without its scripts on the PATH.
_EXPORT = "from rofo.export.cli import main; main()"


@dataclass(frozen=True)
class Subject:
    """An engine, where it comes from, and what making it took if it was made just now."""

    source: Source
    manifest: Manifest
    exported: Exported | None

    @property
    def step(self) -> float:
        """Seconds of song that one run of the engine adds, at most."""
        manifest = self.manifest
        alone = 1 - (manifest.overlap_add.overlap or 0)
        return manifest.chunk.samples * alone / manifest.sample_rate * self.batch

    @property
    def batch(self) -> int:
        """Chunks at once."""
        name = self.source.engine.name
        return next(entry.batch for entry in self.manifest.engines if entry.file == name)

    def model(self) -> Model:
        """Its description in results."""
        manifest = self.manifest
        tflop, weights = self._cost()
        return Model(
            name=manifest.name,
            architecture=manifest.architecture,
            checkpoint_sha256=manifest.source.checkpoint_sha256,
            sample_rate=manifest.sample_rate,
            stems=manifest.stems,
            chunk=manifest.chunk.samples / manifest.sample_rate,
            scheme=manifest.overlap_add.scheme,
            overlap=manifest.overlap_add.overlap,
            batch=self.batch,
            tflop=tflop,
            weights_gb=weights,
        )

    def _cost(self) -> tuple[float | None, float | None]:
        if self.source.engine.suffix != ".onnx" or find_spec("onnx") is None:
            return None, None
        from rofo.export.graph.cost import graph_cost

        cost = graph_cost(self.source.engine)
        return cost.flop / self.batch / 1e12, cost.weights / 1e9


def is_engine(path: Path) -> bool:
    """Whether a path is an engine: a plan, or an .onnx file with its manifest beside it."""
    return path.suffix == ".plan" or (path.suffix == ".onnx" and manifest_path(path).exists())


def prepare(target: Path, told: Told, folder: Path, batch: int = 1) -> Subject:
    """The engine itself, or one exported from a checkpoint into `folder`, unverified.

    Raises UsageError where anything is told of an engine, ManifestError, and the export's errors.
    """
    if is_engine(target):
        if told != Told():
            raise UsageError(
                f"{target}: an engine needs no --config or other facts; drop them, or give its checkpoint"
            )
        return Subject(Source(target), load_engine_manifest(target), None)
    stem = folder / str(batch) / target.stem
    stem.parent.mkdir(parents=True)
    options = ["--target", "onnx", "--no-verify", "--batch", str(batch), "--output", str(stem)]
    took = measured([sys.executable, "-c", _EXPORT, str(target), *options, *told.export_options()])
    size = target.stat().st_size / 2**20
    engine = stem.with_name(f"{stem.name}.onnx")
    exported = Exported(round(took.seconds, 1), round(took.peak_mb), round(took.peak_mb / size, 2))
    return Subject(Source(engine, target, told), load_engine_manifest(engine), exported)


def write_song(path: Path, seconds: float, manifest: Manifest) -> Path:
    """Seeded noise, loud everywhere, in the model's rate and channels; 16 bits, as most songs are."""
    rate, channels = manifest.sample_rate, manifest.channels
    block = np.random.default_rng(0).uniform(-0.5, 0.5, (rate, channels)).astype(np.float32)
    left = round(seconds * rate)
    with soundfile.SoundFile(path, "w", rate, channels, "PCM_16") as file:
        while left > 0:
            file.write(block[:left])
            left -= len(block)
    return path
