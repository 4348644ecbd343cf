"""One song through one contestant, in a process of its own, timed from inside: `probe JOB ANSWER`."""

import json
import pickle
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rofo import Options, Separator
from rofo.benchmarks.contestants import Contestant, opened
from rofo.benchmarks.reference import Source
from rofo.benchmarks.stopwatch import ENGINE, READ, WRITE, Stopwatch, instrumented
from rofo.manifest import Manifest, load_engine_manifest

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Job:
    """A song for a contestant; `stems` is how many are written, None for all."""

    contestant: Contestant
    source: Source
    song: Path
    threads: int
    stems: int | None = None


def main() -> None:
    """Write seconds of loading, of the first chunk, of the song and of its steps as JSON to ANSWER."""
    question, answer = map(Path, sys.argv[1:])
    facts = separate(pickle.loads(question.read_bytes()))
    answer.write_text(json.dumps(facts), encoding="utf-8")


def separate(job: Job) -> dict[str, Any]:
    """Load, warm up on one chunk, separate; `outside` is the share of the song without the engine at work."""
    stopwatch = Stopwatch()
    began = time.perf_counter()
    with opened(job.contestant, job.source, job.threads, instrumented(stopwatch)) as separator:
        load = time.perf_counter() - began
        chunk = _quarter_chunk(load_engine_manifest(job.source.engine))
        first = _warmed_up(separator, *chunk)
        if job.contestant.compiled:  # which compiles again once the network has filled its caches
            _warmed_up(separator, *chunk)
        stopwatch.reset()
        with tempfile.TemporaryDirectory() as folder:
            done = separator.separate_file(job.song, folder, Options(stems=separator.stems[: job.stems]))
        # Networks of others transform inside: what is counted of ours is a part of them.
        ours = tuple(stopwatch.seconds) if job.contestant.kind == "rofo" else (READ, ENGINE, WRITE)
        return {
            "load": load,
            "first": first,
            "elapsed": done.elapsed,
            "song": done.seconds,
            "runs": stopwatch.calls[ENGINE],
            "outside": max(0.0, 1 - stopwatch.seconds[ENGINE] / done.elapsed),
            "parts": {name: stopwatch.seconds[name] for name in ours},
            "backend": separator.backend,
            "precision": separator.precision,
        }


def _quarter_chunk(manifest: Manifest) -> tuple[Floats, int]:
    """Noise (channels, samples) and its rate: short enough for a single chunk in any scheme."""
    shape = (manifest.channels, manifest.chunk.samples // 4)
    return np.random.default_rng(1).uniform(-0.5, 0.5, shape).astype(np.float32), manifest.sample_rate


def _warmed_up(separator: Separator, noise: Floats, rate: int) -> float:
    began = time.perf_counter()
    separator.separate(noise, rate)
    return time.perf_counter() - began


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # noqa: BLE001 - one line for the caller's report
        from rofo.console import tell

        sys.exit(tell(error, debug=False))
