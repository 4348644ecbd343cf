"""Every mistake of a recipe in one report, each with its line, before any sound is read."""

import pytest

from rofo import EngineLoadError, RecipeError, Separator
from rofo.recipes.lines import line_numbers
from rofo.recipes.read import read_recipe

GOOD = """\
name = "good"
[engines]
a = "a.json"
[[steps]]
make = "v"
run = "a"
on = "mix"
stem = "Vocals"
[outputs]
vocals = "v"
"""


def mistakes(path):
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    error = caught.value
    assert isinstance(error, EngineLoadError)
    assert error.exit_code == 4
    text = str(error)
    assert text.startswith(f"{path}: ")
    assert text.endswith("; mend the recipe")
    assert "\n" not in text
    told: dict[int, str] = {}
    for line, words in error.mistakes:
        told[line] = f"{told.get(line, '')} {words}"
    return told


def test_a_missing_engine_hides_no_mistake_of_its_run(write):
    run = 'on = "mix"\noverlap = 1.5\nscheme = "fad"\nshifts = -1'
    told = mistakes(write(GOOD.replace('on = "mix"', run)))
    assert "a.json is missing" in told[3]
    assert told[8] == " is 1.5, not 0 or more and below 1"
    assert told[9].startswith(" is 'fad', not one of fade, ")
    assert told[10] == " is -1, less than 0"


def test_a_name_that_no_file_can_have_is_one_that_is_missing(write):
    long = f"{'a' * 300}.json"
    assert f"engine a: {long} is missing" in mistakes(write(GOOD.replace("a.json", long)))[3]


def test_what_a_recipe_says(put, write):
    put("a")
    recipe = read_recipe(write(GOOD))
    assert (recipe.name, recipe.sample_rate, recipe.channels) == ("good", 44100, 2)
    assert (recipe.stems, recipe.residual, recipe.outputs) == (("vocals",), None, ("v",))


ALL_AT_ONCE = """\
nmae = "x"
sample_rate = "fast"

[engines]
a = "a.json"
out = "../out.json"
gone = { file = "gone.json", checkpoint = "gone.ckpt", export = "--chunk 8" }
graph = "a.onnx"

[[steps]]
make = "v"
run = "a"
on = "mix"
stem = "bass"
overlap = 1.5

[[steps]]
make = "later"
sum = { after = 1, ghost = 1 }
[[steps]]
make = ["v", "after"]
run = "a"
on = "mix"
stem = ["vocals", "instrumental"]
[[steps]]
make = "self"
sum = { self = 1, v = "much" }
[[steps]]
make = "own"
clip = "own"
[[steps]]
make = "x"
sing = "v"
[[steps]]
make = "y"
clip = "v"
sum = { v = 1 }
[[steps]]
make = "mix"
run = "nobody"
on = "mix"
stem = "s"
shift = 2
[[steps]]
make = "c"
combine = "mean"
on = ["v"]
domain = "time"
weights = [inf]

[outputs]
"a/b" = "v"
bad = { v = nan }
none = "nothing"
later = "later"
own = "own"
c = "c"
"""


