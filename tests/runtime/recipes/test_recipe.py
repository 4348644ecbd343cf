"""Recipes are the sum of separate runs, sample for sample, in one pass or several, with any memory."""

import contextlib
import json
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rofo import CancelledError, Options, UsageError
from rofo.cli import main
from rofo.engines.onnxruntime import CpuEngine
from rofo.recipes.guard import level_db
from rofo.recipes.spool import Spool
from rofo.watch import Watch

RATE = 44100
SINGLE = """
[engines]
a = "a.json"
b = "b.json"
[[steps]]
make = "v1"
run = "a"
on = "mix"
stem = "vocals"
overlap = 0.75
[[steps]]
make = ["d", "i"]
run = "b"
on = "mix"
stem = ["drums", "instrumental"]
augment = ["plain", "invert", "swap"]
scheme = "hann"
[[steps]]
make = "both"
sum = { v1 = 3, d = -0.5, mix = 0.25 }
divide = 4
[[steps]]
make = "again"
run = "a"
on = "both"
stem = "vocals"
overlap = 0.75
[outputs]
vocals = "both"
again = "again"
other = { mix = 1, i = -1, again = 2 }
"""
# A run on the first pass's signals, a guard, an engine that wants the song's level, and one of another rate.
SEVERAL = """
residual = "rest"
[engines]
a = "a.json"
n = "n.json"
low = "low.json"
[[steps]]
make = "dry"
run = "a"
on = "mix"
stem = "vocals"
[[steps]]
make = "wet"
run = "low"
on = "dry"
stem = "vocals"
[[steps]]
make = "kept"
guard = ["dry", "wet"]
drop_db = 150
[[steps]]
make = ["n", "r"]
run = "n"
on = "kept"
stem = ["vocals", "instrumental"]
augment = ["invert"]
[[steps]]
make = "out"
sum = { n = 1, kept = 0.5, mix = 0.125 }
[outputs]
out = "out"
kept = "kept"
r = "r"
"""


@pytest.fixture
def single(put, write):
    put("a", batch=2)
    put("b", stems=("bass", "drums"), chunk=3000)
    return write(SINGLE, "single.toml")


@pytest.fixture
def several(put, write):
    put("a")
    put("n", normalize=True)
    put("low", sample_rate=32000, chunk=2800)
    return write("sample_rate = 44100\n" + SEVERAL)


def alone(opened, path, mix, stem, rate=RATE, **options):
    """What an engine by itself makes."""
    with opened(path) as separator:
        return separator.separate(mix, rate, Options(stems=[stem], **options))[stem]


def separated(opened, path, mix, rate=RATE, **options):
    with opened(path, **options) as separator:
        return separator.separate(mix, rate)


@pytest.mark.parametrize("length", [1, 999, 4000, 20_011])
def test_it_is_what_separate_runs_make(opened, single, tmp_path, song, length):
    mix = song(length)
    got = separated(opened, single, mix)

    def a(signal):
        return alone(opened, tmp_path / "a.json", signal, "vocals", overlap=0.75)

    def b(stem):
        def one(signal):
            return alone(opened, tmp_path / "b.json", signal, stem, scheme="hann")

        return (one(mix) - one(-mix) + one(mix[::-1])[::-1]) / np.float32(3)

    both = (3 * a(mix) - np.float32(0.5) * b("drums") + np.float32(0.25) * mix) / np.float32(4)
    np.testing.assert_array_equal(got["vocals"], both)
    np.testing.assert_array_equal(got["again"], a(both))
    np.testing.assert_allclose(got["other"], mix - b("instrumental") + 2 * a(both), atol=1e-6)
    assert not np.array_equal(got["vocals"], got["again"])


