import json

import pytest

from rofo.export.errors import CheckpointError
from rofo.export.source.yaml_config import load_yaml

# The layout of the field's files, with the tags and numbers that trip a plain loader.
MODEL = """
audio:
  chunk_size: 4096
model:
  dim: 16
  freqs_per_bands: !!python/tuple
    - 2
    - 31
  multi_stft_resolutions_window_sizes: !!python/tuple [4096, 2048]
  stft_normalized: False   # a comment
training:
  lr: 1e-5
  wd: 5.0e-05
  instruments: ['vocals', other]
  target_instrument: null
"""


def write(tmp_path, content):
    path = tmp_path / "model.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(path, pattern):
    with pytest.raises(CheckpointError, match=pattern) as caught:
        load_yaml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_the_layout_of_the_field(tmp_path):
    assert load_yaml(write(tmp_path, MODEL)) == {
        "audio": {"chunk_size": 4096},
        "model": {
            "dim": 16,
            "freqs_per_bands": [2, 31],
            "multi_stft_resolutions_window_sizes": [4096, 2048],
            "stft_normalized": False,
        },
        "training": {
            "lr": 1e-5,
            "wd": 5e-5,
            "instruments": ["vocals", "other"],
            "target_instrument": None,
        },
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("-2E+3", -2000.0),
        (".5e1", 5.0),
        ("1.e2", 100.0),
        ("'1e-5'", "1e-5"),
        ("1e5x", "1e5x"),
        ("485_100", 485100),
        ("2024-01-01", "2024-01-01"),
        (".nan", "nan"),
        ("-.inf", "-inf"),
        ("yes", True),
        ("=", "="),
        ("!!python/tuple []", []),
    ],
)
def test_scalars(tmp_path, text, value):
    loaded = load_yaml(write(tmp_path, f"key: {text}\n"))["key"]
    assert loaded == value
    assert type(loaded) is type(value)


def test_everything_loaded_is_strict_json(tmp_path):
    data = load_yaml(write(tmp_path, "2: .nan\ntrue: .inf\nother: [2001-12-14, !!python/tuple [1, [2.5]]]\n"))
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert set(data) == {"2", "True", "other"}


def test_aliases_and_merges_of_sane_size_work(tmp_path):
    text = "base: &base {a: 1, b: 2}\nmore:\n  <<: *base\n  b: 3\nlist: [*base]\n"
    data = load_yaml(write(tmp_path, text))
    assert data["more"] == {"a": 1, "b": 3}
    assert data["list"] == [{"a": 1, "b": 2}]


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch {marker}']",
        "!!python/object/new:os.system ['touch {marker}']",
        "!!python/name:os.system ''",
        "!!python/module:os ''",
        "!!python/object:builtins.object {{}}",
        "!!binary aGk=",
        "!!set {{a, b}}",
        "!custom 1",
    ],
)
def test_odd_tags_are_refused_by_name_and_do_nothing(tmp_path, tag):
    marker = tmp_path / "marker"
    text = tag.format(marker=marker)
    name = text.split()[0].removeprefix("!!")
    refused(write(tmp_path, f"model: {text}\n"), f"the tag '{name}'")
    assert not marker.exists()


def bomb(alias_of_previous):
    levels = "\n".join(
        f"l{i}: &l{i} {alias_of_previous.format(', '.join([f'*l{i - 1}'] * 10))}" for i in range(1, 20)
    )
    return f"l0: &l0 {{k: 1}}\n{levels}\n"


@pytest.mark.parametrize("form", ["[{}]", "{{<<: [{}]}}"], ids=["lists", "merges"])
def test_billion_laughs_are_refused_before_they_expand(tmp_path, form):
    refused(write(tmp_path, bomb(form)), "aliases that expand to more than 20000")


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        ("", "not a mapping"),
        ("- 1\n- 2\n", "not a mapping"),
        ("just text\n", "not a mapping"),
        ("a: [1\n", "not valid yaml .line 2"),
        ("a: 1\n---\nb: 2\n", "not valid yaml"),
        ("a: *nowhere\n", "not valid yaml .line 1: found undefined alias"),
        ("? [1]\n: 2\n", "unhashable"),
        ("a: &a [*a]\n", "nested more than 50"),
        ("a: " + "[" * 60 + "]" * 60, "nested more than 50"),
        ("[" * 100_000, "not a model's yaml"),
        ("- 1\n" * 30_000, "more than 20000 entries"),
        ("a: " + "x" * 1_000_000, "over 1 MB"),
        ("a: !!bool perhaps\n", "not a model's yaml"),
        ("a: !!int perhaps\n", "not a model's yaml"),
        ("a: !!python/tuple 3\n", "a tuple that is not a list"),
        (b"\x80\x02}q\x00.", "not valid yaml"),
        (b"PK\x03\x04\x00\x00", "not valid yaml"),
    ],
    ids=lambda value: repr(value[:12]),
)
def test_what_is_not_a_models_yaml(tmp_path, content, pattern):
    refused(write(tmp_path, content), pattern)


def test_missing_file_and_directory(tmp_path):
    refused(tmp_path / "none.yaml", "No such file")
    refused(tmp_path, "directory")
