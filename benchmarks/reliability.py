"""`python -m rofo.benchmarks.reliability PROOF`: that nothing is lost, proved by doing it.

A proof is a module of this package with a function `prove(count, folder, say) -> Proof`: `count` is how many
cases, moments, songs or minutes, `folder` an empty one to work in. Its result goes to
benchmarks/results/reliability.json, under its name, with the command that made it.
"""

import dataclasses
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from rofo.audio.parts import write_whole
from rofo.benchmarks.cli import RESULTS
from rofo.benchmarks.machine import about
from rofo.console import command_line, note
from rofo.errors import UsageError
from rofo.threads import cores

FORMAT = 1
FILE = "reliability.json"


@dataclass(frozen=True)
class Proof:
    """What came out: `claim` in a sentence, `figures` by name, and in words all that was wrong."""

    claim: str
    figures: Mapping[str, float | int | str]
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Method:
    """The module that proves something, and how many cases it takes unless told: `unit` says of what."""

    module: str
    count: int
    unit: str


METHODS = {
    "kill": Method("rofo.benchmarks.kill", 200, "moments"),
    "disk": Method("rofo.benchmarks.disk", 50, "bytes"),
    "ray": Method("rofo.benchmarks.ray_job", 300, "songs"),
    "ray-cost": Method("rofo.benchmarks.ray_cost", 3, "rounds"),
    "soak": Method("rofo.benchmarks.soak", 60, "minutes"),
    "reopen": Method("rofo.benchmarks.reopen", 1000, "times"),
    "fuzz": Method("rofo.benchmarks.fuzz", 10_000, "files of each kind"),
    "triton": Method("rofo.benchmarks.triton", 1000, "requests"),
    "images": Method("rofo.benchmarks.images", 2, "container files"),
    "first-song": Method("rofo.benchmarks.first_song", 1, "times"),
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", metavar="PROOF", type=click.Choice(list(METHODS)))
@click.option(
    "--count",
    type=click.IntRange(1),
    help=f"How many: {', '.join(f'{name} {m.count:,} {m.unit}' for name, m in METHODS.items())}.",
)
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True, metavar="DIR")
def reliability(name: str, count: int | None, results: Path) -> int:
    """Prove something about rofo by doing it; 1 where it does not hold."""
    method = METHODS[name]
    count, began = count or method.count, time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"rofo-{name}-") as folder:
        proof: Proof = import_module(method.module).prove(count, Path(folder), note)
    command = f"python -m rofo.benchmarks.reliability {name} --count {count}"
    note(f"{record(results, name, command, proof, time.monotonic() - began)}: written")
    click.echo(json.dumps(dataclasses.asdict(proof), indent=2))
    return 1 if proof.failures else 0


def record(results: Path, name: str, command: str, proof: Proof, seconds: float) -> Path:
    """Put a proof into RESULTS/reliability.json, in place of the last of its name.

    Raises OutputWriteError, and UsageError where the file there is none of ours.
    """
    file = results / FILE
    proofs = read(file) if file.exists() else {}
    circumstances = dataclasses.asdict(about(cores(), []))
    circumstances.pop("left_out")
    entry = {"command": command, "seconds": round(seconds, 1), **dataclasses.asdict(proof)}
    proofs[name] = {**entry, "about": circumstances}
    results.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, "proofs": dict(sorted(proofs.items()))}
    write_whole(file, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    return file


def read(file: Path) -> dict[str, Any]:
    """The proofs in a file, by name. Raises UsageError."""
    try:
        raw = json.loads(file.read_bytes())
        if raw["format"] == FORMAT:
            return dict(raw["proofs"])
    except (OSError, ValueError, TypeError, LookupError):
        pass
    raise UsageError(f"{file}: no proofs of this version; move it away and prove again")


main = command_line(reliability)

if __name__ == "__main__":
    main()
