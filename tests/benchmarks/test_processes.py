"""Commands in processes of their own: what they cost, and what is told when they fail."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rofo.benchmarks.processes import measured
from rofo.errors import EngineRunError
from rofo.export.errors import CheckpointError


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_command_is_charged_only_its_own_memory() -> None:
    """Started from a process that holds 400 MB, a small one must not seem to need them."""
    script = (
        "ballast = bytearray(400 << 20)\n"
        "import json, sys\n"
        "from rofo.benchmarks.processes import measured\n"
        "print(json.dumps(measured([sys.executable, '-c', 'print(1)']).peak_mb))\n"
    )
    out = subprocess.run(python(script), check=True, capture_output=True, text=True).stdout
    assert 1 < json.loads(out) < 100


def test_memory_that_it_needs_is_charged() -> None:
    assert measured(python("x = bytearray(b'1') * (150 << 20)")).peak_mb > 150


def test_threads_are_pinned_and_limited(tmp_path: Path) -> None:
    file = tmp_path / "seen"
    seen = "len(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS']"
    measured(python(f"import os; print({seen}, file=open({str(file)!r}, 'w'))"), threads=1)
    assert file.read_text() == "1 1\n"


def test_failures_are_the_errors_of_their_exit_codes() -> None:
    with pytest.raises(CheckpointError, match=r"^x: no such file$"):
        measured(python("import sys; print('a note\\nerror: x: no such file', file=sys.stderr); sys.exit(4)"))
    with pytest.raises(EngineRunError, match="ended by SIGKILL"):
        measured(python("import os; os.kill(os.getpid(), 9)"))


def test_one_that_takes_too_long_is_ended() -> None:
    with pytest.raises(EngineRunError, match="gave up after 1 s"):
        measured(python("import time; time.sleep(60)"), limit=1)
