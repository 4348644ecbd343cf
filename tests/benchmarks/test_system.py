"""Recipes: networks in the places of all their engines, their runs one by one, and what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile

from rofo.benchmarks import system
from rofo.benchmarks.contestants import Choice, contestants
from rofo.benchmarks.parity import measure_parity
from rofo.benchmarks.probe import Job, separate
from rofo.benchmarks.rounds import Log
from rofo.benchmarks.subject import Told
from rofo.benchmarks.system import prepare_any, runs_alone
from rofo.errors import UsageError

CHOICE = Choice(1, ("onnxruntime",), ("fp32",), compiled=False)
RECIPE = """
[engines]
tiny = "tiny.json"

[[steps]]
make = ["plain", "rest"]
run = "tiny"
on = "mix"
stem = ["vocals", "instrumental"]

[[steps]]
make = "both"
run = "tiny"
on = "mix"
stem = "vocals"
augment = ["plain", "invert"]

[[steps]]
make = "again"
run = "tiny"
on = "rest"
stem = "vocals"
overlap = 0.25

[outputs]
vocals = { plain = 0.5, both = 0.5, again = 1 }
"""


@pytest.fixture
def recipe(checkpoint, exported, tmp_path):
    """A recipe of three runs of a tiny engine and four of a network, which lies beside it."""
    for file in exported().parent.glob("tiny*"):
        shutil.copy(file, tmp_path)
    shutil.copy(checkpoint[0], tmp_path)
    file = tmp_path / "recipe.toml"
    file.write_text(RECIPE)
    return file


@pytest.fixture
def prepared(recipe, tmp_path):
    """The recipe as a subject, and what was left out."""
    log = Log(lambda _: None)
    (tmp_path / "yaml").mkdir()
    return prepare_any(recipe, Told(), tmp_path / "yaml", log, CHOICE), log


def test_the_runs_of_a_recipe_are_listed_once_each(recipe):
    found = [(file.name, options.overlap) for file, options in runs_alone(recipe)]
    assert found == [("tiny.json", None), ("tiny.json", None), ("tiny.json", 0.25)]


def test_the_recipe_is_measured_beside_its_runs_and_with_networks_in_it(prepared, song, tmp_path):
    subject, log = prepared
    assert not log.left_out
    soundfile.write(tmp_path / "song.wav", song(30_000).T, 44100, "FLOAT")
    field = {one.name: one for one in contestants(subject, CHOICE)}
    assert list(field) == [
        "PyTorch fp32 (pymss-core)", "PyTorch fp32 (rofo's network)", "rofo onnxruntime fp32",
        "rofo onnxruntime fp32, its runs one by one", "onnxruntime fp32, driven plainly",
    ]  # fmt: skip
    runs = {name: separate(Job(one, subject, tmp_path / "song.wav", 1)) for name, one in field.items()}
    assert len({run["runs"] for run in runs.values()}) == 1  # as many chunks, whoever computes them
    assert all(run["cpu"] > 0 and run["elapsed"] > 0 for run in runs.values())


def test_a_recipe_is_compared_with_itself_on_networks(recipe, song, tmp_path):
    mix = song(12_000, seed=1)
    soundfile.write(tmp_path / "mix.wav", mix.T, 44100, "FLOAT")
    result = measure_parity(recipe, Told(), tmp_path / "mix.wav", ["mix.wav"], CHOICE, say=lambda _: None)
    assert [row.name for row in result.rows] == [
        "PyTorch fp32 (pymss-core)", "PyTorch fp32 (rofo's network)", "rofo onnxruntime fp32",
        "onnxruntime fp32, driven plainly",
    ]  # fmt: skip
    assert {row.graph_snr for row in result.rows} == {None}
    assert all(row.stems[0].song_snr > 65 for row in result.rows[1:])


def test_another_checkpoint_is_not_taken_for_the_engine_s(recipe, checkpoint, tmp_path):
    (tmp_path / checkpoint[0].name).write_bytes(b"another")
    log = Log(lambda _: None)
    subject = prepare_any(recipe, Told(), tmp_path, log, CHOICE)
    assert [(one.what, "tiny.json was made of" in one.why) for one in log.left_out] == [
        ("PyTorch for tiny", True)
    ]
    assert [part.checkpoint for part in subject.parts.values()] == [None]


@pytest.mark.parametrize(
    ("told", "choice"), [(Told(Path("a.yaml")), CHOICE), (Told(), replace(CHOICE, batch=2))]
)
def test_what_engines_say_themselves_is_refused(recipe, tmp_path, told, choice):
    with pytest.raises(UsageError, match=r"drop --batch|manifests say all"):
        system.prepare_any(recipe, told, tmp_path, Log(lambda _: None), choice)
