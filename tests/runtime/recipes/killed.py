"""rofo-run killed at chosen moments: `python killed.py ARGUMENTS...` makes a run for every line it reads.

A line is empty, for a run to its end, or names an event and its number: "stem 3" kills the run with SIGKILL
before it writes to stems for the fourth time. Between two events nothing changes on the disk. Every run is a
fork, so that imports are paid once. After each comes a line of JSON: the exit status and how many of each
event there were, none of a run that was killed.
"""

import json
import os
import signal
import sys
import tempfile
from collections import Counter
from typing import Any

import onnxruntime  # noqa: F401 - before the forks

import rofo.separator  # noqa: F401
from rofo.audio.writer import StemFiles
from rofo.cli import main
from rofo.recipes.spool import Spool

AUDITED = {"open": "create", "os.rename": "rename", "os.remove": "remove", "os.mkdir": "mkdir"}


def run(arguments: list[str], moment: str) -> str:
    """One run; the line about it."""
    seen = Counter[str]()

    def happen(event: str) -> None:
        if moment == f"{event} {seen[event]}":
            os.kill(os.getpid(), signal.SIGKILL)
        seen[event] += 1

    def audit(name: str, values: tuple[Any, ...]) -> None:
        if name in AUDITED and (name != "open" or (values[2] or 0) & (os.O_CREAT | os.O_TMPFILE)):
            happen(AUDITED[name])

    def told(event: str, write: Any) -> Any:
        def write_(*values: Any) -> None:
            happen(event)
            write(*values)

        return write_

    Spool.write = told("spool", Spool.write)  # type: ignore[method-assign]
    StemFiles.write = told("stem", StemFiles.write)  # type: ignore[method-assign]
    sys.addaudithook(audit)
    try:
        main(arguments)
    except SystemExit as stop:
        return json.dumps([stop.code or 0, seen])


def serve(arguments: list[str]) -> None:
    """A run for every line of standard input."""
    # Python tries a folder by a file of four bytes, which it removes: the one thing that a kill can leave.
    tempfile.gettempdir()
    for line in sys.stdin:
        out, into = os.pipe()
        if not (child := os.fork()):
            os.write(into, run(arguments, line.strip()).encode())
            os._exit(0)
        os.close(into)
        with os.fdopen(out) as pipe:
            report = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(report or json.dumps([status, {}]), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1:])
