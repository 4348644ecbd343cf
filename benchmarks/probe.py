"""One separation in a process of its own, timed from inside: `probe ENGINE SONG BACKEND PRECISION`."""

import json
import sys
import tempfile
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rofo import Separator


class _Timed:
    """An engine that adds up the seconds spent in it."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.batch, self.backend, self.precision = engine.batch, engine.backend, engine.precision
        self.in_flight, self.healthy = engine.in_flight, engine.healthy
        self.seconds = 0.0

    def run(self, mix: NDArray[np.float32]) -> NDArray[np.float32]:
        began = time.perf_counter()
        stems: NDArray[np.float32] = self._engine.run(mix)
        self.seconds += time.perf_counter() - began
        return stems

    def close(self) -> None:
        self._engine.close()


def main() -> None:
    """Print the seconds of loading, of separating and of the engine as JSON."""
    engine, song, backend, precision = sys.argv[1:]
    began = time.perf_counter()
    with Separator(engine, backend=backend, precision=precision) as separator:
        loaded = time.perf_counter() - began
        timed = _Timed(separator._engine)
        separator._loop._engine = timed
        with tempfile.TemporaryDirectory() as folder:
            done = separator.separate_file(song, folder)
        outside = 1 - timed.seconds / done.elapsed
    print(json.dumps({  # noqa: T201 - read by the caller
        "load": loaded, "separate": done.elapsed, "engine": timed.seconds, "outside_engine": outside,
        "bf16": float(precision == "bf16"),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
