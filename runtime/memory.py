"""Memory to plan for: an engine or a recipe opened and run on noise, while the process is watched."""

import resource
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rofo.audio.samples import AudioFormat
from rofo.audio.writer import StemWriter
from rofo.separator import Separator

_STATUS = Path("/proc/self/status")
_EVERY = 0.002  # seconds between two looks
_CHUNKS = 12


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes. The first four together are what one song at a time takes, of any length, from file to files.

    `process`: Python and the libraries, before anything is open. `weights`: what opening the engines took.
    `activations`: what their backends take while they run. `buffers`: chunks, spectra and estimates. Another
    song at the same time takes `activations` and `buffers` more; `separate` its array and stems as well.
    `peak`: the most that the process held, while it opened or ran. `files`: the engines on the disk. `gpu`:
    what the manifests say of weights, activations and buffers there; 0 on a processor, and where they do not.
    """

    process: int
    weights: int
    activations: int
    buffers: int
    peak: int
    files: int
    gpu: int

    def __str__(self) -> str:
        """A line for each, and what it is."""
        return "\n".join(
            f"{name:<12}{value / 1e6:>9,.0f} MB  {_MEANINGS[name]}" for name, value in asdict(self).items()
        )


_MEANINGS = {
    "process": "Python and the libraries",
    "weights": "what opening took",
    "activations": "the backend's while it runs, for each song at a time",
    "buffers": "chunks, spectra and estimates, for each song at a time",
    "peak": "the most that the process held, while it opened or ran",
    "files": "the engines on the disk",
    "gpu": "on the GPU, as the manifests say; 0 where they do not",
}


def plan_memory(open_: Callable[[], Separator]) -> MemoryPlan:
    """Measure what `open_` opens, in a process that has not opened anything before.

    Raises what opening and separating raise.
    """
    process = _resident()
    with open_() as separator, tempfile.TemporaryDirectory(prefix="rofo-") as folder:
        known, opened = separator.footprint, _resident()
        noise = Path(folder) / "noise.wav"
        rate = separator.manifest.sample_rate
        _write_noise(noise, round(_CHUNKS * known.chunk_seconds * rate), rate, separator.manifest.channels)
        with _watched() as seen:
            separator.separate_file(noise, folder)
    running = max(seen) - opened
    buffers = min(known.buffers, running)
    peak = max(*seen, _highest())
    weights = max(0, opened - process)
    return MemoryPlan(process, weights, running - buffers, buffers, peak, known.files, known.gpu)


def _write_noise(path: Path, samples: int, rate: int, channels: int) -> None:
    writer = StemWriter(path, AudioFormat(rate, channels, samples, "WAV", "PCM_16"))
    rng, size = np.random.default_rng(0), 1 << 16
    for start in range(0, samples, size):
        shape = channels, min(size, samples - start)
        writer.write(rng.uniform(-0.5, 0.5, shape).astype(np.float32))
    writer.finish()
    writer.commit()


@contextmanager
def _watched() -> Iterator[list[int]]:
    """How much is resident in here, looked at every two milliseconds: the highest so far."""
    seen, ended = [_resident()], threading.Event()

    def look() -> None:
        while not ended.wait(_EVERY):
            seen[0] = max(seen[0], _resident())

    watching = threading.Thread(target=look, daemon=True)
    watching.start()
    try:
        yield seen
    finally:
        ended.set()
        watching.join()


def _resident() -> int:
    """Bytes that this process holds; where the system does not say, the most that it held."""
    return _told("VmRSS") or _most()


def _highest() -> int:
    return _told("VmHWM") or _most()


def _told(field: str) -> int | None:
    """A field of Linux's report on this process, which is in kB."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def _most() -> int:
    """As every system has it; on Linux it counts what ran in this process before, such as a shell."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