def test_every_mistake_is_told_with_its_line(put, write):
    put("a")
    with pytest.raises(RecipeError) as caught:
        read_recipe(write(ALL_AT_ONCE))
    told = [f"{line}: {words}" for line, words in caught.value.mistakes]
    for expected in (
        "1: unknown key 'nmae'; there are name, source, sample_rate, channels, residual",
        "2: sample_rate is 'fast', not a whole number",
        "6: engine out: '../out.json' leaves the recipe's folder",
        "7: engine gone: gone.json is missing; make it: rofo-export gone.ckpt --chunk 8 --output gone",
        "8: engine graph: 'a.onnx' is no .json, nor a recipe",
        "14: engine a has no stem 'bass'; it has vocals, instrumental",
        "15: level: overlap is 1.5, not 0 or more and below 1; choose another scheme or overlap, or leave both out",  # noqa: E501
        "17: uses after before it is made, on line 21",
        "17: there is no signal 'ghost'",
        "21: v is made twice, first on line 11",
        "27: sum is {'self': 1, 'v': 'much'}, not a table of numbers",
        "28: makes own out of itself",
        "31: the step is none of run, sum, combine, clip, guard, quietest, matrix",
        "34: the step is clip and sum at once",
        "43: unknown key 'shift'; there are make, run, on, stem, overlap, scheme, shifts, augment",
        "49: weights is [inf], not a list of numbers",
        "53: sum is {'v': nan}, not a table of numbers",
        "54: there is no signal 'nothing'",
    ):
        assert any(expected in line for line in told), (expected, told)
    assert [line for line, _ in caught.value.mistakes] == sorted(line for line, _ in caught.value.mistakes)


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (('stem = "Vocals"', 'stem = ["vocals", "instrumental"]'), 8, "names 2 stems for 1 signals"),
        (('on = "mix"', 'on = "mix"\nscheme = "trim"\noverlap = 0.5'), 8, "scheme trim has no overlap"),
        (('on = "mix"', 'on = "mix"\nscheme = "tirm"'), 8, "scheme is 'tirm', not one of"),
        (('on = "mix"', 'on = "mix"\naugment = ["up"]'), 8, "'up' is none of plain, invert, swap"),
        (('on = "mix"', 'on = "mix"\naugment = []'), 8, "names one augmentation or more, each once"),
        (('on = "mix"', 'on = "mix"\nshifts = 1'), 8, "scheme fade has no shifts, and 1 are asked for"),
        (('on = "mix"', 'on = "mix"\nshifts = -1'), 8, "is -1, less than 0"),
        (('run = "a"', 'run = "b"'), 6, "there is no engine 'b'; [engines] has a"),
        (('[outputs]\nvocals = "v"\n', ""), 1, "needs a table [outputs]"),
        (('vocals = "v"', 'vocals = "v"\nVOCALS = "v"'), 9, "stem names repeat"),
        (('vocals = "v"', "vocals = {}"), 10, "names no signal"),
        (('vocals = "v"', 'vocals = "mix"'), 5, "nobody uses v"),
        (("[engines]", "channels = 3\n[engines]"), 2, "channels is 3, not 1 or 2"),
        (('a = "a.json"', "a = 3"), 3, "engine a is 3, not a file or a table"),
        (('a = "a.json"', 'a = "/tmp/a.json"'), 3, "leaves the recipe's folder"),
        (
            ('a = "a.json"', f'a = {{ file = "a.json", sha256 = "{"1" * 64}" }}'),
            3,
            "is of another checkpoint",
        ),
        (('a = "a.json"', 'a = { file = "a.json", sha256 = "AB" }'), 3, "'AB' is no sha256, 64 small hexa"),
        (('a = "a.json"', f'a = {{ file = "a.toml", sha256 = "{"1" * 64}" }}'), 3, "drop sha256"),
        (('make = "v"', 'make = "mix"'), 5, "'mix' cannot name a signal"),
        (('make = "v"', 'make = ["v", "v"]'), 5, "v is made twice"),
    ],
)
def test_one_mistake(put, write, change, line, said):
    put("a")
    told = mistakes(write(GOOD.replace(*change)))
    assert said in told[line], told


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ('guard = ["v"]\ndrop_db = 3', "compares two signals, and 1 are named"),
        ('guard = ["v", "mix"]', "lacks drop_db"),
        ('quietest = ["v"]', "compares two signals or more"),
        ('clip = "v"\nlimit = 0', "is 0.0, not above 0"),
        ('sum = { v = 1 }\ndivide = 0', "is 0"),
        ('matrix = [[1, 2]]\non = ["v", "mix"]', "is not 2 rows of 4 numbers"),
        ('combine = "max"\non = ["v", "mix"]\nweights = [1, 2]', "are for the average, not for max"),
        ('combine = "average"\non = ["v", "mix"]\nweights = [1, -1]', "are not 2 numbers whose sum is not 0"),
        ('combine = "average"\non = ["v"]', "names fewer than two signals"),
    ],
)  # fmt: skip
def test_one_mistake_of_a_step(put, write, step, said):
    put("a")
    text = GOOD.replace("[outputs]", f'[[steps]]\nmake = "w"\n{step}\n[outputs]\nw = "w"')
    assert said in " ".join(mistakes(write(text)).values())


def test_rates_that_do_not_meet(put, write):
    put("a")
    put("b", sample_rate=48000)
    two = GOOD.replace("[[steps]]", 'b = "b.json"\n[[steps]]', 1)
    two = two.replace(
        "[outputs]", '[[steps]]\nmake = "w"\nrun = "b"\non = "v"\nstem = "vocals"\n[outputs]\nw = "w"'
    )
    assert "its engines have 44100 Hz, 48000 Hz; say the recipe's own rate" in mistakes(write(two))[1]
    assert read_recipe(write("sample_rate = 48000\n" + two)).sample_rate == 48000


def test_recipes_that_use_each_other(put, write):
    put("a")
    other = GOOD.replace("a.json", "recipe.toml").replace("Vocals", "vocals")
    write(other, "other.toml")
    told = mistakes(write(GOOD.replace('"a.json"', '"other.toml"')))
    assert "other.toml: line 3: engine a: recipe.toml is a recipe that this one is a part of" in told[3]
    write(GOOD, "other.toml")
    inner = GOOD.replace('"a.json"', '"other.toml"').replace("on =", "overlap = 0.5\non =")
    assert (
        "good is several engines with their own; leave scheme, overlap and shifts out"
        in mistakes(write(inner))[7]
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[engines\n", "no TOML: "),
        (b"name = " + b"[" * 2000, "no recipe: brackets within brackets without end"),
        (b"\xff", "cannot be read: no UTF-8"),
        (b"", "needs a table [outputs]"),
        (b"steps = 3\n[outputs]\na = 'mix'", "steps are tables [[steps]]"),
        (b"engines = [1]\n[outputs]\na = 'mix'", "needs a table [engines]"),
    ],
)
def test_files_that_are_no_recipes(tmp_path, text, said):
    path = tmp_path / "recipe.toml"
    path.write_bytes(text)
    assert said in " ".join(mistakes(path).values())


