"""rofo-run that is killed at any moment leaves whole files or none, and goes on with --resume."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import soundfile

RATE = 44100
MOMENTS = int(os.environ.get("ROFO_TEST_KILLS", "2"))  # of every recipe, beside one of each kind; 70 by hand
STREAMED = """
[engines]
a = "a.json"
[[steps]]
make = "v"
run = "a"
on = "mix"
stem = "vocals"
[outputs]
vocals = "v"
rest = { mix = 1, v = -1 }
"""
GUARDED = """
[engines]
a = "a.json"
b = "b.json"
[[steps]]
make = "dry"
run = "a"
on = "mix"
stem = "vocals"
[[steps]]
make = "wet"
run = "b"
on = "dry"
stem = "drums"
[[steps]]
make = "kept"
guard = ["dry", "wet"]
drop_db = 60
[outputs]
vocals = "kept"
rest = { mix = 1, kept = -1 }
"""
RECIPES = {"streamed": (STREAMED, []), "spooled": (GUARDED, []), "low memory": (GUARDED, ["--low-memory"])}


class Killer:
    """Runs of killed.py in a folder with a recipe, and what lies there after."""

    def __init__(self, folder: Path, options: list[str]) -> None:
        (folder / "tmp").mkdir()
        self.folder = folder
        arguments = ["--engine", "recipe.toml", "mix.wav", "--output", "out", "--resume", *options]
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("killed.py"), *arguments, "--backend", "onnxruntime"],
            cwd=folder, env=os.environ | {"TMPDIR": str(folder / "tmp")}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def run(self, moment: str = "") -> tuple[int, dict[str, int]]:
        """The exit status and the events of a run."""
        assert self.process.stdin
        assert self.process.stdout
        print(moment, file=self.process.stdin, flush=True)
        status, events = json.loads(
            next(line for line in self.process.stdout if line.startswith("["))  # others are the run's
        )
        return status, events

    def killed(self, moment: str) -> None:
        """A run that ends at a moment."""
        assert self.run(moment) == (-9, {}), moment

    def give(self, song: bytes) -> None:
        """The song that the next runs are given."""
        (self.folder / "mix.wav").write_bytes(song)

    def stems(self) -> dict[str, bytes]:
        """What stands in the folder of stems under a name that does not begin with a dot."""
        return {p.name: p.read_bytes() for p in (self.folder / "out").rglob("[!.]*.*")}

    def leftovers(self) -> list[str]:
        """What should not be there after a run to its end."""
        hidden = [path.name for path in (self.folder / "out").rglob(".*") if path.name != ".rofo.json"]
        # ONNX Runtime's telemetry leaves a `.ses` when it is imported.
        return hidden + [path.name for path in (self.folder / "tmp").iterdir() if path.name != ".ses"]


@pytest.fixture
def killer(
    put: Callable[..., Path], write: Callable[..., Path], tmp_path: Path
) -> Iterator[Callable[[str], Killer]]:
    processes = []

    def start(name: str) -> Killer:
        put("a")
        put("b", stems=("drums",), chunk=3000)
        text, options = RECIPES[name]
        write(text)
        made = Killer(tmp_path, options)
        processes.append(made.process)
        return made

    yield start
    for process in processes:
        process.stdin.close()
        process.wait()


@pytest.fixture
def songs(song, tmp_path):
    """Two files, as bytes, the second shorter."""
    found = []
    for seed, samples in enumerate((140_000, 135_000)):
        soundfile.write(tmp_path / "song.wav", song(samples, seed=seed).T, RATE)
        found.append((tmp_path / "song.wav").read_bytes())
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_at_any_moment_it_leaves_whole_files_or_none_and_goes_on(killer, songs, recipe):
    runs, whole, events = killer(recipe), [], {}
    for song in songs:
        runs.give(song)
        status, events = runs.run()
        assert status == 0
        whole.append(runs.stems())
    assert whole[0] != whole[1]
    assert ("spool" in events) == (recipe != "streamed")
    assert {"stem", "create", "rename", "remove"} <= set(events)
    draw = random.Random(recipe)
    # One moment of every kind, and others; each run replaces the stems of the other song.
    moments = [f"{event} {draw.randrange(count)}" for event, count in events.items()]
    moments += draw.choices(
        [f"{event} {n}" for event, count in events.items() for n in range(count)], k=MOMENTS
    )
    for number, moment in enumerate(moments):
        runs.give(songs[number % 2])
        runs.killed(moment)
        for stem, content in runs.stems().items():
            assert content in (whole[0][stem], whole[1][stem]), (moment, stem)
        assert runs.run()[0] == 0, moment
        assert runs.stems() == whole[number % 2], moment
        assert not runs.leftovers(), moment


def test_a_song_that_is_finished_is_rid_of_what_a_killed_run_left(killer, songs):
    runs = killer("spooled")
    runs.give(songs[0])
    runs.run()
    runs.give(songs[1])
    runs.killed("stem 1")
    assert runs.leftovers()
    runs.give(songs[0])
    status, events = runs.run()
    assert (status, "stem" in events) == (0, False)
    assert not runs.leftovers()
