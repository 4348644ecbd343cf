"""A tool of rofo killed at chosen moments: runs that `Killer` asks for, and what lies in its folder after.

`python -m rofo.benchmarks.killed MODULE ARGUMENTS...` makes a run of the module's `main` for every line it
reads. A line is empty, for a run to its end; or names an event and its number: "stem 3" kills the run with
SIGKILL before it writes to stems for the fourth time, and between two events nothing changes on the disk; or
is "after 0.25", in seconds; or "limit 5000", for a run whose files may have no more bytes. Every run is a
fork, so that imports are paid once. After each comes a line of JSON: the exit status, and how many of each
event there were, none of a run that was killed.
"""

import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rofo.audio.record import NAME as RECORD
from rofo.audio.writer import StemFiles
from rofo.engines.telemetry import import_quietly
from rofo.recipes.spool import Spool

AUDITED = {"open": "create", "os.rename": "rename", "os.remove": "remove", "os.mkdir": "mkdir"}
# What a tool imports only when it has work, before the forks.
LATER = {
    "rofo.cli": ("onnxruntime", "rofo.separator", "rofo.song_list"),
    "rofo.export.cli": ("onnxruntime", "openvino", "rofo.export.export"),
}


class Killer:
    """Runs of a tool in a folder; stems, engines and rows go to FOLDER/out."""

    def __init__(self, folder: Path, module: str, arguments: Sequence[str]) -> None:
        (folder / "tmp").mkdir()
        self.folder, self.out = folder, folder / "out"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rofo.benchmarks.killed", module, *arguments],
            cwd=folder, env=os.environ | {"TMPDIR": str(folder / "tmp")}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=(folder / "stderr").open("w"),
        )  # fmt: skip

    def run(self, moment: str = "") -> tuple[int, dict[str, int]]:
        """The exit status and the events of a run."""
        assert self._process.stdin and self._process.stdout
        print(moment, file=self._process.stdin, flush=True)
        # Other lines are the run's own.
        status, events = json.loads(next(line for line in self._process.stdout if line.startswith("[")))
        return status, events

    def visible(self) -> dict[str, bytes]:
        """What stands in `out` under a name that does not begin with a dot."""
        found = (path for path in self.out.rglob("[!.]*") if path.is_file())
        return {
            name: path.read_bytes()
            for path in found
            if "/." not in f"/{(name := path.relative_to(self.out).as_posix())}"
        }

    def leftovers(self) -> list[str]:
        """What should not be there after a run to its end."""
        hidden = [path.name for path in self.out.rglob(".*") if path.name != RECORD]
        return hidden + [path.name for path in (self.folder / "tmp").iterdir()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def _run(module: str, arguments: list[str], moment: str) -> str:
    """One run; the line about it."""
    seen = Counter[str]()

    def happen(event: str) -> bool:
        seen[event] += 1
        return moment == f"{event} {seen[event] - 1}"

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def audit(name: str, values: tuple[Any, ...]) -> None:
        creates = name != "open" or (values[2] or 0) & (os.O_CREAT | os.O_TMPFILE)
        if name in AUDITED and creates and happen(AUDITED[name]):
            kill()

    def told(event: str, write: Any) -> Any:
        def write_(*values: Any) -> None:
            if happen(event):
                kill()
            write(*values)

        return write_

    def write_half(file: int, line: Any) -> int:
        if happen("row"):
            write(file, line[: len(line) // 2])
            kill()
        return write(file, line)

    if moment.startswith("limit "):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(moment.split()[1]), resource.RLIM_INFINITY))
    write, os.write = os.write, write_half
    Spool.write = told("spool", Spool.write)  # type: ignore[method-assign]
    StemFiles.write = told("stem", StemFiles.write)  # type: ignore[method-assign]
    sys.addaudithook(audit)
    try:
        import_module(module).main(arguments)
    except SystemExit as stop:
        return json.dumps([stop.code or 0, seen])
    raise AssertionError("a tool's main ends in SystemExit")


def _serve(module: str, arguments: list[str]) -> None:
    """A run for every line of standard input."""
    for name in (module, *LATER[module]):
        import_quietly(name)
    # Python tries a folder by a file of four bytes, which it removes: the one thing that a kill can leave.
    tempfile.gettempdir()
    for line in sys.stdin:
        moment = line.strip()
        out, into = os.pipe()
        began = time.monotonic()
        if not (child := os.fork()):
            report = _run(module, arguments, moment)
            with os.fdopen(into, "w") as pipe:
                pipe.write(report)
            os._exit(0)
        os.close(into)
        if moment.startswith("after "):
            wait = began + float(moment.removeprefix("after ")) - time.monotonic()
            if not select.select([out], [], [], max(0.0, wait))[0]:
                os.kill(child, signal.SIGKILL)
        with os.fdopen(out) as answer:
            told = answer.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(told or json.dumps([status, {}]), flush=True)  # noqa: T201 - what Killer reads


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2:])