def test_a_manifest_that_cannot_be_read_is_told_by_name(put, write):
    put("a").write_text("{")
    assert "engine a: " in mistakes(write(GOOD))[3]
    assert "not a readable manifest" in mistakes(write(GOOD))[3]


def test_engines_are_closed_when_one_cannot_be_opened(put, write, monkeypatch):
    put("a")
    put("b")
    path = write(
        GOOD.replace("[[steps]]", 'b = "b.json"\n[[steps]]', 1).replace(
            "[outputs]", '[[steps]]\nmake = "w"\nrun = "b"\non = "v"\nstem = "vocals"\n[outputs]\nw = "w"'
        )
    )
    path.with_name("b.onnx").unlink()
    closed = []
    monkeypatch.setattr("rofo.model.EngineModel.close", lambda self: closed.append(self.manifest.name))
    with pytest.raises(EngineLoadError, match="no such engine"):
        Separator(path, backend="onnxruntime")
    assert len(closed) == 1


def test_lines_of_everything_that_toml_can_write():
    text = '''\
# a comment with [brackets] and = signs
top = """
[not.a.table]
key = 1
"""
"quoted key" = [
  [1, 2],  # = ]
  [3, 4],
]
inline = { a = 1, b.c = "]" }

[engines.kim]  # a table
file = "x"
sub.deep = 'y = 3'
[[steps]]
make = [
  "a",
]
[steps.more]
x = 1
[[steps]]
make = "b"
[[steps]]
sum = { a = 1 }
'''
    assert {place: line for place, line in line_numbers(text).items() if place} == {
        ("top",): 2,
        ("quoted key",): 6,
        ("inline",): 10,
        ("inline", "a"): 10,
        ("inline", "b"): 10,
        ("inline", "b", "c"): 10,
        ("engines", "kim"): 12,
        ("engines", "kim", "file"): 13,
        ("engines", "kim", "sub"): 14,
        ("engines", "kim", "sub", "deep"): 14,
        ("steps", 0): 15,
        ("steps", 0, "make"): 16,
        ("steps", 0, "more"): 19,
        ("steps", 0, "more", "x"): 20,
        ("steps", 1): 21,
        ("steps", 1, "make"): 22,
        ("steps", 2): 23,
        ("steps", 2, "sum"): 24,
        ("steps", 2, "sum", "a"): 24,
    }


def test_the_command_lines_tell_mistakes_line_by_line(put, write, capsys, monkeypatch):
    from rofo.cli import main

    put("a")
    path = write(GOOD.replace("Vocals", "bass").replace('"v"\n', '"w"\n', 1))
    with pytest.raises(SystemExit) as stop:
        main(["--engine", str(path), "no.wav"])
    assert stop.value.code in (3, 4)
    path.with_name("no.wav").write_bytes(b"")
    with pytest.raises(SystemExit) as stop:
        main(["--engine", str(path), str(path.with_name("no.wav"))])
    assert stop.value.code == 4
    lines = capsys.readouterr().err.splitlines()
    assert f"error: {path}:8: engine a has no stem 'bass'; it has vocals, instrumental" in lines
    assert f"error: {path}:10: there is no signal 'v'" in lines


def test_the_exporter_tells_what_is_there_and_how_the_rest_is_made(put, write, capsys):
    from rofo.export.cli import main

    put("a")
    sha256 = "ab" * 32
    made = f'checkpoint = "gone.ckpt", sha256 = "{sha256}", export = "--chunk 8"'
    extra = f'gone = {{ file = "gone.json", {made} }}\n'
    path = write(GOOD.replace("[[steps]]", f"{extra}[[steps]]", 1))
    with pytest.raises(SystemExit) as stop:
        main([str(path)])
    out, err = capsys.readouterr()
    command = f"rofo-export gone.ckpt --sha256 {sha256} --chunk 8 --output gone"
    assert stop.value.code == 4
    assert out.splitlines() == [f"{path.with_name('a.json')}: there", command]
    assert err == f"error: {path}:4: engine gone: gone.json is missing; make it: {command}\n"
    path.write_text(GOOD)
    with pytest.raises(SystemExit) as stop:
        main([str(path)])
    assert stop.value.code == 0
    assert capsys.readouterr().err == f"{path}: vocals at 44100 Hz\n"
