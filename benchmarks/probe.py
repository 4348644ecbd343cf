"""One song through one contestant, in a process of its own, timed from inside: `probe JOB ANSWER`."""

import json
import pickle
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
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
from rofo.benchmarks.system import runs_alone


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
    `outside` is the share of the song without the engine at work, `runs` how often it was. `cpu` is processor
    time of the song, user and system, of all threads together.
    """

    song: float
    elapsed: float
    process: float
    peak_mb: float
    load: float | None = None
    first: float | None = None
    outside: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    runs: int = 0
    cpu: float | None = None
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
    with _opened(job, stopwatch) as runs:
        load = time.perf_counter() - began
        first = sum(_warmed_up(separator, job.subject) for separator, _ in runs)
        if job.contestant.compiled:  # which compiles again once the network has filled its caches
            _warmed_up(runs[0][0], job.subject)
        stopwatch.reset()
        used = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            done = [separator.separate_file(job.song, folder, options) for separator, options in runs]
        elapsed = sum(one.elapsed for one in done)
        return {
            "song": done[0].seconds,
            "elapsed": elapsed,
            "cpu": time.process_time() - used,
            "load": load,
            "first": first,
            "outside": max(0.0, 1 - stopwatch.seconds[ENGINE] / elapsed),
            "parts": stopwatch.used(),
            "runs": stopwatch.calls[ENGINE],
            "backend": runs[0][0].backend,
            "precision": runs[0][0].precision,
        }


@contextmanager
def _opened(job: Job, stopwatch: Stopwatch) -> Iterator[list[tuple[Separator, Options]]]:
    """The separator and what it is to do; of a recipe whose runs are measured apart one for each."""
    one = job.contestant
    if not one.apart:
        with opened(one, job.subject, job.threads, instrumented(stopwatch)) as separator:
            yield [(separator, Options(stems=separator.stems[: job.stems]))]
        return
    with ExitStack() as stack:
        stack.enter_context(instrumented(stopwatch))
        runs = runs_alone(one.engine)
        by_file = {}
        for file in dict.fromkeys(file for file, _ in runs):
            alone = Separator(file, backend=one.backend, precision=one.precision, threads=job.threads)
            by_file[file] = stack.enter_context(alone)
        yield [(by_file[file], options) for file, options in runs]


def _warmed_up(separator: Separator, subject: Subject) -> float:
    """Seconds for a quarter of a chunk of noise, which is a single chunk in any scheme."""
    rate = subject.manifest.sample_rate
    shape = (subject.manifest.channels, round(subject.shortest_chunk * rate / 4))
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, shape).astype(np.float32)
    began = time.perf_counter()
    separator.separate(noise, rate)
    return time.perf_counter() - began


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # noqa: BLE001 - one line for the caller's report
        from rofo.console import tell

        sys.exit(tell(error, debug=False))
