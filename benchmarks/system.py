"""A recipe as a subject: each of its engines a subject of its own, whose network may take its place."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rofo import Options
from rofo.benchmarks.contestants import Choice
from rofo.benchmarks.results import Model
from rofo.benchmarks.rounds import Log
from rofo.benchmarks.subject import Subject, Told, is_engine, prepare
from rofo.errors import UsageError
from rofo.manifest import Manifest, file_sha256, load_manifest, manifest_path
from rofo.recipes.read import list_engines, read_recipe
from rofo.recipes.run import Run

# What of a manifest's config is no yaml: rofo-export put it there.
_NOT_YAML = ("catalogue", "command_line")


@dataclass(frozen=True)
class System(Subject):
    """A recipe, of whose `engines` every kind is the recipe itself; `members` are its engines' subjects.

    They go by their manifests; those of recipes and mixers within are among them.
    """

    members: Mapping[Path, Subject] = field(default_factory=dict)

    @property
    def parts(self) -> Mapping[Path, Subject]:
        """As in Subject."""
        return self.members

    @property
    def batch(self) -> int:
        """Its engines have each their own: chunks are counted in runs."""
        return 1

    @property
    def shortest_chunk(self) -> float:
        """As in Subject."""
        return min(part.shortest_chunk for part in self.members.values())

    @property
    def step(self) -> float:
        """As in Subject."""
        return max(part.step for part in self.members.values())

    def precisions(self, backend: str) -> tuple[str, ...]:
        """As in Subject: those of all its engines, or where there is none the first of each."""
        of_parts = [part.precisions(backend) for part in self.members.values()]
        common = tuple(one for one in of_parts[0] if all(one in others for others in of_parts))
        return common or ("+".join(dict.fromkeys(own[0] for own in of_parts)),)

    def model(self) -> Model:
        """As in Subject."""
        parts = [part.model() for part in self.members.values()]
        networks = ", ".join(dict.fromkeys(part.architecture for part in parts))
        return Model(
            name=self.manifest.name,
            architecture=f"a recipe of {len(parts)} engines ({networks})",
            checkpoint_sha256=file_sha256(self.engine),
            sample_rate=self.manifest.sample_rate,
            stems=self.manifest.stems,
            chunk=max(part.chunk for part in parts),
            scheme="of each run",
            overlap=None,
            batch=self.batch,
            tflop=None,
            weights_gb=None,
        )


def runs_alone(recipe: Path) -> list[tuple[Path, Options]]:
    """What the runs of a recipe's engines are, each by itself: the engine's file, and how it separates.

    Those that the recipe makes once are there once.
    """
    found = read_recipe(recipe)
    alone: dict[tuple[Any, ...], tuple[Path, Options]] = {}
    for step in found.steps:
        for augment in step.augment if isinstance(step, Run) else ():
            assert isinstance(step, Run)
            engine, cut = found.engines[step.run], (step.scheme, step.overlap, step.shifts)
            options = Options(scheme=step.scheme, overlap=step.overlap, shifts=step.shifts)
            alone.setdefault((engine, step.on, cut, augment), (engine, options))
    return list(alone.values())


def prepare_any(target: Path, told: Told, folder: Path, log: Log, choice: Choice) -> Subject:
    """A recipe, or what rofo.benchmarks.subject prepares; of an engine with the checkpoint that it was made
    of, where that lies beside it. Raises the errors of both."""
    if target.suffix != ".toml":
        made = prepare(target, told, folder, log, choice.batch, choice.all_backends, choice.precisions)
        if not is_engine(target):
            return made
        return _with_checkpoint(made.engines, made.manifest, target, folder, log)
    if choice.batch != 1:
        raise UsageError(f"{target}: its engines have their batches; drop --batch")
    return prepare_recipe(target, told, folder, log)


def prepare_recipe(target: Path, told: Told, folder: Path, log: Log) -> System:
    """The recipe with the engines that lie beside it, their checkpoints where these do too.

    A yaml that a manifest quotes is written to `folder`. Raises UsageError where anything is told of it,
    RecipeError.
    """
    if told != Told():
        raise UsageError(
            f"{target}: a recipe needs no --config or other facts; its engines' manifests say all"
        )
    recipe = read_recipe(target)
    members = {file: _member(file, manifest, folder, log) for file, manifest in _leaves(target)}
    kinds = set.intersection(*(set(part.engines) for part in members.values()))
    return System(dict.fromkeys(sorted(kinds), target), recipe, target, members=members)


def _leaves(recipe: Path) -> Iterator[tuple[Path, Manifest]]:
    """The manifests of all engines, of recipes and mixers within too, each once."""
    seen: set[Path] = set()
    left = [listed.path for listed in list_engines(recipe)]
    while left:
        path = left.pop(0)
        if path in seen:
            continue
        seen.add(path)
        if path.suffix == ".toml":
            left += [listed.path for listed in list_engines(path)]
            continue
        manifest = load_manifest(path)
        if isinstance(manifest, Manifest):
            yield manifest_path(path), manifest
        else:
            left += [path.with_name(member.manifest) for member in manifest.members]


def _member(file: Path, manifest: Manifest, folder: Path, log: Log) -> Subject:
    engines: dict[str, Path] = {}
    for entry in manifest.engines:
        engines.setdefault(entry.backend, file.with_name(entry.file))
    return _with_checkpoint(engines, manifest, file, folder, log)


def _with_checkpoint(
    engines: Mapping[str, Path], manifest: Manifest, file: Path, folder: Path, log: Log
) -> Subject:
    """Engines with the checkpoint that they were made of where it lies beside `file`, one of them.

    A yaml that the manifest quotes is written to `folder`.
    """
    source = manifest.source
    checkpoint = file.with_name(source.checkpoint)
    if not checkpoint.exists() or file_sha256(checkpoint) != source.checkpoint_sha256:
        log.leave_out(
            f"PyTorch for {manifest.name}",
            f"{checkpoint}: not there, or not what {file.name} was made of; put it there",
        )
        return Subject(engines, manifest)
    config = {key: value for key, value in source.config.items() if key not in _NOT_YAML}
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in source.config.get("command_line", {}).items()
    }
    yaml = folder / f"{file.stem}.yaml"
    if config:
        yaml.write_text(json.dumps(config), encoding="utf-8")  # which is yaml
    return Subject(engines, manifest, checkpoint, Told(yaml if config else None, given))