@pytest.mark.parametrize("length", [1, 4000, 20_011])
def test_passes_are_what_separate_runs_make(opened, several, tmp_path, song, length):
    mix = song(length)
    got = separated(opened, several, mix)
    dry = alone(opened, tmp_path / "a.json", mix, "vocals")
    wet = alone(opened, tmp_path / "low.json", dry, "vocals")
    np.testing.assert_array_equal(got["kept"], wet)
    n = -alone(opened, tmp_path / "n.json", -wet, "vocals")
    np.testing.assert_array_equal(got["out"], n + np.float32(0.5) * wet + np.float32(0.125) * mix)
    np.testing.assert_allclose(got["r"], wet - n, atol=1e-7)
    np.testing.assert_allclose(got["rest"], mix - got["out"] - got["kept"] - got["r"], atol=1e-6)


@pytest.mark.parametrize("which", ["single", "several"])
def test_low_memory_is_bit_for_bit_the_same_and_opens_one_engine_at_a_time(
    opened, request, song, which, monkeypatch
):
    from rofo.engines.onnxruntime import CpuEngine

    path, mix, here, most = request.getfixturevalue(which), song(20_011), [0], []
    want = separated(opened, path, mix)
    begin, end = CpuEngine.__init__, CpuEngine.close

    def counted(self, *arguments):
        begin(self, *arguments)
        here[0] += 1
        most.append(here[0])

    def closed(self):
        end(self)
        here[0] -= 1

    monkeypatch.setattr(CpuEngine, "__init__", counted)
    monkeypatch.setattr(CpuEngine, "close", closed)
    got = separated(opened, path, mix, low_memory=True)
    assert max(most) == 1
    assert here == [0]
    for stem, samples in want.items():
        np.testing.assert_array_equal(got[stem], samples)


@pytest.mark.parametrize("which", ["single", "several"])
@pytest.mark.parametrize("rate", [44100, 48000])
def test_all_doors_agree(opened, request, song, tmp_path, which, rate):
    path, mix = request.getfixturevalue(which), song(20_011)
    soundfile.write(tmp_path / "mix.wav", mix.T, rate, "FLOAT")
    with opened(path) as separator:
        want = separator.separate(mix, rate)
        songs = [song(5000, 1), mix, np.zeros((2, 0), np.float32), song(1), song(9000)]
        for each, together in zip(songs, separator.separate_songs(songs, rate), strict=True):
            for stem, whole in separator.separate(each, rate).items():
                assert whole.shape == each.shape
                np.testing.assert_array_equal(together[stem], whole)
        paths = separator.separate_file(tmp_path / "mix.wav", tmp_path / "out")
        for stem, whole in want.items():
            written = soundfile.read(paths[stem], dtype="float32", always_2d=True)[0].T
            np.testing.assert_array_equal(written, whole)
        if which == "several":
            with pytest.raises(UsageError, match="recipe: this engine needs the whole song first; use separ"):
                separator.stream([mix], rate)
        else:
            got = list(separator.stream([mix[:, at : at + 700] for at in range(0, 20_011, 700)], rate))
            for stem, whole in want.items():
                np.testing.assert_array_equal(np.concatenate([b[stem] for b in got], axis=1), whole)


def test_a_mono_song_is_doubled_around_the_whole_recipe(opened, several, song):
    mono = song(9000, 1)
    want = separated(opened, several, np.repeat(mono, 2, axis=0))
    got = separated(opened, several, mono)
    for stem in ("out", "kept", "r"):
        np.testing.assert_array_equal(got[stem], want[stem].mean(axis=0, keepdims=True))


