"""The proof `kill`: rofo-run, rofo-export and rofo-run --list killed with SIGKILL at random moments."""

import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rofo.benchmarks.killed import Killer
from rofo.benchmarks.reliability import Proof
from rofo.benchmarks.rounds import Say
from rofo.benchmarks.subject import write_noise
from rofo.benchmarks.tiny import RATE, tiny_checkpoint, tiny_engine, write_list
from rofo.manifest import file_sha256
from rofo.song_rows import SUFFIX, SongRow, read_rows

KILLED = -9
SONGS = ("a", "b", "c")


@dataclass(frozen=True)
class Scene:
    """A tool at work: `give` lays out one of two inputs, by turns, so that every run has work to do.

    `code` is what a run to its end exits with; `problems` are what is wrong after one beside the files.
    """

    module: str
    arguments: list[str]
    give: Callable[[Path, int], None]
    code: int = 0
    problems: Callable[[Path], list[str]] = lambda out: []


def prove(count: int, folder: Path, say: Say) -> Proof:
    """`count` moments in all: half of them events, half of them times."""
    tools = scenes(folder / "given")
    figures: dict[str, int] = {}
    failures: list[str] = []
    for number, (name, scene) in enumerate(tools.items()):
        share = (count + number) // len(tools)
        (folder / name).mkdir()
        with Killer(folder / name, scene.module, scene.arguments) as runs:
            found, landed = _kill(runs, scene, share, random.Random(name), say)
        figures[f"{name}: killed"] = share
        figures[f"{name}: had replaced something, and not all"] = landed
        failures += [f"{name}: {problem}" for problem in found]
    return Proof(
        "Killed at any moment, all files that are to be there are there and are whole, old or new; "
        "the next run completes the work and leaves nothing else.",
        figures,
        tuple(failures),
    )


def _kill(runs: Killer, scene: Scene, count: int, draw: random.Random, say: Say) -> tuple[list[str], int]:
    """What went wrong at `count` moments, and after how many of them old and new stood side by side."""
    failures, landed = [], 0

    def whole(turn: int) -> tuple[dict[str, bytes], dict[str, int], float]:
        scene.give(runs.folder, turn)
        began = time.monotonic()
        status, events = runs.run()
        if status != scene.code:
            failures.append(f"ended with {status}; {last_line(runs.folder / 'stderr')}")
        return files(runs), events, time.monotonic() - began

    (new, _, _), (old, events, seconds) = whole(0), whole(1)
    turn = 0
    pairs = [f"{event} {n}" for event, times in events.items() for n in range(times)]
    done = 0
    while done < count:
        moment = draw.choice(pairs) if done % 2 else f"after {draw.uniform(0, seconds):.3f}"
        scene.give(runs.folder, turn)
        status, _ = runs.run(moment)
        if status != KILLED:  # it was faster than before, or did less
            new, old, turn = old, new, 1 - turn
            continue
        there = files(runs)
        if set(there) != set(new):
            failures.append(f"{moment}: {sorted(set(there) ^ set(new))} are missing, or too many")
        broken = [file for file in there if there[file] not in (old.get(file), new.get(file))]
        failures += [f"{moment}: {file} is not whole" for file in broken]
        landed += there not in (old, new)
        after, _, seconds = whole(turn)
        if after != new:
            failures.append(f"{moment}: the next run did not complete it")
        failures += [f"{moment}: {name} was left" for name in runs.leftovers()]
        failures += [f"{moment}: {problem}" for problem in scene.problems(runs.out)]
        new, old, turn, done = old, new, 1 - turn, done + 1
        if done % 10 == 0:
            say(f"{scene.module}: {done} of {count}, {len(failures)} failures")
    return failures, landed


def files(runs: Killer) -> dict[str, bytes]:
    """What stands there but rows."""
    return {name: content for name, content in runs.visible().items() if not name.endswith(SUFFIX)}


def scenes(given: Path) -> dict[str, Scene]:
    """The tools by name, with an engine, checkpoints and songs in a folder."""
    engine = tiny_engine(given)
    checkpoints = [tiny_checkpoint(given / f"{growth}", growth) for growth in (4, 5)]
    for turn in (0, 1):
        for number, name in enumerate(SONGS):
            write_noise(given / f"{name}{turn}.wav", 3 + turn, RATE, 2, seed=2 * number + turn)

    def song(folder: Path, turn: int) -> None:
        shutil.copy(given / f"a{turn}.wav", folder / "mix.wav")

    def checkpoint(folder: Path, turn: int) -> None:
        shutil.copy(checkpoints[turn], folder / "net.ckpt")

    def songs(folder: Path, turn: int) -> None:
        for name in SONGS:
            shutil.copy(given / f"{name}{turn}.wav", folder / f"{name}.wav")
        (folder / "bad.wav").write_text("no audio")
        rows = [{"id": name, "path": f"{name}.wav"} for name in ("a", "bad", "b", "c")]
        write_list(folder / "songs.jsonl", rows)

    run = ["--engine", str(engine), "--backend", "onnxruntime", "--threads", "1", "--output", "out"]
    export = ["net.ckpt", "--target", "onnx", "--output", "out/net", "--no-verify"]
    return {
        "rofo-run": Scene("rofo.cli", [*run, "--resume", "mix.wav"], song),
        "rofo-export": Scene("rofo.export.cli", export, checkpoint),
        "rofo-run --list": Scene("rofo.cli", [*run, "--list", "songs.jsonl"], songs, 7, _rows_problems),
    }


def _rows_problems(out: Path) -> list[str]:
    """What the rows do not tell as it is: of every song the last one, and nothing twice."""
    last: dict[str, SongRow] = {}
    problems = []
    for row in read_rows(out / f"results{SUFFIX}"):
        if row.status == "done" and row.tells(last.get(row.id)):
            problems.append(f"{row.id}: two rows tell the same")
        last[row.id] = row
    for name in SONGS:
        stems = last[name].stems.values() if name in last else ()
        hashes = [file_sha256(out / stem["file"]) for stem in stems]
        if not hashes or hashes != [stem["sha256"] for stem in stems]:
            problems.append(f"{name}: its row is not that of its stems")
    if last["bad"].status != "failed":
        problems.append("bad: its row does not tell that it failed")
    return problems


def last_line(file: Path) -> str:
    """What a tool said at last."""
    return (file.read_text(errors="replace").splitlines() or [""])[-1]
