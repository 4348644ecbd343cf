"""The wheel: exactly the packages, typed, with the catalogue; and it runs from where it is put."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
import soundfile

ROOT = Path(__file__).parents[1]
TOPS = {
    "rofo": "runtime",
    "rofo/export": "export",
    "rofo/benchmarks": "benchmarks",
    "rofo/checkpoints": "checkpoints",
}


def folders():
    """{package in the wheel: folder in the tree}, every folder with Python files; data and tests left out."""
    found = {}
    for package, top in TOPS.items():
        for path in (ROOT / top).rglob("__init__.py"):
            inside = path.parent.relative_to(ROOT / top).as_posix()
            found[package if inside == "." else f"{package}/{inside}"] = path.parent.relative_to(
                ROOT
            ).as_posix()
    return found


FOLDERS = folders()
DATA = {"rofo/py.typed"} | {
    f"rofo/checkpoints/{file}" for file in ("catalogue.json", "demo/mix.flac", "demo/LICENSES.md")
}
BUILD = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the working tree, built from a copy: what other builds left behind must not get in."""
    tree = tmp_path_factory.mktemp("tree")
    for name in {folder.partition("/")[0] for folder in FOLDERS.values()} | {"tests"}:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(out)], cwd=tree, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def content(wheel):
    """{name: bytes} of the files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_exactly_the_packages_are_shipped(content):
    modules = {
        f"{package}/{path.name}"
        for package, folder in FOLDERS.items()
        for path in (ROOT / folder).glob("*.py")
    }
    shipped = {name for name in content if ".dist-info/" not in name}
    assert shipped == modules | DATA
    assert {
        "rofo/separator.py",
        "rofo/engines/openvino.py",
        "rofo/export/families/roformer/network.py",
    } < shipped
    unwanted = re.compile(r"\btests?\b|/demo/|\.(flac|wav|onnx|ckpt)$")
    assert not [name for name in shipped - DATA if unwanted.search(name)]
    # What int8 is calibrated on has a licence of its own, which goes with it.
    assert b"mix.flac | CC BY-SA 3.0" in content["rofo/checkpoints/demo/LICENSES.md"]


def test_every_package_of_the_tree_is_listed():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    mapped = dict(line.split(" = ") for line in config["options"]["package_dir"].split("\n") if line)
    assert {name.replace(".", "/"): folder for name, folder in mapped.items()} == FOLDERS
    listed = {line for line in config["options"]["packages"].split("\n") if line}
    assert {name.replace(".", "/") for name in listed} == set(FOLDERS)


def test_metadata_and_scripts(content):
    (info,) = {name.partition("/")[0] for name in content if ".dist-info/" in name}
    metadata = content[f"{info}/METADATA"].decode()
    required = set(re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", metadata, re.MULTILINE))
    assert required == {"numpy", "soundfile", "soxr", "click"}
    assert {"cpu", "ort", "export", "dev"} <= set(
        re.findall(r"^Provides-Extra: (.*)$", metadata, re.MULTILINE)
    )
    assert re.search(r"^License(-Expression)?: MIT$", metadata, re.MULTILINE)
    assert f"{info}/licenses/LICENSE" in content
    scripts = content[f"{info}/entry_points.txt"].decode()
    assert "rofo-run = rofo.cli:main" in scripts
    assert "rofo-export = rofo.export.cli:main" in scripts


RUN = """
import json, sys
sys.path.insert(0, sys.argv[1])
import rofo
with rofo.Separator(sys.argv[2]) as separator:
    print(json.dumps([rofo.__file__, sorted(separator.separate_file(sys.argv[3], sys.argv[4]))]))
"""


def test_the_wheel_separates_a_song(wheel, make_engine, song, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    soundfile.write(tmp_path / "mix.wav", song(5000).T, 44100)
    paths = [tmp_path / "site", make_engine(), tmp_path / "mix.wav", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, paths)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        str(tmp_path / "site/rofo/__init__.py"),
        ["instrumental", "vocals"],
    ]
