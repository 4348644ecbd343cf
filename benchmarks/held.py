"""What this process holds: memory, threads and file handles."""

import gc
import resource
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

_STATM, _TASKS, _HANDLES = Path("/proc/self/statm"), Path("/proc/self/task"), Path("/proc/self/fd")
_PATIENCE = 30.0  # seconds until threads that were told to end have ended


@dataclass(frozen=True)
class Held:
    """`threads` are Python's and those of libraries."""

    mb: float
    threads: int
    handles: int

    @classmethod
    def now(cls, at_rest: int | None = None) -> "Held":
        """When no more threads than `at_rest` are left, or after a while."""
        end = time.monotonic() + _PATIENCE
        while at_rest is not None and _threads() > at_rest and time.monotonic() < end:
            time.sleep(0.01)
        gc.collect()
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
        return cls(pages * resource.getpagesize() / 1e6, _threads(), len(list(_HANDLES.iterdir())))


def engine_made_elsewhere(folder: Path) -> Path:
    """The tiny engine, exported by another process: PyTorch's memory would hide what this one loses."""
    code = "import sys; from pathlib import Path; from rofo.benchmarks.tiny import tiny_engine as make;"
    command = [sys.executable, "-c", f"{code} print(make(Path(sys.argv[1])))", str(folder)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Path(told.stdout.splitlines()[-1])


def growth(seen: list[Held]) -> float:
    """How much more memory is held in the last third than in the middle one, as a fraction; the first third
    is the warm-up."""
    third = max(1, len(seen) // 3)
    before, after = (median(held.mb for held in part) for part in (seen[-2 * third : -third], seen[-third:]))
    return after / before - 1


def leaks(seen: list[Held], most: float) -> list[str]:
    """What grew: memory by more than the fraction `most`, threads or file handles at all."""
    grown, (middle, last) = growth(seen), (seen[len(seen) // 2], seen[-1])
    found = [f"memory grew by {grown:.1%}"] if grown > most else []
    for name in ("threads", "handles"):
        before, after = getattr(middle, name), getattr(last, name)
        found += [f"{after - before} {name} were left"] if after > before else []
    return found


def _threads() -> int:
    return max(len(list(_TASKS.iterdir())), threading.active_count())