def test_a_run_asked_for_twice_runs_once(opened, put, write, song):
    put("a", stems=("vocals", "drums"))
    step = '[[steps]]\nmake = "{}"\nrun = "a"\non = "mix"\nstem = "{}"\n{}'
    steps = [
        step.format("v", "vocals", ""),
        step.format("d", "drums", ""),
        step.format("i", "instrumental", ""),
        step.format("w", "drums", 'augment = ["invert", "plain"]'),
        step.format("x", "vocals", "").replace('"a"', '"again"'),  # the same engine by another name
    ]
    path = write(
        '[engines]\na = "a.json"\nagain = "a.json"\n'
        + "\n".join(steps)
        + "\n[outputs]\nx = {v = 1, d = 1, i = 1, w = 1, x = 1}"
    )
    with opened(path) as separator:
        (engine,) = separator._model.engines
        calls, run = [], engine.run
        engine.run = lambda inputs: calls.append(1) or run(inputs)
        separator.separate(song(1000), RATE)
    assert len(calls) == 2  # plain and inverted


def test_shifts_are_drawn_for_every_run_and_the_same_every_time(opened, put, write, song, tmp_path):
    """On an engine that makes of -x what it makes of x, less its sign: only the draws can differ."""
    made = put("a")
    made.write_text(made.read_text().replace('"scheme": "fade"', '"scheme": "triangular"'))
    (tmp_path / "same.json").write_text(made.read_text())
    step = '[[steps]]\nmake = "{}"\nrun = "{}"\non = "mix"\nstem = "vocals"\naugment = ["{}"]\n{}'
    shifts = "shifts = 1\n"
    write(
        '[engines]\na = "a.json"\n'
        + step.format("x", "a", "plain", shifts)
        + step.format("y", "a", "invert", shifts)
        + '[outputs]\nx = "x"\ny = "y"',
        "inner.toml",
    )
    runs = [("p", "a", "plain"), ("q", "a", "invert"), ("r", "a", "plain"), ("s", "same", "plain")]
    nested = step.format("u", "inner", "plain", "") + step.format("v", "inner", "invert", "")
    path = write(
        '[engines]\na = "a.json"\nsame = "same.json"\ninner = "inner.toml"\n'
        + "".join(step.format(*run, shifts) for run in runs)
        + nested.replace('stem = "vocals"', 'stem = "x"')
        + "[outputs]\n"
        + "".join(f'{name} = "{name}"\n' for name in "pqrsuv")
    )
    mix = song(9000)
    got = separated(opened, path, mix)
    np.testing.assert_array_equal(got["p"], alone(opened, made, mix, "vocals", shifts=1))
    np.testing.assert_array_equal(got["r"], got["p"])  # the same run
    different = [got[name] for name in "pqsuv"]
    for i, one in enumerate(different):
        assert not any(np.array_equal(one, other) for other in different[:i])
    for low_memory in (False, True):
        again = separated(opened, path, mix, low_memory=low_memory)
        assert all(np.array_equal(again[name], stem) for name, stem in got.items())


@pytest.mark.parametrize(("drop", "kept"), [(60, "wet"), (0.01, "dry")])
def test_a_guard_takes_one_or_the_other(opened, put, write, song, drop, kept):
    put("a")
    path = write(
        '[engines]\na = "a.json"\n[[steps]]\nmake = "wet"\nrun = "a"\non = "mix"\nstem = "vocals"\n'
        f'[[steps]]\nmake = "g"\nguard = ["mix", "wet"]\ndrop_db = {drop}\n[outputs]\ng = "g"\nwet = "wet"'
    )
    mix = song(9000)
    got = separated(opened, path, mix)
    np.testing.assert_array_equal(got["g"], got["wet"] if kept == "wet" else mix)


def test_levels_are_those_of_all_samples():
    samples = np.random.default_rng(0).normal(0, 0.1, (2, 70_000)).astype(np.float32)
    with Spool() as spool:
        for begin in range(0, 70_000, 999):
            spool.write(3, samples[:, begin : begin + 999])
        want = 20 * np.log10(np.sqrt(np.mean(samples.astype(np.float64) ** 2)) + 1e-10)
        assert level_db(spool, 3) == pytest.approx(want, abs=1e-9)
        np.testing.assert_array_equal(np.concatenate(list(spool.read(3)), axis=1), samples)


