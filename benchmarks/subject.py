"""What a command was given -> engines to measure, what they were made of, and songs for them."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from rofo.benchmarks import machine
from rofo.benchmarks.processes import measured
from rofo.benchmarks.results import Exported, Model
from rofo.benchmarks.rounds import Log
from rofo.engines import BACKENDS
from rofo.errors import UsageError
from rofo.export.facts import TABLE
from rofo.manifest import EngineFile, load_engine_manifest, manifest_path

ONNX = "onnx"
# Both `rofo-export` and a Python without its scripts on the PATH.
_EXPORT = "from rofo.export.cli import main; main()"


@dataclass(frozen=True)
class Told:
    """What its user tells of a checkpoint: the yaml, and facts by the names of rofo.export.facts."""

    config: Path | None = None
    given: Mapping[str, Any] = field(default_factory=dict)

    def export_options(self) -> Iterator[str]:
        """The same for rofo-export."""
        if self.config:
            yield from ("--config", str(self.config))
        for name, value in self.given.items():
            yield from (str(TABLE[name].option), ",".join(value) if isinstance(value, tuple) else str(value))


@dataclass(frozen=True)
class Subject:
    """Engine files of one model by kind, their checkpoint, and what making the first took if it was made now.

    `engine` is the one that the others are described by: chunk, scheme, batch and cost are its. `manifest` is
    that of an engine or a recipe.
    """

    engines: Mapping[str, Path]
    manifest: Any
    checkpoint: Path | None = None
    told: Told = Told()
    exported: Exported | None = None

    @property
    def engine(self) -> Path:
        """The first engine file."""
        return next(iter(self.engines.values()))

    @property
    def is_recipe(self) -> bool:
        """Whether it is several engines."""
        return self.engine.suffix == ".toml"

    @property
    def parts(self) -> Mapping[Path, "Subject"]:
        """The models in it by their manifests."""
        return {manifest_path(self.engine): self}

    @property
    def batch(self) -> int:
        """Chunks at once."""
        return self.entry(self.engine).batch

    @property
    def shortest_chunk(self) -> float:
        """Seconds that no engine of it takes two chunks for."""
        return float(self.manifest.chunk.samples / self.manifest.sample_rate)

    @property
    def step(self) -> float:
        """Seconds of song that one run of the engine adds, at most."""
        alone = 1 - (self.manifest.overlap_add.overlap or 0)
        return self.shortest_chunk * alone * self.batch

    def precisions(self, backend: str) -> tuple[str, ...]:
        """In which a backend computes: of those that it chooses itself int8 where there is such an engine,
        else those of the files that it alone runs."""
        one = BACKENDS[backend]
        entries = load_engine_manifest(self.engines.get(one.file, self.engine)).engines
        int8 = any(entry.precision == "int8" for entry in entries)
        itself = [precision for precision in one.precisions if precision != "int8" or int8]
        files = [e.precision for e in entries if e.backend == (one.typed if itself else one.file)]
        # That of a file it cannot run: what is wrong is for the backend to say.
        return tuple(dict.fromkeys([*itself, *files])) or (self.entry(self.engine).precision,)

    def write_song(self, path: Path, seconds: float) -> Path:
        """A song of noise in the model's rate and channels."""
        return write_noise(path, seconds, self.manifest.sample_rate, self.manifest.channels)

    def entry(self, engine: Path) -> EngineFile:
        """What its manifest says of an engine file."""
        manifest = load_engine_manifest(engine)
        return next(entry for entry in manifest.engines if entry.file == engine.name)

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
        if self.engine.suffix != ".onnx" or find_spec("onnx") is None:
            return None, None
        from rofo.export.graph.cost import graph_cost

        cost = graph_cost(self.engine)
        return cost.flop / self.batch / 1e12, cost.weights / 1e9


def is_engine(path: Path) -> bool:
    """Whether a path is an engine: a plan, or an .onnx file with its manifest beside it."""
    return path.suffix == ".plan" or (path.suffix == ".onnx" and manifest_path(path).exists())


def prepare(
    target: Path, told: Told, folder: Path, log: Log, batch: int = 1, backends: Sequence[str] = (),
    precisions: Sequence[str] = (),
) -> Subject:  # fmt: skip
    """The engine itself, or engines exported from a checkpoint into `folder`, unverified.

    Beside the ONNX one there is one for every backend of `backends` that needs its own, and in every one of
    `precisions` that is a file of its own; what cannot be built is left out.
    Raises UsageError where anything is told of an engine, ManifestError, and the export's errors.
    """
    if is_engine(target):
        if told != Told():
            raise UsageError(
                f"{target}: an engine needs no --config or other facts; drop them, or give its checkpoint"
            )
        if batch != 1:
            raise UsageError(f"{target}: an engine has one batch; drop --batch, or give its checkpoint")
        manifest = load_engine_manifest(target)
        (entry,) = (entry for entry in manifest.engines if entry.file == target.name)
        return Subject({entry.backend: target}, manifest)
    engines = {ONNX: folder / str(batch) / ONNX / f"{target.stem}.onnx"}
    exported = _export(target, told, engines[ONNX], batch, ONNX)
    if "int8" in precisions:
        quantised = partial(_export, target, told, engines[ONNX], batch, ONNX, "--quantize", "int8")
        log.attempt("rofo int8", quantised)
    for backend in backends:
        if typed := BACKENDS[backend].typed:
            log.attempt(f"rofo {backend}", partial(_export, target, told, engines[ONNX], batch, typed))
        if BACKENDS[backend].file == ONNX:
            continue
        plan = folder / str(batch) / backend / f"{target.stem}.plan"
        card = (
            ["--gpu", machine.card()] if backend == "tensorrt-rtx" else []
        )  # the other builder looks itself
        build = partial(_export, target, told, plan, batch, backend, *card)
        if log.attempt(f"rofo {backend}", build):
            engines[backend] = plan
        if "fp8" in precisions:
            log.attempt(f"rofo {backend} fp8", partial(build, "--precision", "fp8"))
    return Subject(engines, load_engine_manifest(engines[ONNX]), target, told, exported)


def write_noise(path: Path, seconds: float, rate: int, channels: int, seed: int = 0) -> Path:
    """A song of seeded noise, loud everywhere; 16 bits, as most songs are."""
    block = np.random.default_rng(seed).uniform(-0.5, 0.5, (rate, channels)).astype(np.float32)
    left = round(seconds * rate)
    with soundfile.SoundFile(path, "w", rate, channels, "PCM_16") as file:
        while left > 0:
            file.write(block[:left])
            left -= len(block)
    return path


def _export(target: Path, told: Told, engine: Path, batch: int, kind: str, *options: str) -> Exported:
    engine.parent.mkdir(parents=True, exist_ok=True)
    stem = ["--output", str(engine.with_suffix("")), "--batch", str(batch), "--target", kind, "--no-verify"]
    command = [sys.executable, "-c", _EXPORT, str(target), *stem, *told.export_options(), *options]
    took = measured(command)
    size = target.stat().st_size / 2**20
    return Exported(round(took.seconds, 1), round(took.peak_mb), round(took.peak_mb / size, 2))
