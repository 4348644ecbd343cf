"""The path of a checkpoint: read, describe, load, write graphs, compare, and only then put files in place."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from rofo.engines import EngineSettings, open_engine
from rofo.engines.contract import Tensors
from rofo.errors import EngineLoadError, UsageError
from rofo.export.calibration import OWN, calibration_chunks, read_truth
from rofo.export.errors import CheckpointError
from rofo.export.facts import report
from rofo.export.families import describe, find_family, load_network
from rofo.export.graph.cuda import BACKEND as CUDA
from rofo.export.graph.cuda import CudaGraph, for_cuda
from rofo.export.graph.diagnosis import LayerOutput, LayerParity, layer_outputs, layer_parity
from rofo.export.graph.fp8 import choose_fp8
from rofo.export.graph.gates import Reference, check_engine, check_typed, loud_chunk, reference, repeated
from rofo.export.graph.int8 import BACKEND, Int8Builder
from rofo.export.graph.trace import OPSET, write_onnx
from rofo.export.graph.types import Form
from rofo.export.mixer import is_mixer, mixer_manifest
from rofo.export.model import Model
from rofo.export.plan.gpus import Gpu
from rofo.export.plan.plan import PlanOptions, TypedGraph, write_plan, write_typed
from rofo.export.source import Source, read_source
from rofo.export.staging import placed, staging
from rofo.manifest import EngineFile, Manifest, MixerManifest, Parity, file_sha256, load_manifest

Stage = Callable[[str], None]


@dataclass(frozen=True)
class ExportOptions:
    """What to make of a checkpoint, and how.

    `output` is a path without suffix, by default the checkpoint's; `config` its yaml; `given` facts that the
    user supplies, by the names of rofo.export.facts. `members` are the engines that a mixer joins. `batch` is
    the number of chunks the ONNX engine takes at once; `onnx` False leaves it out. `plan` tells what kind of
    plan to build. `int8` asks for an int8 engine beside the ONNX one; it and a plan in FP8 are calibrated on
    the sound files of `calibrate`, by default on what comes with rofo. `truths` are true stems by name of the
    first of them: int8 must keep their SDR. `verify` False skips the comparison with the network: an int8
    engine is then held to the fp32 one, its parity not recorded, and in an FP8 plan every product is. `cuda`
    asks for a typed fp16 graph for ONNX Runtime on CUDA. `sha256` is what the file must have.
    """

    output: Path | None = None
    config: Path | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    members: Sequence[Path] = ()
    batch: int = 1
    onnx: bool = True
    plan: PlanOptions | None = None
    int8: bool = False
    calibrate: Sequence[Path] = ()
    truths: Mapping[str, Path] = field(default_factory=dict)
    cuda: bool = False
    verify: bool = True
    sha256: str | None = None
    unsafe_pickle: bool = False


@dataclass(frozen=True)
class ExportReport:
    """The files written and what they hold; `parity` of the engines made now, `layers` if diagnosed."""

    files: tuple[Path, ...]
    manifest: Manifest | MixerManifest
    parity: tuple[Parity, ...] = ()
    layers: tuple[LayerParity, ...] = ()


def export_checkpoint(
    checkpoint: Path, options: ExportOptions = ExportOptions(), stage: Stage = lambda _: None
) -> ExportReport:
    """Write OUTPUT.onnx (and OUTPUT.onnx.data for large weights), OUTPUT.int8.onnx, OUTPUT.fp16.onnx and a
    plan if asked, and OUTPUT.json.

    `stage` is told what is going on. Nothing is written unless every step succeeds; where OUTPUT.json
    describes engines of the same checkpoint and facts already, the new ones are added to it.
    Raises CheckpointError, ParityError, OutputWriteError, EngineLoadError, UsageError.
    """
    stem = _stem(checkpoint, options)
    gpu = options.plan.target() if options.plan else None
    stage(f"reading {checkpoint}")
    source = _read(checkpoint, options)
    if is_mixer(source):
        mixer = mixer_manifest(source, options.members, stem)
        with staging(stem) as folder:
            return ExportReport(placed([_described(folder, stem, mixer)], stem.parent), mixer)
    if options.members:
        raise UsageError(f"{checkpoint}: not a mixer, only that has members; leave --member out")
    family = find_family(source)
    description = describe(family, source, options.config, options.given)
    model = Model.of(family, source, description, stem.name)
    stage(f"building {model.summary}")
    network = load_network(family, source, model.facts)
    wanted = None
    if options.verify:
        stage("running the network for comparison")
        silent = family.keeps_silence(model.facts)
        wanted = reference(model, family.original(source, model.facts, network), keeps_silence=silent)
    with staging(stem) as folder:
        onnx = _write_onnx(model, network, folder, options.batch, stage) if options.onnx else None
        cuda = _write_cuda(model, network, folder, options.batch, stage) if options.cuda else None
        typed = None
        if options.plan and gpu:
            typed = _write_typed(model, network, folder, options.plan, gpu, stage)
        del network  # before any engine is run or built
        parts = [_finish_onnx(model, onnx, wanted, stage)] if onnx else []
        if onnx and options.int8:
            parts.append(_quantised(model, onnx, wanted, options, stage))
        if cuda:
            parts.append(_finish_cuda(model, cuda, wanted, stage))
        if typed and options.plan and gpu:
            kept: tuple[str, ...] = ()
            if options.plan.precision == "fp8":
                typed, kept = _in_fp8(model, typed, wanted, options, stage)
            parts.append(_finish_plan(model, typed, folder, options.plan, gpu, wanted, stage, kept))
        manifest = model.manifest([part.entry for part in parts], [p for part in parts for p in part.parity])
        joined = _joined(stem, manifest)
        files = [*(file for part in parts for file in part.files), _described(folder, stem, joined)]
        parity, layers = manifest.parity, tuple(layer for part in parts for layer in part.layers)
        return ExportReport(placed(files, stem.parent), joined, parity, layers)


def facts_report(checkpoint: Path, options: ExportOptions = ExportOptions()) -> str:
    """All that is known of a checkpoint: every fact, its value, who said it, what is missing or wrong.

    Raises CheckpointError for a file that is no checkpoint of a known network.
    """
    source = _read(checkpoint, options)
    if is_mixer(source):
        raise CheckpointError(f"{checkpoint}: a mixer of engines, it has no facts of its own; export it")
    found = describe(find_family(source), source, options.config, options.given)
    return "\n".join([report(found.facts), *(f"wrong: {problem}" for problem in found.problems)])


@dataclass(frozen=True)
class _Part:
    """One engine in the making: its files, its entry in the manifest, and what was measured."""

    files: tuple[Path, ...]
    entry: EngineFile
    parity: tuple[Parity, ...] = ()
    layers: tuple[LayerParity, ...] = ()


@dataclass(frozen=True)
class _Typed:
    """A typed graph, and what the layers of the network put out if a diagnosis was asked for."""

    graph: TypedGraph
    outputs: Mapping[str, LayerOutput]


@dataclass(frozen=True)
class _Cuda:
    """An engine for ONNX Runtime on CUDA, and its graph for a single chunk, to be measured."""

    part: _Part
    one: Path


def _stem(checkpoint: Path, options: ExportOptions) -> Path:
    stem = options.output if options.output is not None else checkpoint.with_suffix("")
    if options.batch < 1:
        raise UsageError(f"batch is {options.batch}; give 1 or more")
    if stem.name in ("", ".."):
        raise UsageError(f"{stem}: not a name for the engine; give the path of the results without suffix")
    if not (options.onnx or options.cuda) and options.plan is None:
        raise UsageError(f"{stem}: neither an ONNX file nor a plan to be written; choose one or both")
    if options.int8 and not options.onnx:
        raise UsageError(f"{stem}: an int8 engine is made of the ONNX one; add --target onnx")
    fp8 = options.plan is not None and options.plan.precision == "fp8"
    if options.calibrate and not (options.int8 or fp8):
        raise UsageError(
            f"{stem}: sound to calibrate on, but nothing to calibrate; add --quantize int8, or for a plan "
            "--precision fp8"
        )
    if options.truths and not (options.int8 and options.calibrate):
        raise UsageError(
            f"{stem}: true stems, but no int8 engine made with their mix; add --quantize int8 --calibrate MIX"
        )
    return stem


def _read(checkpoint: Path, options: ExportOptions) -> Source:
    source = read_source(checkpoint, unsafe_pickle=options.unsafe_pickle)
    if options.sha256 and options.sha256.lower() != source.sha256:
        raise CheckpointError(
            f"{checkpoint}: its sha256 is {source.sha256}, not {options.sha256}; download it again"
        )
    return source


def _write_onnx(model: Model, network: nn.Module, folder: Path, batch: int, stage: Stage) -> _Part:
    """The fp32 graph, not compared yet."""
    stage("writing the graph")
    file = folder / f"{model.name}.onnx"
    engine = model.family.engine(network, model.facts, Form())
    data = write_onnx(engine, model.tensors(batch), file)
    entry = EngineFile(
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
    return _Part((*([data] if data else []), file), entry)


def _finish_onnx(model: Model, part: _Part, wanted: Reference | None, stage: Stage) -> _Part:
    if wanted is None:
        return part
    stage("running the engine against it")
    parity = check_engine(part.files[-1], model.manifest([part.entry], ()), wanted)
    return _Part(part.files, part.entry, parity)


def _write_cuda(model: Model, network: nn.Module, folder: Path, batch: int, stage: Stage) -> _Cuda:
    """The typed graph for ONNX Runtime on CUDA, not measured yet."""
    stage("writing the graph in fp16 for ONNX Runtime on CUDA")
    engine = model.family.engine(network, model.facts, Form(precision="fp16"))

    def written(chunks: int) -> tuple[Path, ...]:
        inside = folder / f"cuda-{chunks}"
        inside.mkdir()
        file = inside / f"{model.name}.fp16.onnx"
        write_onnx(engine, model.tensors(chunks), file, typed=True)
        data = for_cuda(file)
        return (*([data] if data else []), file)

    files = written(batch)
    *data, file = files
    entry = EngineFile(
        file=file.name,
        backend=CUDA,
        backend_version=f"opset {OPSET}",
        precision="fp16",
        compute_capabilities=(),
        batch=batch,
        sha256=file_sha256(file),
        data=data[0].name if data else None,
        data_sha256=file_sha256(data[0]) if data else None,
    )
    return _Cuda(_Part(files, entry), file if batch == 1 else written(1)[-1])


def _finish_cuda(model: Model, cuda: _Cuda, wanted: Reference | None, stage: Stage) -> _Part:
    if wanted is None:
        return cuda.part
    stage("measuring it on the CPU")
    return replace(cuda.part, parity=(check_typed(cuda.one, model.name, CudaGraph(), wanted),))


def _quantised(
    model: Model, fp32: _Part, wanted: Reference | None, options: ExportOptions, stage: Stage
) -> _Part:
    """The int8 engine beside the fp32 one, which it is held to where the network was not run."""
    file, manifest = fp32.files[-1], model.manifest([fp32.entry], ())
    chunks = _calibration(model, "int8", options, stage)
    held_to = wanted or _held_to_fp32(model, file, manifest)
    stage("writing the graph in int8, and running it")
    truth = read_truth(model, options.calibrate[0], options.truths) if options.truths else None
    made = Int8Builder(file, manifest, chunks, held_to, stage, truth).build()
    return _Part(made.files, made.entry, (made.parity,) if wanted else ())


def _calibration(model: Model, what: str, options: ExportOptions, stage: Stage) -> list[Tensors]:
    stage(f"calibrating {what} on {', '.join(map(str, options.calibrate)) or OWN}")
    return calibration_chunks(model, options.calibrate)


def _held_to_fp32(model: Model, file: Path, manifest: Manifest) -> Reference:
    with closing(open_engine(file, manifest, EngineSettings(BACKEND, "fp32"))) as engine:

        def run(inputs: Tensors) -> Tensors:
            outputs = engine.run(repeated(inputs, engine.batch))
            return {name: tensor[:1] for name, tensor in outputs.items()}

        return reference(model, run, keeps_silence=model.family.keeps_silence(model.facts))


def _write_typed(
    model: Model, network: nn.Module, folder: Path, options: PlanOptions, gpu: Gpu, stage: Stage
) -> _Typed:
    outputs: Mapping[str, LayerOutput] = {}
    if options.diagnose:
        stage("running the network for what every layer puts out")
        exact = model.family.engine(network, model.facts, options.form.exact)
        outputs = layer_outputs(exact, loud_chunk(model), model.family.stages)
        del exact
    stage(f"writing the graph in {options.types}")
    engine = model.family.engine(network, model.facts, options.form)

    def trace(file: Path, batch: int) -> None:
        write_onnx(engine, model.tensors(batch), file, typed=True)

    return _Typed(write_typed(trace, folder, options, gpu, stage), outputs)


def _in_fp8(
    model: Model, typed: _Typed, wanted: Reference | None, options: ExportOptions, stage: Stage
) -> tuple[_Typed, tuple[str, ...]]:
    """The typed graph with products in FP8, and those that are kept as they are."""
    chunks = _calibration(model, "FP8", options, stage)
    fp8 = choose_fp8(typed.graph.one, model.name, chunks, wanted, stage)
    return replace(typed, graph=typed.graph.rewritten(fp8.write)), fp8.kept


def _finish_plan(
    model: Model, typed: _Typed, folder: Path, options: PlanOptions, gpu: Gpu,
    wanted: Reference | None, stage: Stage, kept: tuple[str, ...],
) -> _Part:  # fmt: skip
    """The plan, its typed graph held against the network."""
    layers: tuple[LayerParity, ...] = ()
    if typed.outputs:
        stage("measuring every layer of it on the CPU")
        layers = layer_parity(typed.graph.one, loud_chunk(model), typed.outputs)
        # At once: a graph that fails the gate is the one that is worth looking into.
        for layer in layers:
            stage(str(layer))
    parity: tuple[Parity, ...] = ()
    if wanted:
        stage("measuring it on the CPU")
        parity = (check_typed(typed.graph.one, model.name, options, wanted),)
    plan = folder / options.file(model.name)
    entry = replace(write_plan(typed.graph, plan, options, gpu, stage), kept=kept)
    return _Part((plan,), entry, parity, layers)


def _joined(stem: Path, manifest: Manifest) -> Manifest:
    """With the engines of an earlier export of the same model to the same name."""
    file = stem.with_name(f"{stem.name}.json")
    try:
        earlier = load_manifest(file)
    except EngineLoadError:
        return manifest  # none, or one that cannot be read: it is replaced
    return earlier.joined(manifest) if isinstance(earlier, Manifest) else manifest


def _described(folder: Path, stem: Path, manifest: Manifest | MixerManifest) -> Path:
    file = folder / f"{stem.name}.json"
    file.write_text(manifest.to_json(), encoding="utf-8")
    return file
