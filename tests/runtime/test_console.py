"""Ctrl-C and a service's stop end a tool with 130, whatever swallows them on the way."""

import signal
import subprocess
import sys
import time

import pytest

WAIT = """
import time
from pathlib import Path
Path("ready").touch()
while not Path("sent").exists():
    {wait}
for _ in range(20):
    {wait}
"""
SWALLOW = "try: time.sleep(0.01)\n    except BaseException: pass"
TOOL = """
import sys, time, click
from pathlib import Path
sys.path.insert(0, ".")
from rofo.console import command_line

@command_line
@click.command()
def main():
    {phase}
    for _ in range(500):  # the work that must not go on
        time.sleep(0.1)
    Path("done").touch()

main([])
"""
PHASES = {
    "an import": "import swallowing",
    "our own work": "exec(Path('waiting.py').read_text())",
    "a destructor": "type('Dying', (), {'__del__': lambda self: exec(Path('waiting.py').read_text())})()",
    "cleaning up": "exec(Path('cleaning.py').read_text())",
}


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", PHASES)
def test_an_interrupt_gets_through(phase, stop, tmp_path):
    (tmp_path / "swallowing.py").write_text(WAIT.format(wait=SWALLOW))
    (tmp_path / "waiting.py").write_text(WAIT.format(wait="time.sleep(0.01)"))
    (tmp_path / "cleaning.py").write_text(
        "try:\n    exec(Path('waiting.py').read_text())\n"
        "finally:\n    time.sleep(1.5)\n    Path('cleaned').touch()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", TOOL.format(phase=PHASES[phase])],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(stop)
        (tmp_path / "sent").touch()
        _, err = process.communicate(timeout=100)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "interrupted; nothing unfinished was left behind"
    assert not (tmp_path / "done").exists()
    assert (tmp_path / "cleaned").exists() == (phase == "cleaning up")
