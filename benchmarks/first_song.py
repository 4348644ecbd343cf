"""`python -m rofo.benchmarks.reliability first-song`: from nothing to a separated song, in a fresh clone.

`make demo-run` (the runtime alone) and `make demo` (from the checkpoint on), with an empty cache for pip.
How long depends on the line and on where pip looks; what is downloaded, the Makefile says.
"""

import os
import subprocess
import time
from pathlib import Path
from statistics import median

from rofo.benchmarks.images import ROOT, megabytes
from rofo.benchmarks.reliability import Proof
from rofo.benchmarks.rounds import Say

TARGETS = {"demo-run": "build/run-env", "demo": "build/demo-env"}


def prove(count: int, folder: Path, say: Say) -> Proof:
    """`count` times each; medians."""
    figures, failures = dict[str, float | int | str](), list[str]()
    for target, environment in TARGETS.items():
        seconds = list[float]()
        for done in range(count):
            clone = folder / f"{target}{done}"
            say(f"make {target}, {done + 1} of {count}")
            began = time.monotonic()
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
            made = subprocess.run(
                ["make", target],
                cwd=clone,
                env={**os.environ, "PIP_CACHE_DIR": str(clone) + "-cache"},
                capture_output=True,
                text=True,
                check=False,
            )
            seconds.append(time.monotonic() - began)
            failures += [f"make {target}: {made.stderr.strip()[-300:]}"] if made.returncode else []
        figures |= {
            f"make {target}: seconds from the clone to the stems": round(median(seconds)),
            f"make {target}: MB installed": round(megabytes(clone / environment)),
        }
    claim = "A song is separated by one command in a fresh clone, with nothing in pip's cache"
    return Proof(claim, figures, tuple(failures))
