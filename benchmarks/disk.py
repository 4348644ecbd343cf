"""The proof `disk`: rofo-run, rofo-export and rofo-run --list on a disk that is full at a random byte."""

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rofo.benchmarks.kill import Scene, files, last_line, scenes
from rofo.benchmarks.killed import Killer
from rofo.benchmarks.reliability import Proof
from rofo.benchmarks.rounds import Say

REFUSED = 6
SIZE = 64 << 20
FILLER = ".filler"


def prove(count: int, folder: Path, say: Say) -> Proof:
    """`count` bytes in all, by turns of every tool: on a small tmpfs, and by a limit on the size of a file.

    Where nothing can be mounted, by the limit alone: then --list, which goes on after it, is left out.
    """
    tools = scenes(folder / "given")
    tools["rofo-run, FLAC"] = replace(
        tools["rofo-run"], arguments=[*tools["rofo-run"].arguments, "--format", "flac"]
    )
    figures: dict[str, int] = {}
    failures: list[str] = []
    kinds = [(name, how) for name in tools for how in ("tmpfs", "limit") if (name, how) != _GOES_ON]
    if not _can_mount(folder):
        kinds = [(name, how) for name, how in kinds if how == "limit"]
        say("nothing can be mounted here; --list is left out")
    for number, (name, how) in enumerate(kinds):
        share = (count + number) // len(kinds)
        place = folder / f"{name} {how}"
        (place / "out").mkdir(parents=True)
        scene = tools[name]
        with _mounted(place / "out", how), Killer(place, scene.module, scene.arguments) as runs:
            found = _fill(runs, scene, how, share, random.Random(name))
        say(f"{name}, {how}: {share}, {len(found)} failures")
        figures[f"{name}: {how}"] = share
        failures += [f"{name}, {how}, {problem}" for problem in found]
    return Proof(
        "On a disk that is full at any byte a tool exits with 6 and says so in one line, what was there is "
        "whole, nothing else is left, and with room again the next run completes the work.",
        figures,
        tuple(failures),
    )


_GOES_ON = ("rofo-run --list", "limit")  # a limit on one file is not the end of the others


def _fill(runs: Killer, scene: Scene, how: str, count: int, draw: random.Random) -> list[str]:
    """What went wrong at `count` bytes."""
    failures: list[str] = []
    scene.give(runs.folder, 0)
    runs.run()
    new = files(runs)
    scene.give(runs.folder, 1)
    runs.run()
    old, turn, done = files(runs), 0, 0
    while done < count:
        scene.give(runs.folder, turn)
        sizes = [len(content) for content in new.values()]
        byte = draw.randrange(max(sizes) if how == "limit" else sum(sizes))
        if how == "tmpfs":
            _leave(runs.out, byte)
        status, _ = runs.run(f"limit {byte}" if how == "limit" else "")
        (runs.out / FILLER).unlink(missing_ok=True)
        if status == scene.code:  # the room was enough, as half of the stems freed theirs
            new, old, turn = old, new, 1 - turn
            continue
        told = last_line(runs.folder / "stderr")
        there = files(runs)
        if status != REFUSED or not any(
            words in told for words in ("disk full", "larger than", "could not write")
        ):
            failures.append(f"byte {byte}: exit code {status}, {told}")
        if set(there) != set(new) or any(there[f] not in (old[f], new[f]) for f in there):
            failures.append(f"byte {byte}: what was there is not whole")
        failures += [f"byte {byte}: {name} was left" for name in runs.leftovers()]
        if runs.run()[0] != scene.code or files(runs) != new:
            failures.append(f"byte {byte}: the next run did not complete it")
        failures += [f"byte {byte}: {problem}" for problem in scene.problems(runs.out)]
        new, old, turn, done = old, new, 1 - turn, done + 1
    return failures


def _leave(folder: Path, size: int) -> None:
    """Fill the disk but for `size` bytes, to a page."""
    room = os.statvfs(folder)
    filler = room.f_bavail * room.f_frsize - size
    with (folder / FILLER).open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, filler))


def _can_mount(folder: Path) -> bool:
    try:
        with _mounted(folder / "probe", "tmpfs"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def _mounted(folder: Path, how: str) -> Iterator[None]:
    """A tmpfs on the folder, if that is how the disk is to be full."""
    folder.mkdir(exist_ok=True)
    if how != "tmpfs":
        yield
        return
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
