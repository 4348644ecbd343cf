"""Commands in processes of their own: their seconds, their peak memory, and what they report."""

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rofo.errors import AudioReadError, EngineRunError, OutputWriteError, UsageError
from rofo.export.errors import CheckpointError

# A step of a measurement that takes longer than this is given up.
LIMIT_SECONDS = 3600.0
_SIGNALLED = 128
_BY_EXIT_CODE = {e.exit_code: e for e in (UsageError, AudioReadError, CheckpointError, OutputWriteError)}


@dataclass(frozen=True)
class Measured:
    """A command that succeeded: wall seconds, peak memory in MB."""

    seconds: float
    peak_mb: float


def measured(
    command: Sequence[str],
    *,
    threads: int | None = None,
    limit: float = LIMIT_SECONDS,
    home: Path | None = None,
) -> Measured:
    """Run a command that must succeed within `limit` seconds, on `threads` threads pinned to cores.

    Raises the error that its exit code stands for, with its last line on stderr, and EngineRunError where
    the time is over. `home` keeps what it writes for its user out of the user's own folder.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        timed = [sys.executable, "-m", "rofo.benchmarks.timed", str(report), str(threads or 0), *command]
        process = subprocess.Popen(
            timed, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
            env=_environment(threads, home), start_new_session=True, text=True, errors="replace",
        )  # fmt: skip
        try:
            _, told = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            _end(process)
            raise EngineRunError(f"{Path(command[0]).name}: gave up after {limit:.0f} s") from None
        except BaseException:
            _end(process)
            raise
        if process.returncode:
            raise _failure(command, process.returncode, told)
        return Measured(**json.loads(report.read_text(encoding="utf-8")))


def reported(module: str, job: object, *, threads: int | None = None) -> tuple[Measured, dict[str, Any]]:
    """Run a module of ours on a job (pickled) -> what was measured from outside, and what it answered."""
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder) / "job", Path(folder) / "answer.json"
        question.write_bytes(pickle.dumps(job))
        outside = measured([sys.executable, "-m", module, str(question), str(answer)], threads=threads)
        inside: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return outside, inside


def _environment(threads: int | None, home: Path | None) -> dict[str, str]:
    changes = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} if threads else {}
    return {**os.environ, **changes, **({"HOME": str(home)} if home else {})}


def _end(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _failure(command: Sequence[str], code: int, told: str) -> Exception:
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    reason = lines[-1].removeprefix("error: ")[:300] if lines else f"exit code {code}"
    if code > _SIGNALLED:
        reason = f"ended by {signal.Signals(code - _SIGNALLED).name}; it may have run out of memory"
    kind = _BY_EXIT_CODE.get(code)
    return kind(reason) if kind else EngineRunError(f"{Path(command[0]).name}: {reason}")
