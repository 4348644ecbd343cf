"""The runtime needs no torch and no onnx: by what its files import, and by running without them."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

import rofo

FOLDER = Path(rofo.__file__).parent
MODULES = sorted(path for path in FOLDER.rglob("*.py"))
BACKENDS = {"openvino", "onnxruntime"}
GPU = {"cuda", "tensorrt", "tensorrt_rtx"}
NEEDED = {"numpy", "soundfile", "soxr", "click", "rofo"}


def imports(path):
    """(top-level package, rofo's subpackage or None, whether at import time) of every import in a file."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "import_quietly":
            names = [ast.literal_eval(node.args[0])]
        for name in names:
            yield name, id(node) not in inside


def test_there_is_something_to_scan():
    names = {path.name for path in MODULES}
    assert {"separator.py", "cli.py", "manifest.py", "openvino.py", "onnxruntime.py"} <= names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_only_these_packages_are_imported(path):
    for name, at_once in imports(path):
        package = name.partition(".")[0]
        allowed = NEEDED if at_once else NEEDED | BACKENDS | {"cuda", "av", "ray", "pyarrow", "fsspec"}
        if path == FOLDER / "serving" / "triton.py":  # read within Triton only
            allowed = NEEDED | {"triton_python_backend_utils"}
        assert package in sys.stdlib_module_names or package in allowed, f"{path}: imports {name}"
        assert not name.startswith(("rofo.export", "rofo.benchmarks", "rofo.checkpoints")), f"{path}: {name}"


@pytest.mark.parametrize(
    ("library", "file"), [*((name, name) for name in sorted(BACKENDS | {"cuda", "ray"})), ("av", "pyav")]
)
def test_an_optional_library_is_imported_by_one_file_only(library, file):
    users = [path.name for path in MODULES if library in {n.partition(".")[0] for n, _ in imports(path)}]
    assert users == [f"{file}.py"]


POISONED = """
import json, sys

class Poison:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {poisoned!r}:
            raise ImportError("poisoned: " + name)

sys.meta_path.insert(0, Poison())
import rofo
assert not {heavy!r} & set(sys.modules), "import rofo is not lean"
with rofo.Separator({engine!r}, backend={backend!r}) as separator:
    paths = separator.separate_file("mix.wav", "out")
print(json.dumps([paths["vocals"].stat().st_size, separator.backend]))
"""


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_a_song_is_separated_where_torch_and_onnx_cannot_be_imported(make_engine, song, tmp_path, backend):
    soundfile.write(tmp_path / "mix.wav", song(10_000).T, 48000, "PCM_16")
    (other,) = BACKENDS - {backend}
    poisoned = {
        "torch",
        "onnx",
        "onnxscript",
        "onnx_ir",
        "scipy",
        "librosa",
        "yaml",
        "einops",
        "safetensors",
        "av",
    }
    code = POISONED.format(
        poisoned=poisoned | GPU | {other},
        heavy={"numpy", "soundfile", "soxr", "av", *BACKENDS, *GPU},
        engine=str(make_engine()),
        backend=backend,
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [(tmp_path / "mix.wav").stat().st_size, backend]
