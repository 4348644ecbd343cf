"""rofo-run that is killed at any moment leaves whole files or none, and goes on with --resume."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import soundfile

from rofo.benchmarks.killed import Killer

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


@pytest.fixture
def killer(
    put: Callable[..., Path], write: Callable[..., Path], tmp_path: Path
) -> Iterator[Callable[[str], Killer]]:
    stack = ExitStack()

    def start(name: str) -> Killer:
        put("a")
        put("b", stems=("drums",), chunk=3000)
        text, options = RECIPES[name]
        write(text)
        arguments = ["--engine", "recipe.toml", "mix.wav", "--output", "out", "--resume", *options]
        runs = Killer(tmp_path, "rofo.cli", [*arguments, "--backend", "onnxruntime"])
        return stack.enter_context(runs)

    with stack:
        yield start


@pytest.fixture
def songs(song, tmp_path):
    """Two files, as bytes, the second shorter."""
    found = []
    for seed, samples in enumerate((140_000, 135_000)):
        soundfile.write(tmp_path / "song.wav", song(samples, seed=seed).T, RATE)
        found.append((tmp_path / "song.wav").read_bytes())
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_at_any_moment_it_leaves_whole_files_or_none_and_goes_on(killer, songs, tmp_path, recipe):
    runs, whole, events = killer(recipe), [], {}
    for song in songs:
        (tmp_path / "mix.wav").write_bytes(song)
        status, events = runs.run()
        assert status == 0
        whole.append(runs.visible())
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
        (tmp_path / "mix.wav").write_bytes(songs[number % 2])
        assert runs.run(moment) == (-9, {}), moment
        for stem, content in runs.visible().items():
            assert content in (whole[0][stem], whole[1][stem]), (moment, stem)
        assert runs.run()[0] == 0, moment
        assert runs.visible() == whole[number % 2], moment
        assert not runs.leftovers(), moment


def test_a_song_that_is_finished_is_rid_of_what_a_killed_run_left(killer, songs, tmp_path):
    runs = killer("spooled")
    (tmp_path / "mix.wav").write_bytes(songs[0])
    runs.run()
    (tmp_path / "mix.wav").write_bytes(songs[1])
    assert runs.run("stem 1") == (-9, {}), "stem 1"
    assert runs.leftovers()
    (tmp_path / "mix.wav").write_bytes(songs[0])
    status, events = runs.run()
    assert (status, "stem" in events) == (0, False)
    assert not runs.leftovers()