def test_a_recipe_within_a_recipe(opened, several, write, song):
    outer = write(
        'residual = "left"\n[engines]\ninner = "recipe.toml"\n'
        '[[steps]]\nmake = ["o", "q"]\nrun = "inner"\non = "mix"\nstem = ["out", "rest"]\n'
        '[[steps]]\nmake = "x"\nrun = "inner"\non = "o"\nstem = "kept"\n'
        '[outputs]\no = "o"\nx = "x"\nq = "q"\n',
        "outer.toml",
    )
    mix = song(20_011)
    first = separated(opened, several, mix)
    want = separated(opened, several, first["out"])["kept"]
    for low_memory in (False, True):
        got = separated(opened, outer, mix, low_memory=low_memory)
        np.testing.assert_array_equal(got["o"], first["out"])
        np.testing.assert_array_equal(got["q"], first["rest"])
        np.testing.assert_array_equal(got["x"], want)


# What the caller sees


def test_progress_is_one_figure_and_covers_all_passes(opened, several, song):
    seen = []
    with opened(several) as separator:
        separator.separate(song(40_000), RATE, Options(progress=seen.append))
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert done[0] < 0.5 * done[-1]
    assert done[-1] == seen[-1].total == 40_000 / RATE
    assert len({round(d, 3) for d in done}) > 4


@pytest.mark.parametrize("after", [1, 12])
def test_cancelled_in_any_pass_it_leaves_nothing(opened, several, song, tmp_path, monkeypatch, after):
    soundfile.write(tmp_path / "mix.wav", song(60_000).T, RATE)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    cancel, seen = threading.Event(), []

    def progress(found):
        seen.append(found)
        if len(seen) == after:
            cancel.set()

    with opened(several) as separator:
        with pytest.raises(CancelledError, match="recipe: cancelled"):
            separator.separate_file(
                tmp_path / "mix.wav", tmp_path / "out", Options(cancel=cancel, progress=progress)
            )
        assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
        assert not list((tmp_path / "tmp").iterdir())
        assert not spools_of(tmp_path / "tmp")


