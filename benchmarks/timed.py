"""Run a command and report its seconds and peak memory: `timed REPORT THREADS COMMAND...`.

A process of its own, because Linux counts the memory of whoever starts a command into the command's peak:
started from a process that has PyTorch loaded, everything seems to need 2 GB.
"""

import json
import os
import sys
import time
from pathlib import Path


def main() -> int:
    """Write {"seconds", "peak_mb"} to REPORT; the command's exit status is ours, 128 + N for a signal N.

    The command is pinned to as many cores as THREADS says, 0 for all.
    """
    report, threads, *command = sys.argv[1:]
    if int(threads) and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    began = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    facts = {"seconds": time.perf_counter() - began, "peak_mb": usage.ru_maxrss / 1024}
    Path(report).write_text(json.dumps(facts), encoding="utf-8")
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
