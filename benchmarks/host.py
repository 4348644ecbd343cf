"""`rofo-bench host`: what reading, transforms and writing allow, with an engine that costs nothing.

Every number of threads is a process of its own, pinned to as many cores; they take turns. Apart from that
each stage is timed alone, on one thread, in processor time.
"""

import json
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np

from rofo import Separator
from rofo.audio import AudioReader
from rofo.audio.files import stem_paths
from rofo.audio.samples import AudioFormat
from rofo.audio.writer import StemFiles
from rofo.benchmarks import machine
from rofo.benchmarks.processes import reported
from rofo.benchmarks.results import Host, HostRow, Model, Part, Spread
from rofo.benchmarks.rounds import Log, Say, take_turns
from rofo.benchmarks.subject import write_noise
from rofo.dsp.overlap_add import OverlapAdder
from rofo.dsp.scheme import Floats
from rofo.dsp.spectrogram import Spectrogram
from rofo.engines import BACKENDS, Backend
from rofo.engines.contract import EngineSource, Tensors
from rofo.manifest import (
    ChunkSize,
    EngineFile,
    Manifest,
    OverlapAdd,
    Source,
    Stft,
    file_sha256,
    load_engine_manifest,
)

T = TypeVar("T")

RATE, STEMS, RESIDUAL = 44100, ("vocals",), "instrumental"
_NAME = "none"
_STAGED = 5  # chunks, each a chunk long, of the song that the stages are timed on


@dataclass(frozen=True)
class Geometry:
    """The transform, chunk and scheme of a public model; stereo, one stem and the residual."""

    stft: Stft
    chunk: int
    overlap_add: OverlapAdd


GEOMETRIES = {
    "viperx": Geometry(Stft(2048, 441), 352800, OverlapAdd("fade", 0.5)),
    "kim": Geometry(Stft(7680, 1024), 261120, OverlapAdd("hann")),
}


@dataclass(frozen=True)
class Run:
    """What a song of `song` seconds took, in seconds; `processor` is of all cores, `stages` of a chunk."""

    song: float
    elapsed: float
    processor: float
    peak_mb: float
    stages: dict[str, float]

    def __str__(self) -> str:
        return f"{self.song / self.elapsed:.4g} x real time, {self.song / self.processor:.4g} per processor"


class CostlessEngine:
    """Gives the mix as every stem, without touching it."""

    backend, device, precision, batch, in_flight, healthy = _NAME, "cpu", "fp32", 1, 1, True

    def __init__(self, source: EngineSource, settings: object) -> None:
        self._stems = len(source.manifest.stems)

    def run(self, inputs: Tensors) -> Tensors:
        """See rofo.engines.contract.Engine."""
        mix = inputs["mix"]
        return {"stems": np.broadcast_to(mix[:, None], (len(mix), self._stems, *mix.shape[1:]))}

    def close(self) -> None:
        """See rofo.engines.contract.Engine."""


def measure_host(name: str, threads: Sequence[int], seconds: float, *, rounds: int, say: Say) -> Host:
    """Separate a song of so many seconds of noise at every number of threads, `rounds` times."""
    log = Log(say)
    field = {f"{name}, threads {count}": partial(_measured, name, count, seconds) for count in threads}
    runs = dict(zip(threads, take_turns(field, rounds, log).values(), strict=True))
    every = [run for some in runs.values() for run in some]
    return Host(
        kind="host",
        about=machine.about(max(threads), log.left_out),
        model=_model(name),
        song_seconds=every[0].song,
        rounds=rounds,
        stages=tuple(
            Part(stage, Spread.of([run.stages[stage] for run in every])) for stage in every[0].stages
        ),
        rows=tuple(
            HostRow(
                threads=count,
                real_time=Spread.of([run.song / run.elapsed for run in some]),
                per_processor=Spread.of([run.song / run.processor for run in some]),
                peak_mb=Spread.of([run.peak_mb for run in some]),
            )
            for count, some in runs.items()
        ),
    )


def _measured(name: str, threads: int, seconds: float) -> Run:
    outside, inside = reported("rofo.benchmarks.host", (GEOMETRIES[name], threads, seconds), threads=threads)
    return Run(peak_mb=outside.peak_mb, **inside)