def spools_of(folder):
    """The open files of this process in a folder, which have no names."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(descriptor.readlink()))
    return [file for file in found if file.startswith(f"{folder}/")]


def test_resume_goes_by_steps_and_engines_not_by_comments(opened, put, several, song, tmp_path):
    soundfile.write(tmp_path / "mix.wav", song(9000).T, RATE)
    text = several.read_text()

    def skipped(changed=text, **options):
        several.write_text(changed)
        with opened(several, **options) as separator:
            return separator.separate_file(
                tmp_path / "mix.wav", tmp_path / "out", Options(resume=True)
            ).skipped

    assert not skipped()
    assert skipped("# a comment\n" + text.replace('"kept"\nr = ', '"kept" # and here\nr = '))
    assert skipped(low_memory=True)
    assert not skipped(text.replace("0.125", "0.25"))
    assert skipped(text.replace("0.125", "0.25"))
    put("n", normalize=True, overlap=0.75)
    assert not skipped(text.replace("0.125", "0.25"))


def test_the_command_line_tells_the_seconds_of_every_engine(several, song, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "n", "low"):
        described = Path(f"{name}.json")
        described.write_text(described.read_text().replace('"name": "level"', f'"name": "{name}"'))
    soundfile.write("mix.wav", song(9000).T, RATE)
    with pytest.raises(SystemExit) as stop:
        main(["--engine", "recipe.toml", "mix.wav", "--backend", "onnxruntime", "--low-memory", "--json"])
    out, err = capsys.readouterr()
    assert stop.value.code == 0
    told = json.loads(out)
    assert set(told["stems"]) == {"out", "kept", "r", "rest"}
    assert set(told["engines"]) == {"a", "n", "low"}
    assert all(0 < seconds < told["elapsed"] for seconds in told["engines"].values())
    assert err.startswith("recipe.toml: onnxruntime, cpu, fp32\n")


def test_scheme_and_overlap_go_to_the_runs_that_leave_them_open(
    opened, several, single, song, tmp_path, put, write
):
    mix = song(9000)
    with opened(several) as separator:
        kept = separator.separate(mix, RATE, Options(overlap=0.75))["kept"]
    dry = alone(opened, tmp_path / "a.json", mix, "vocals", overlap=0.75)
    np.testing.assert_array_equal(kept, alone(opened, tmp_path / "low.json", dry, "vocals", overlap=0.75))
    with opened(several) as separator, pytest.raises(UsageError, match="level: scheme fade has no shifts"):
        separator.check(Options(shifts=1))
    with opened(single) as separator, pytest.raises(UsageError, match="own scheme, overlap and shifts; le"):
        separator.check(Options(overlap=0.75))


@pytest.mark.parametrize("which", ["single", "several"])
def test_memory_does_not_grow_with_the_song(opened, request, which, song):
    """Arrays on the way, of songs that are read block by block: only the results grow."""
    path = request.getfixturevalue(which)
    noise = song(RATE)

    def peak(separator, seconds, folder):
        soundfile.write(folder / f"{seconds}.wav", np.tile(noise, seconds).T, RATE)
        tracemalloc.start()
        try:
            separator.separate_file(folder / f"{seconds}.wav", folder / "out")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    with opened(path) as separator:
        peak(separator, 5, path.parent)
        assert peak(separator, 25, path.parent) < 1.1 * peak(separator, 8, path.parent)


def test_an_abandoned_separation_frees_its_spools(opened, several, song, tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    with opened(several) as separator:
        blocks = ((None, song(1000, seed=i)) for i in range(20))
        estimates = separator._model.estimator(None, None)(blocks, Watch("x"))
        next(estimates)
        assert spools_of(tmp_path / "tmp")
        estimates.close()
        assert not spools_of(tmp_path / "tmp")


def test_swapped_channels_are_swapped_back(opened, put, write, song):
    """On an engine that hears only what is left; polarity is proved by test_systems.py."""
    put("a", "half")
    text = '[engines]\na = "a.json"\n[[steps]]\nmake = "v"\nrun = "a"\non = "mix"\nstem = "vocals"\n'
    path, mix = write(f'{text}augment = ["swap"]\n[outputs]\nv = "v"'), song(9000)
    with opened(path) as separator:
        (engine,) = separator._model.engines
        run, left = engine.run, np.float32([1, 0])[:, None, None, None]
        engine.run = lambda inputs: {"stems": run(inputs)["stems"] * left}
        got = separator.separate(mix, RATE)["v"]
    np.testing.assert_allclose(got[1], mix[1] / 2, atol=1e-5)
    assert not got[0].any()


def test_engines_of_a_recipe_and_of_recipes_within_it_take_turns(put, write, opened, song, monkeypatch):
    """Three at once on two cores cost more than one after the other."""
    put("a")
    put("b", "half")
    step = '[[steps]]\nmake = "{0}"\nrun = "{0}"\non = "mix"\nstem = "vocals"\n'
    write('[engines]\nb = "b.json"\n' + step.format("b") + '[outputs]\nvocals = "b"\n', "inner.toml")
    recipe = write(
        '[engines]\na = "a.json"\ninner = "inner.toml"\n'
        + step.format("a")
        + step.format("inner")
        + "[outputs]\nvocals = { a = 1, inner = 1 }\n"
    )
    running, most, run = [], [], CpuEngine.run

    def slow(engine, inputs):
        running.append(engine)
        most.append(len(running))
        time.sleep(0.01)
        running.pop()
        return run(engine, inputs)

    monkeypatch.setattr(CpuEngine, "run", slow)
    with opened(recipe) as separator:
        separator.separate(song(40_000), RATE)
    assert len(most) > 20
    assert set(most) == {1}
