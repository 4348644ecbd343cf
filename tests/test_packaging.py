"""The wheel: exactly the packages, typed, with the catalogue; and it runs from where it is put."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
import soundfile

import rofo

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
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def build(kind, tree, out):
    done = subprocess.run(
        [sys.executable, "-c", BUILD, f"build_{kind}", str(out)],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the sdist of a copy of the tree: what other builds left there must not get in."""
    tree = tmp_path_factory.mktemp("tree")
    for name in {folder.partition("/")[0] for folder in FOLDERS.values()} | {"tests"}:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    out = tmp_path_factory.mktemp("built")
    with tarfile.open(build("sdist", tree, out)) as archive:
        archive.extractall(out, filter="data")
    (unpacked,) = (path for path in out.iterdir() if path.is_dir())
    return build("wheel", unpacked, out)


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


EXPORT = """
import sys
sys.path.insert(0, sys.argv[1])
from rofo.export import cli
assert cli.__file__.startswith(sys.argv[1])
cli.main([*sys.argv[2:], "--target", "onnx", "--output", "here/voice"])
"""


def test_the_wheel_exports_a_checkpoint(wheel, checkpoint, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    file, config = checkpoint
    done = subprocess.run(
        [sys.executable, "-c", EXPORT, str(tmp_path / "site"), file, "--config", config],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(Path("here/voice.onnx")), str(Path("here/voice.json"))]


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


# In an environment of its own, `make installed`: downloads 50 MB


@pytest.fixture(scope="module")
def oldest(wheel, tmp_path_factory):
    """Call a script of an environment that has the wheel, onnxruntime and nothing newer than it must be."""
    folder = tmp_path_factory.mktemp("oldest")
    bounds = re.findall(r"^    ([\w-]+)>=([\w.]+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    (folder / "constraints.txt").write_text("".join(f"{name}=={version}\n" for name, version in bounds))
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    scripts = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin")

    def call(script, *arguments, cwd=folder, status=0):
        done = subprocess.run(
            [scripts / script, *arguments], cwd=cwd, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
        return done

    call("pip", "install", "--constraint", folder / "constraints.txt", f"{wheel}[ort]")
    return call


@pytest.mark.installed
def test_the_oldest_libraries_allowed_are_what_is_installed(oldest):
    versions = dict(line.split("==") for line in oldest("pip", "freeze", "--exclude", "rofo").stdout.split())
    assert not {"torch", "onnx", "openvino", "scipy"} & set(versions)
    assert {versions[name] for name in ("numpy", "click", "soxr")} == {"2.0.0", "8.1.0", "1.0.0"}
    assert oldest("pip", "check").stdout == "No broken requirements found.\n"


@pytest.mark.installed
def test_the_demo_engine_does_there_what_it_does_here(oldest, tmp_path):
    demo = ROOT / "checkpoints" / "demo"
    for file in ("engine.onnx", "engine.json", "mix.flac"):
        shutil.copy(demo / file, tmp_path)
    done = oldest("rofo-run", "--engine", "engine.onnx", "mix.flac", cwd=tmp_path)
    assert done.stdout.split() == [str(Path("separated/mix") / name) for name in ("voice.flac", "music.flac")]
    with rofo.Separator(tmp_path / "engine.onnx", backend="onnxruntime") as separator:
        here = separator.separate_file(tmp_path / "mix.flac", tmp_path / "here")
    for stem, path in here.items():
        there, _ = soundfile.read(tmp_path / "separated" / "mix" / path.name, dtype="int16")
        assert abs(soundfile.read(path, dtype="int16")[0].astype(int) - there).max() <= 1, stem


@pytest.mark.installed
def test_what_needs_pytorch_says_so_and_the_catalogue_does_not(oldest):
    assert "MelBandRoformer " in oldest("rofo-export", "--list", "kim").stdout
    refused = oldest("rofo-export", ROOT / "checkpoints" / "demo" / "model.ckpt", status=2).stderr
    assert refused == "error: torch is not installed; pip install 'rofo[export]'\n"
    recipe = oldest("rofo-export", ROOT / "checkpoints" / "recipes" / "htdemucs_ft.toml", status=4).stdout
    assert "rofo-export" in recipe
