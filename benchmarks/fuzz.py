"""The proof `fuzz`: files with seeded damage, under a limit of memory and of time each."""

import os
import select
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rofo.benchmarks.fuzz_seeds import prepare
from rofo.benchmarks.fuzzed import KINDS, SECONDS
from rofo.benchmarks.reliability import Proof
from rofo.benchmarks.rounds import Say
from rofo.threads import cores

_PATIENCE = 6 * SECONDS  # for a case that does not come back to Python, and for the start of a process


def prove(count: int, folder: Path, say: Say) -> Proof:
    """`count` files of each kind."""
    prepare(folder)
    figures: dict[str, float | int | str] = {}
    failures: list[str] = []
    with ThreadPoolExecutor(cores()) as pool:
        tried = pool.map(lambda name: _tried(name, folder, count, say), KINDS)
        for name, (ends, found) in zip(KINDS, tried, strict=True):
            figures |= {f"{name}: {end}": times for end, times in sorted(ends.items())}
            failures += [f"{name} {failure}" for failure in found]
    return Proof(
        "Of damaged files each is refused by the right error or gives a right result, within "
        f"{SECONDS} s and 1 GiB more than a good one; none ends the process, gives stems of a wrong length, "
        "or leaves a file behind.",
        figures,
        tuple(failures),
    )


def _tried(name: str, folder: Path, count: int, say: Say) -> tuple[Counter[str], list[str]]:
    """How the cases of a kind ended, and what was wrong. A process that ended is started again behind it."""
    ends, failures, number = Counter[str](), list[str](), 0
    while number < count:
        number = _run(name, folder, number, count, ends, failures) + 1
    say(f"{name}: {dict(ends)}, {len(failures)} wrong")
    return ends, failures


def _run(name: str, folder: Path, first: int, count: int, ends: Counter[str], failures: list[str]) -> int:
    """One process until it ends; the last case that it began."""
    command = [sys.executable, "-m", "rofo.benchmarks.fuzzed", name, str(folder), str(first), str(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert process.stdout is not None
    number, rest = first - 1, b""
    try:
        while True:
            if not select.select([process.stdout], [], [], _PATIENCE)[0]:
                failures.append(f"{number}: hangs")
                return number
            if not (read := os.read(process.stdout.fileno(), 1 << 16)):
                break
            *lines, rest = (rest + read).split(b"\n")
            for line in map(bytes.decode, lines):
                if not line.startswith("= "):
                    number = int(line)
                    continue
                ends[line[2:] if line in ("= taken", "= refused") else "wrong"] += 1
                failures += [f"{number}: {line[2:]}"] if line not in ("= taken", "= refused") else []
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
    if status := process.wait():
        failures.append(f"{number}: the process ended with {status}")
    return number