def main() -> None:
    """`python -m rofo.benchmarks.host JOB ANSWER`: the part of a Run that is known inside."""
    question, answer = map(Path, sys.argv[1:])
    answer.write_text(json.dumps(_inside(*pickle.loads(question.read_bytes()))), encoding="utf-8")


def _inside(geometry: Geometry, threads: int, seconds: float) -> dict[str, Any]:
    BACKENDS.update([backend()])
    with tempfile.TemporaryDirectory() as folder:
        engine = write_engine(geometry, Path(folder))
        manifest = load_engine_manifest(engine)
        song = write_noise(Path(folder) / "song.wav", seconds, RATE, 2)
        short = write_noise(Path(folder) / "short.wav", _STAGED * manifest.chunk.samples / RATE, RATE, 2)
        with Separator(engine, threads=threads) as separator:
            separator.separate_file(short, Path(folder) / "out")
            processor = time.process_time()
            done = separator.separate_file(song, Path(folder) / "out")
            processor = time.process_time() - processor
        stages = _stages(manifest, short, Path(folder) / "alone")
    return {"song": done.seconds, "elapsed": done.elapsed, "processor": processor, "stages": stages}


def _stages(manifest: Manifest, song: Path, folder: Path) -> dict[str, float]:
    """Processor seconds of every stage for a chunk: medians, but of reading, cutting and writing means."""
    assert manifest.stft
    transform, adder = Spectrogram(manifest.stft, manifest.chunk.samples), OverlapAdder()
    spent: dict[str, list[float]] = {}

    def timed(stage: str, work: Callable[[], T], parts: int = 1) -> T:
        began = time.process_time()
        found = work()
        spent.setdefault(stage, []).append((time.process_time() - began) / parts)
        return found

    with AudioReader(song) as reader:
        count = sum(1 for _ in manifest.scheme().cut(reader.blocks()))
        blocks, shape = timed("read", lambda: list(reader.blocks()), count), reader.format
    chunks = timed("cut", lambda: list(manifest.scheme().cut(iter(blocks))), count)
    for chunk in chunks:
        spectrum = timed("STFT", partial(transform.forward, chunk.samples))
        estimate = timed("inverse STFT", partial(transform.inverse, spectrum))
        timed("overlap-add", partial(adder.add, chunk, estimate[None]))
    paths = stem_paths(song, folder, (*STEMS, RESIDUAL), shape)
    timed("write", partial(_write, paths, shape, blocks), count)
    return {stage: median(times) for stage, times in spent.items()}


def _write(paths: Mapping[str, Path], shape: AudioFormat, blocks: Sequence[Floats]) -> None:
    """The blocks as every stem."""
    with StemFiles(paths, shape) as files:
        for block in blocks:
            files.write(dict.fromkeys(paths, block))


def backend() -> tuple[str, Backend]:
    """The line of the registry that runs what `write_engine` writes."""
    return _NAME, Backend("nothing", "rofo.benchmarks.host:CostlessEngine", _NAME, "numpy", "rofo")


def write_engine(geometry: Geometry, folder: Path) -> Path:
    """A file that stands for the engine that costs nothing, with its manifest."""
    file = folder / f"engine.{_NAME}"
    file.write_bytes(_NAME.encode())
    entry = EngineFile(file.name, _NAME, "0", "fp32", (), 1, file_sha256(file))
    manifest = Manifest(
        name=_NAME,
        architecture="an engine that costs nothing",
        sample_rate=RATE,
        channels=2,
        stems=STEMS,
        residual=RESIDUAL,
        stft=geometry.stft,
        chunk=ChunkSize(geometry.chunk, geometry.stft.frames(geometry.chunk)),
        overlap_add=geometry.overlap_add,
        normalize=False,
        engines=(entry,),
        source=Source("", "0" * 64, {}, "", ""),
        parity=(),
    )
    file.with_suffix(".json").write_text(manifest.to_json(), encoding="utf-8")
    return file


def _model(name: str) -> Model:
    geometry = GEOMETRIES[name]
    return Model(
        name=name,
        architecture="An engine that costs nothing",
        checkpoint_sha256="",
        sample_rate=RATE,
        stems=STEMS,
        chunk=geometry.chunk / RATE,
        scheme=geometry.overlap_add.scheme,
        overlap=geometry.overlap_add.overlap,
        batch=1,
        tflop=None,
        weights_gb=None,
    )


if __name__ == "__main__":
    main()
