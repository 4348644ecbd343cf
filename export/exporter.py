"""Checkpoint to engine files, in order: read, build, trace, verify, and only then put the files in place."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import rofo
from rofo.errors import CheckpointError, ManifestError, UsageError
from rofo.export import verify
from rofo.export.checkpoint import Checkpoint, load_checkpoint
from rofo.export.config import Facts, ModelConfig, resolve_config
from rofo.export.gpus import Gpu
from rofo.export.networks.form import PLAIN, Form
from rofo.export.networks.roformer import Roformer
from rofo.export.onnx_graph import OPSET, write_onnx
from rofo.export.plan import PlanOptions, write_plan, write_typed
from rofo.export.staging import placed, staging
from rofo.export.typed_parity import LayerOutput, LayerParity, check_typed, layer_outputs, layer_parity
from rofo.manifest import Chunk, EngineFile, Manifest, OverlapAdd, Parity, Source, Stft, file_sha256


@dataclass(frozen=True)
class ExportReport:
    """The files written and what they hold; `layers` where a diagnosis was asked for."""

    files: tuple[Path, ...]
    manifest: Manifest
    layers: tuple[LayerParity, ...] = ()


def export(
    checkpoint: str | Path,
    *,
    config: str | Path | None = None,
    output: str | Path | None = None,
    facts: Facts | None = None,
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
    is what the checkpoint must have. `stage` is told what is going on.
    Nothing is written unless every step succeeds.
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
    loaded = load_checkpoint(source, unsafe_pickle=unsafe_pickle)
    if sha256 and sha256.lower() != loaded.sha256:
        raise CheckpointError(f"{source}: its sha256 is {loaded.sha256}, not {sha256}; download it again")
    model = resolve_config(loaded, yaml=Path(config) if config else None, facts=facts)
    work = _Work(stem.name, model, loaded, check=check, stage=stage)
    with staging(stem) as folder:
        parts = [work.onnx(folder, batch)] if onnx else []
        if plan and gpu:
            parts.append(work.plan(folder, plan, gpu, unsafe_pickle=unsafe_pickle))
        manifest = work.manifest(parts)
        description = folder / f"{stem.name}.json"
        description.write_text(manifest.to_json(), encoding="utf-8")
        files = placed([*(file for part in parts for file in part.files), description], stem.parent)
    return ExportReport(files, manifest, tuple(layer for part in parts for layer in part.layers))


@dataclass(frozen=True)
class _Part:
    """One engine in the making: its files, its entry in the manifest, and what was measured."""

    files: tuple[Path, ...]
    entry: EngineFile
    parity: tuple[Parity, ...] = ()
    layers: tuple[LayerParity, ...] = ()


class _Work:
    """The engines of one export. The fp32 network is gone before any engine is run or built."""

    def __init__(
        self, name: str, model: ModelConfig, loaded: Checkpoint,
        *, check: bool, stage: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.name, (self.stft, self.chunk) = name, _geometry(model)
        self.sample_rate, self.channels = model.network.sample_rate, model.network.channels
        self._model, self._loaded, self._check, self._stage = model, loaded, check, stage
        self._wanted: verify.Reference | None = None
        stage(f"building {_summary(model, self.chunk)}")
        self._network: Roformer | None = _network(model, loaded, self.chunk, PLAIN)

    def onnx(self, folder: Path, batch: int) -> _Part:
        """The fp32 graph, held against the network."""
        assert self._network is not None
        self._stage("tracing the graph")
        file = folder / f"{self.name}.onnx"
        data = write_onnx(self._network, (batch, *self._shape), file)
        part = _Part((*([data] if data else []), file), _engine_file(file, data, batch))
        if not self._check:
            return part
        wanted = self._reference()
        self._stage("running the engine against it")
        return dataclasses.replace(part, parity=verify.verify(file, self.manifest([part]), wanted))

    def plan(self, folder: Path, options: PlanOptions, gpu: Gpu, *, unsafe_pickle: bool) -> _Part:
        """The plan, its typed graph held against the network."""
        wanted = self._reference() if self._check else None
        self._network = None
        outputs = self._layer_outputs(options.form, unsafe_pickle) if options.diagnose else {}
        self._stage(f"tracing the graph in {options.types}")
        network = self._built_again(options.form, unsafe_pickle)
        graph = write_typed(network, self._shape, folder, options, gpu, self._stage)
        del network
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
                overlap_add=OverlapAdd("fade", model.overlap),
                normalize=model.normalize,
                engines=tuple(part.entry for part in parts),
                source=_source(model, self._loaded),
                parity=tuple(parity for part in parts for parity in part.parity),
            )
        except ManifestError as error:
            name = self._loaded.path.name
            raise CheckpointError(f"{name}: {error}; correct the yaml or the options") from None

    @property
    def _shape(self) -> tuple[int, ...]:
        return (self.channels, self.chunk.frames, self.stft.bins, 2)

    def _reference(self) -> verify.Reference:
        if self._wanted is None:
            assert self._network is not None
            network, self._network = self._network, None
            self._stage("running the network for comparison")
            self._wanted = verify.reference(network, self)
        return self._wanted

    def _built_again(self, form: Form, unsafe_pickle: bool) -> Roformer:
        """The network in another form: building it the first time has emptied the checkpoint's state."""
        again = load_checkpoint(self._loaded.path, unsafe_pickle=unsafe_pickle)
        if again.sha256 != self._loaded.sha256:
            raise CheckpointError(f"{again.path}: changed while it was exported; export again")
        return _network(self._model, again, self.chunk, form)

    def _layer_outputs(self, form: Form, unsafe_pickle: bool) -> dict[str, LayerOutput]:
        self._stage("running the network for what every layer puts out")
        return layer_outputs(self._built_again(form.exact, unsafe_pickle), verify.loud_chunk(self))


def _geometry(model: ModelConfig) -> tuple[Stft, Chunk]:
    network = model.network
    try:
        stft = Stft(network.n_fft, network.hop_length, normalized=network.stft_normalized)
    except ManifestError as error:
        raise CheckpointError(f"{model.name}: {error}; the yaml's STFT cannot be inverted") from None
    return stft, Chunk(model.chunk, stft.frames(model.chunk))


def _summary(model: ModelConfig, chunk: Chunk) -> str:
    network = model.network
    seconds = chunk.samples / network.sample_rate
    return (
        f"{network.family} {network.dim}x{network.depth}, {len(network.bands)} bands, "
        f"stems {', '.join(model.stems)}, chunks of {seconds:.2f} s ({chunk.frames} frames)"
    )


def _network(model: ModelConfig, loaded: Checkpoint, chunk: Chunk, form: Form) -> Roformer:
    try:
        return Roformer(model.network, loaded.state, chunk.frames, form)
    except CheckpointError as error:
        raise CheckpointError(f"{loaded.path}: {error}") from None


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


def _source(model: ModelConfig, loaded: Checkpoint) -> Source:
    return Source(
        checkpoint=loaded.path.name,
        checkpoint_sha256=loaded.sha256,
        config=model.source,
        exporter=rofo.__version__,
        torch=torch.__version__,
    )
