"""Model file to engine files, in order: read, build, write, verify, and only then put the files in place."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import rofo
from rofo.errors import ManifestError, UsageError
from rofo.export.errors import CheckpointError
from rofo.export.families.roformer.config import Facts, ModelConfig
from rofo.export.graph import verify
from rofo.export.graph.graphs import Graphs
from rofo.export.graph.layer_outputs import LayerOutput
from rofo.export.graph.trace import OPSET
from rofo.export.graph.typed_parity import LayerParity, check_typed, layer_parity
from rofo.export.mixer import is_mixer, mixer_manifest
from rofo.export.model_file import ModelFile, geometry, make_graphs, read_model, resolve, summary
from rofo.export.plan.gpus import Gpu
from rofo.export.plan.plan import PlanOptions, write_plan, write_typed
from rofo.export.source.checkpoint import Checkpoint
from rofo.export.staging import placed, staging
from rofo.manifest import EngineFile, Manifest, MixerManifest, OverlapAdd, Parity, Source, file_sha256


@dataclass(frozen=True)
class ExportReport:
    """The files written and what they hold; `layers` where a diagnosis was asked for."""

    files: tuple[Path, ...]
    manifest: Manifest | MixerManifest
    layers: tuple[LayerParity, ...] = ()

    @property
    def parity(self) -> tuple[Parity, ...]:
        """What was measured; nothing for a mixer, whose members were."""
        return self.manifest.parity if isinstance(self.manifest, Manifest) else ()


def export(
    checkpoint: str | Path,
    *,
    config: str | Path | None = None,
    output: str | Path | None = None,
    facts: Facts | None = None,
    members: Sequence[Path] = (),
    batch: int = 1,
    onnx: bool = True,
    plan: PlanOptions | None = None,
    check: bool = True,
    sha256: str | None = None,
    unsafe_pickle: bool = False,
    stage: Callable[[str], None] = lambda _: None,
) -> ExportReport:
    """Write OUTPUT.onnx (and OUTPUT.onnx.data for large weights), OUTPUT.plan if asked, and OUTPUT.json.

    `output` is a path without suffix, by default the checkpoint's. `batch` is the number of chunks the
    ONNX engine takes at once; `onnx` False leaves it out. `plan` tells what kind of plan to build. `sha256`
    is what the checkpoint must have. `members` are the engines that a mixer joins. `stage` is told what is
    going on. Nothing is written unless every step succeeds.
    Raises CheckpointError, ParityError, OutputWriteError, EngineLoadError.
    """
    source = Path(checkpoint)
    stem = Path(output) if output is not None else source.with_suffix("")
    if batch < 1:
        raise UsageError(f"batch is {batch}; give 1 or more")
    if stem.name in ("", ".."):
        raise UsageError(f"{stem}: not a name for the engine; give the path of the results without suffix")
    if not onnx and plan is None:
        raise UsageError(f"{stem}: neither an ONNX file nor a plan to be written; choose one or both")
    gpu = plan.target() if plan else None
    stage(f"reading {source}")
    file = read_model(source, unsafe_pickle=unsafe_pickle)
    if sha256 and sha256.lower() != file.sha256:
        raise CheckpointError(f"{source}: its sha256 is {file.sha256}, not {sha256}; download it again")
    if isinstance(file, Checkpoint) and is_mixer(file):
        return _mixer(file, members, stem)
    if members:
        raise UsageError(f"{source}: not a mixer, only that has members; leave --member out")
    model = resolve(file, yaml=Path(config) if config else None, facts=facts or Facts())
    stage(f"building {summary(model)}")
    graphs = make_graphs(file, model, unsafe_pickle=unsafe_pickle)
    work = _Work(stem.name, model, file, graphs, check=check, stage=stage)
    with staging(stem) as folder:
        parts = [work.onnx(folder, batch)] if onnx else []
        if plan and gpu:
            parts.append(work.plan(folder, plan, gpu))
        manifest = work.manifest(parts)
        description = folder / f"{stem.name}.json"
        description.write_text(manifest.to_json(), encoding="utf-8")
        files = placed([*(file for part in parts for file in part.files), description], stem.parent)
    return ExportReport(files, manifest, tuple(layer for part in parts for layer in part.layers))


def _mixer(file: Checkpoint, members: Sequence[Path], stem: Path) -> ExportReport:
    manifest = mixer_manifest(file, members, stem)
    with staging(stem) as folder:
        description = folder / f"{stem.name}.json"
        description.write_text(manifest.to_json(), encoding="utf-8")
        return ExportReport(placed([description], stem.parent), manifest)


@dataclass(frozen=True)
class _Part:
    """One engine in the making: its files, its entry in the manifest, and what was measured."""

    files: tuple[Path, ...]
    entry: EngineFile
    parity: tuple[Parity, ...] = ()
    layers: tuple[LayerParity, ...] = ()


class _Work:
    """The engines of one export. Once compared, the model is gone before any engine is run or built."""

    def __init__(
        self, name: str, model: ModelConfig, source: ModelFile, graphs: Graphs,
        *, check: bool, stage: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.name, (self.stft, self.chunk) = name, geometry(model)
        self.sample_rate, self.channels = model.network.sample_rate, model.network.channels
        self._model, self._source, self._graphs = model, source, graphs
        self._check, self._stage = check, stage
        self._wanted: verify.Reference | None = None

    def onnx(self, folder: Path, batch: int) -> _Part:
        """The fp32 graph, held against the model."""
        self._stage("writing the graph")
        file = folder / f"{self.name}.onnx"
        data = self._graphs.write(file, batch)
        part = _Part((*([data] if data else []), file), _engine_file(file, data, batch))
        if not self._check:
            return part
        wanted = self._reference()
        self._stage("running the engine against it")
        return dataclasses.replace(part, parity=verify.verify(file, self.manifest([part]), wanted))

    def plan(self, folder: Path, options: PlanOptions, gpu: Gpu) -> _Part:
        """The plan, its typed graph held against the model."""
        wanted = self._reference() if self._check else None
        outputs = self._layer_outputs(options) if options.diagnose else {}
        self._stage(f"writing the graph in {options.types}")
        graph = write_typed(self._graphs.typed(options), folder, options, gpu, self._stage)
        layers: tuple[LayerParity, ...] = ()
        if outputs:
            self._stage("measuring every layer of it on the CPU")
            layers = layer_parity(graph.one, verify.loud_chunk(self), outputs)
            # At once: a graph that fails the gate is the one that is worth looking into.
            for layer in layers:
                self._stage(str(layer))
        parity: tuple[Parity, ...] = ()
        if wanted:
            self._stage("measuring it on the CPU")
            parity = (check_typed(graph.one, self.name, options, wanted),)
        plan = folder / f"{self.name}.plan"
        return _Part((plan,), write_plan(graph, plan, options, gpu, self._stage), parity, layers)

    def manifest(self, parts: Sequence[_Part]) -> Manifest:
        """What the runtime needs to know about these engines."""
        model = self._model
        try:
            return Manifest(
                name=self.name,
                architecture=model.network.family,
                sample_rate=self.sample_rate,
                channels=self.channels,
                stems=model.stems,
                residual=model.residual,
                stft=self.stft,
                chunk=self.chunk,
                overlap_add=OverlapAdd(model.scheme, model.overlap),
                normalize=model.normalize,
                engines=tuple(part.entry for part in parts),
                source=_source(model, self._source),
                parity=tuple(parity for part in parts for parity in part.parity),
            )
        except ManifestError as error:
            name = self._source.path.name
            raise CheckpointError(f"{name}: {error}; correct the yaml or the options") from None

    def _reference(self) -> verify.Reference:
        if self._wanted is None:
            self._stage("running the network for comparison")
            self._wanted = verify.reference(self._graphs, self)
        return self._wanted

    def _layer_outputs(self, options: PlanOptions) -> Mapping[str, LayerOutput]:
        self._stage("running the network for what every layer puts out")
        return self._graphs.layer_outputs(options, verify.loud_chunk(self))


def _engine_file(file: Path, data: Path | None, batch: int) -> EngineFile:
    return EngineFile(
        file=file.name,
        backend="onnx",
        backend_version=f"opset {OPSET}",
        precision="fp32",
        compute_capabilities=(),
        batch=batch,
        sha256=file_sha256(file),
        data=data.name if data else None,
        data_sha256=file_sha256(data) if data else None,
    )


def _source(model: ModelConfig, file: ModelFile) -> Source:
    return Source(
        checkpoint=file.path.name,
        checkpoint_sha256=file.sha256,
        config=model.source,
        exporter=rofo.__version__,
        torch=torch.__version__,
    )
