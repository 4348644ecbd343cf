"""`python -m rofo.benchmarks.reliability images`: the steps of the container files, run without a container.

Every RUN line is run in an environment of its own, empty but for Python, with the wheel of this tree in
/dist's place; then the CMD, and a song where the machine can, without a network. Their size is what is added
to the base image.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rofo.benchmarks.demo import CHECKPOINT, CONFIG, MIX
from rofo.benchmarks.reliability import Proof
from rofo.benchmarks.rounds import Say
from rofo.errors import UsageError
from rofo.export import ExportOptions, export_checkpoint

ROOT = Path(__file__).parent.parent
SERVING = ROOT / "runtime" / "serving"
FILES = ("Containerfile.cpu", "Containerfile.rtx")
# A user of its own owns a network of its own, which has no way out.
OFFLINE = ("unshare", "--map-root-user", "--net")
KNOWN = frozenset({"ARG", "FROM", "COPY", "RUN", "ENV", "VOLUME", "USER", "CMD"})


@dataclass(frozen=True)
class Instruction:
    """A line of a container file: its word in capitals, and the rest."""

    word: str
    rest: str


def instructions(file: Path) -> list[Instruction]:
    """The lines of a container file. Raises UsageError for one that is not understood here."""
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            if word not in KNOWN or line.endswith("\\"):
                raise UsageError(
                    f"{file}:{number}: {line!r} is no step that is tried; try it, or leave it out"
                )
            found.append(Instruction(word, rest))
    return found


@dataclass(frozen=True)
class Tried:
    """What came of a container file: its environment, the MB added to the base image, what went wrong."""

    folder: Path
    added_mb: float
    failures: tuple[str, ...]


def tried(file: Path, dist: Path, folder: Path) -> Tried:
    """Run the RUN lines of a file, and its CMD without a network, in a new environment in `folder`."""
    venv.create(folder, with_pip=True)
    before, failures = megabytes(folder), []
    for step in instructions(file):
        if step.word == "RUN":
            command = step.rest.replace(" /dist ", f" {shlex.quote(str(dist))} ")
            failures += run(["sh", "-c", command], folder)
        elif step.word == "CMD":
            failures += run([*OFFLINE, *json.loads(step.rest)], folder)
    return Tried(folder, megabytes(folder) - before, tuple(failures))


def run(command: Sequence[str], environment: Path) -> list[str]:
    """Run a command with an environment's programs first; what went wrong, if anything."""
    path = os.pathsep.join((str(environment / "bin"), os.environ["PATH"]))
    done = subprocess.run(
        command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    said = f"{shlex.join(command)}: {done.stderr.strip()[-300:]}"
    return [said] if done.returncode else []


def wheel(folder: Path) -> Path:
    """The folder with the wheel of this tree, built from a copy: a build leaves things behind."""
    tree, dist = folder / "tree", folder / "dist"
    for name in ("runtime", "export", "benchmarks", "checkpoints"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--wheel-dir", str(dist), str(tree)], check=True)
    return dist


def prove(count: int, folder: Path, say: Say) -> Proof:
    """`count` of the container files. The first separates a song with an engine from a volume."""
    say("building the wheel")
    dist, figures, failures = wheel(folder), dict[str, float | int | str](), list[str]()
    for name in FILES[:count]:
        say(name)
        found = tried(SERVING / name, dist, folder / name)
        figures[f"MB that {name} adds to its base image"] = round(found.added_mb)
        failures += found.failures
    say("a song, without a network")
    export_checkpoint(CHECKPOINT, ExportOptions(output=folder / "demo", config=CONFIG))
    song = ["rofo-run", "--engine", str(folder / "demo.onnx"), str(MIX), "--output", str(folder / "stems")]
    failures += run([*OFFLINE, *song], folder / FILES[0])
    claim = (
        "Every step of the container files runs, and rofo-run separates a song in what they install, "
        "without a network"
    )
    return Proof(claim, figures, tuple(failures))


def megabytes(folder: Path) -> float:
    """Of all files in a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
