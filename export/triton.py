"""rofo-export --triton: a Triton model repository for an engine, a mixer or a recipe. Needs no PyTorch.

What is written here is for its owner to edit: config.pbtxt. What serves is rofo.serving.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rofo.engines.contract import Shapes
from rofo.errors import EngineMismatchError, UsageError
from rofo.export.staging import staging
from rofo.json_fields import encode
from rofo.manifest import (
    EngineFile,
    Manifest,
    MixerManifest,
    load_manifest,
    manifest_path,
    verify_file,
)
from rofo.recipes.read import read_recipe
from rofo.recipes.recipe import Recipe
from rofo.recipes.run import Run
from rofo.serving.repository import AUDIO, FILE, OPTIONS, REPORT, Network, Setup

VERSION = "1"
_MODEL = '''"""Written by rofo-export --triton."""

from rofo.serving.{module} import TritonPythonModel as TritonPythonModel
'''


@dataclass(frozen=True)
class ServingOptions:
    """What config.pbtxt begins with.

    `songs` are separated at a time, each in a process, and `queue` more wait; the next is refused, and so is
    one that waited `patience` seconds. A chunk waits `delay` microseconds for others to fill its batch.
    """

    songs: int = 2
    queue: int = 16
    patience: int = 300
    delay: int = 5_000


@dataclass(frozen=True)
class _Engine:
    """An engine file with its manifest, and the file of that, relative to the song model's folder."""

    folder: Path
    manifest: Manifest
    file: str
    entry: EngineFile

    @property
    def by_triton(self) -> bool:
        """Whether Triton's own backend runs it. That gathers into no batch that is fixed, as a plan's is, and
        reads no plan of TensorRT-RTX: those and all ONNX files are run by rofo in the Python backend."""
        return self.entry.backend == "tensorrt" and self.entry.batch == 1

    @property
    def network(self) -> Network:
        """Two calls at a time at least: one is computed while the next is on its way."""
        calls, precision = max(2, self.entry.batch), self.entry.precision if self.by_triton else "auto"
        return Network(self.file, f"{Path(self.file).stem}_network", calls, precision)


@dataclass(frozen=True)
class _System:
    """All that is served as one: the whole, the files that describe it, by their names relative to the
    first, its engines, and how many runs of engines a song takes at a time."""

    name: str
    whole: Manifest | MixerManifest | Recipe
    documents: Mapping[str, Path]
    engines: Sequence[_Engine]
    runs: int


def write_repository(
    engine: Path, folder: Path, kinds: Sequence[str] = (), options: ServingOptions = ServingOptions()
) -> tuple[Path, ...]:
    """Write FOLDER/NAME, which separates songs, and FOLDER/NAME_network for every engine that it needs.

    `engine` is an engine file, a manifest, or a recipe. Of a manifest the first engine file of one of `kinds`
    is taken (see rofo.manifest.EngineFile.backend), else its first. Models of these names are replaced,
    others stay. Returns the models' folders, the networks first.
    Raises EngineLoadError, OutputWriteError, and UsageError for two engines of one name.
    """
    system = _read(engine, kinds)
    names = [*(one.network.model for one in system.engines), system.name]
    if len(set(names)) < len(names):
        raise UsageError(f"{engine}: two models would have one name, of {', '.join(names)}; rename a file")
    with staging(folder / system.name) as staged:
        for one in system.engines:
            _write_network(staged / one.network.model, one, system, options)
        _write_songs(staged / system.name, system, options)
        return tuple(_placed(staged / name, folder / name) for name in names)


def _read(engine: Path, kinds: Sequence[str]) -> _System:
    top = engine if engine.suffix == ".toml" else manifest_path(engine)
    whole: Manifest | MixerManifest | Recipe | None = None
    documents: dict[str, Path] = {}
    engines: list[_Engine] = []
    runs, left = 0, [top]
    while left:
        path = left.pop()
        file = path.relative_to(top.parent).as_posix()
        if file in documents:
            continue
        documents[file] = path
        found = read_recipe(path) if path.suffix == ".toml" else load_manifest(path)
        whole = whole or found
        if isinstance(found, Recipe):
            left += found.engines.values()
            runs += sum(len(step.augment) for step in found.steps if isinstance(step, Run))
        elif isinstance(found, MixerManifest):
            left += [path.with_name(member.manifest) for member in found.members]
        else:
            engines.append(_Engine(path.parent, found, file, _entry(engine, path, found, kinds)))
    assert whole is not None
    return _System(top.stem, whole, documents, engines, max(1, runs))


def _entry(engine: Path, path: Path, manifest: Manifest, kinds: Iterable[str]) -> EngineFile:
    if engine == manifest_path(engine) or engine.suffix == ".toml":
        fitting = [entry for entry in manifest.engines if entry.backend in kinds]
    elif not (fitting := [entry for entry in manifest.engines if entry.file == engine.name]):
        known = ", ".join(entry.file for entry in manifest.engines)
        raise EngineMismatchError(f"{engine}: {path.name} describes only {known}; give one of these")
    return (fitting or manifest.engines)[0]


