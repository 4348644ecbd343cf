"""One song through one contestant, in a process of its own, timed from inside: `probe JOB ANSWER`."""

import json
import pickle
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rofo import Options, Separator
from rofo.benchmarks.contestants import Contestant
from rofo.benchmarks.networks import opened
from rofo.benchmarks.processes import reported
from rofo.benchmarks.stopwatch import ENGINE, Stopwatch, instrumented
from rofo.benchmarks.subject import Subject


@dataclass(frozen=True)
class Job:
    """A song for a contestant; `stems` is how many are written, None for all."""

    contestant: Contestant
    subject: Subject
    song: Path
    threads: int
    stems: int | None = None


@dataclass(frozen=True)
class Run:
    """What it took, in seconds: `elapsed` for a `song`, `process` from its start to its end.

    Where it was timed from inside also to `load`, for the `first` chunk and for each of the song's `parts`;
    `cpu` is the processor time of the song, user and system, of all threads together; `outside` is the share of the song without the engine at work, `runs` how often it was.
    """

    song: float
    elapsed: float
    process: float
    peak_mb: float
    cpu: float | None = None
    load: float | None = None
    first: float | None = None
    outside: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    runs: int = 0
    backend: str = ""
    precision: str = ""

    def __str__(self) -> str:
        return f"{self.elapsed:.3g} s, {self.peak_mb:.0f} MB"


def measure(job: Job) -> Run:
    """Do a job in a process of its own. Raises the errors of rofo.benchmarks.processes."""
    outside, inside = reported("rofo.benchmarks.probe", job, threads=job.threads)
    return Run(process=outside.seconds, peak_mb=outside.peak_mb, **inside)


def main() -> None:
    """Write the part of a Run that is known inside as JSON to ANSWER."""
    question, answer = map(Path, sys.argv[1:])
    inside = separate(pickle.loads(question.read_bytes()))
    answer.write_text(json.dumps(inside), encoding="utf-8")


def separate(job: Job) -> dict[str, Any]:
    """Load, warm up on one chunk, separate."""
    stopwatch = Stopwatch()
    began = time.perf_counter()
    with opened(job.contestant, job.subject, job.threads, instrumented(stopwatch)) as separator:
        load = time.perf_counter() - began
        first = _warmed_up(separator, job.subject)
        if job.contestant.compiled:  # which compiles again once the network has filled its caches
            _warmed_up(separator, job.subject)
        stopwatch.reset()
        used = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            done = separator.separate_file(job.song, folder, Options(stems=separator.stems[: job.stems]))
        return {
            "song": done.seconds,
            "elapsed": done.elapsed,
            "cpu": time.process_time() - used,
            "load": load,
            "first": first,
            "outside": max(0.0, 1 - stopwatch.seconds[ENGINE] / done.elapsed),
            "parts": stopwatch.used(),
            "runs": stopwatch.calls[ENGINE],
            "backend": separator.backend,
            "precision": separator.precision,
        }


def _warmed_up(separator: Separator, subject: Subject) -> float:
    """Seconds for a quarter of a chunk of noise, which is a single chunk in any scheme."""
    manifest = subject.manifest
    shape = (manifest.channels, manifest.chunk.samples // 4)
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, shape).astype(np.float32)
    began = time.perf_counter()
    separator.separate(noise, manifest.sample_rate)
    return time.perf_counter() - began


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # noqa: BLE001 - one line for the caller's report
        from rofo.console import tell

        sys.exit(tell(error, debug=False))