def _write_network(model: Path, one: _Engine, system: _System, options: ServingOptions) -> None:
    version = model / VERSION
    version.mkdir(parents=True)
    # Where rofo runs it the int8 engine beside an fp32 one goes along: it is chosen by the machine.
    kin = [entry for entry in one.manifest.engines if entry.backend == one.entry.backend]
    for entry in [one.entry] if one.by_triton else kin:
        for name, sha256 in ((entry.file, entry.sha256), (entry.data, entry.data_sha256)):
            if name is not None and sha256 is not None:
                verify_file(one.folder / name, sha256)
                shutil.copy(one.folder / name, version)
    if not one.by_triton:
        shutil.copy(system.documents[one.file], version)
        _write_model(version, "network_model")
    # Twice: a song that was given up may have its last calls under way when the next begins.
    chunks = 2 * options.songs * one.network.calls * system.runs
    (model / "config.pbtxt").write_text(_network_config(one, chunks, options), encoding="utf-8")


def _write_songs(model: Path, system: _System, options: ServingOptions) -> None:
    version = model / VERSION
    version.mkdir(parents=True)
    for file, path in system.documents.items():
        (version / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, version / file)
    setup = Setup(next(iter(system.documents)), tuple(one.network for one in system.engines))
    (version / FILE).write_text(json.dumps(encode(setup), indent=2) + "\n", encoding="utf-8")
    _write_model(version, "song_model")
    (model / "config.pbtxt").write_text(_song_config(system, options), encoding="utf-8")


def _write_model(version: Path, module: str) -> None:
    (version / "model.py").write_text(_MODEL.format(module=module), encoding="utf-8")


def _placed(staged: Path, model: Path) -> Path:
    """Move a finished model to its place; what was there goes with the staging folder."""
    if model.exists():
        model.rename(staged.with_name(f"{staged.name}.old"))
    staged.rename(model)
    return model


def _song_config(system: _System, options: ServingOptions) -> str:
    whole = system.whole
    stems = [*whole.stems, *([whole.residual] if whole.residual else [])]
    return f"""\
# Separates songs: the bytes of a file in, those of the stems' files out. Written by rofo-export --triton.
name: {_text(system.name)}
backend: "python"
max_batch_size: 0
input [
  {{ name: "{AUDIO}" data_type: TYPE_UINT8 dims: [ -1 ] }},
  {{ name: "{OPTIONS}" data_type: TYPE_UINT8 dims: [ -1 ] optional: true }}
]
output [
  {_lines(f"{{ name: {_text(stem)} data_type: TYPE_UINT8 dims: [ -1 ] }}" for stem in (*stems, REPORT))}
]
# So many songs at a time, each in a process.
instance_group [ {{ kind: KIND_CPU count: {options.songs} }} ]
# So many more wait; what comes then is refused (HTTP 503), and so is what waited that long.
dynamic_batching {{
  default_queue_policy {{
    max_queue_size: {options.queue}
    timeout_action: REJECT
    default_timeout_microseconds: {options.patience * 1_000_000}
    allow_timeout_override: true
  }}
}}
"""


def _network_config(one: _Engine, chunks: int, options: ServingOptions) -> str:
    shapes, entry = Shapes.of(one.manifest, one.entry.batch), one.entry
    skipped = 0 if one.by_triton else 1  # Triton counts the batch that it gathers apart
    tensors = {
        kind: _lines(
            f"{{ name: {_text(name)} data_type: TYPE_FP32 dims: {list(shape[skipped:])} }}"
            for name, shape in named.items()
        )
        for kind, named in (("input", shapes.inputs), ("output", shapes.outputs))
    }
    warm = _lines(
        f"inputs {{ key: {_text(name)} value {{ data_type: TYPE_FP32 dims: {list(shape[skipped:])} "
        "random_data: true } }"
        for name, shape in shapes.inputs.items()
    ).replace(",\n", "\n")
    return f"""\
# Runs {entry.file} on chunks. Written by rofo-export --triton.
name: {_text(one.network.model)}
{_triton_backend(entry) if one.by_triton else _python_backend(entry)}
input [
  {tensors["input"]}
]
output [
  {tensors["output"]}
]
# No more chunks than the songs that are separated at a time can ask for.
dynamic_batching {{
  max_queue_delay_microseconds: {options.delay if entry.batch > 1 else 0}
  default_queue_policy {{ max_queue_size: {chunks} timeout_action: REJECT }}
}}
# Ready when it has run once.
model_warmup [ {{
  name: "chunk"
  batch_size: {1 if one.by_triton else entry.batch}
  {warm}
}} ]
"""


def _triton_backend(entry: EngineFile) -> str:
    return f"""\
backend: "tensorrt"
max_batch_size: 0
default_model_filename: {_text(entry.file)}
instance_group [ {{ kind: KIND_GPU count: 1 }} ]"""


def _python_backend(entry: EngineFile) -> str:
    return f"""\
backend: "python"
max_batch_size: {entry.batch}
# One process with the engine, on the first GPU it sees if it needs one.
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
parameters [
  {{ key: "engine" value {{ string_value: {_text(entry.file)} }} }},
  {{ key: "backend" value {{ string_value: "auto" }} }},
  {{ key: "precision" value {{ string_value: "auto" }} }}
]"""


def _lines(items: Iterable[str]) -> str:
    return ",\n  ".join(items)


def _text(value: str) -> str:
    """A string of protobuf's text format."""
    return json.dumps(value, ensure_ascii=False)
