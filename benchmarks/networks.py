"""Contestants that are not rofo's engines: PyTorch, a given file, ONNX Runtime driven plainly.

Each runs in an engine's place, so that songs take the same path. What is made of spectra stands between our
transforms; pymss-core's networks have their own and are given samples: `waveform` to `waveforms` alone.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

import rofo.model
from rofo import Separator
from rofo.benchmarks.contestants import GIVEN, NETWORK, PLAIN, PYMSS, ROFO, Contestant
from rofo.benchmarks.shapes import pymss_network
from rofo.benchmarks.stopwatch import wrapped
from rofo.benchmarks.subject import ONNX, Subject
from rofo.dsp.scheme import Chunk
from rofo.engines import EngineSettings, open_engine
from rofo.engines.choice import engine_file
from rofo.engines.contract import Engine, Tensors
from rofo.engines.telemetry import import_quietly
from rofo.errors import EngineLoadError
from rofo.manifest import load_engine_manifest, manifest_path

Floats = NDArray[np.float32]
Run = Callable[[Tensors], Tensors]

# What pymss-core's Roformers default otherwise than MSST, or name otherwise: their argument -> our fact.
_PYMSS_ARGUMENTS = {
    "zero_dc": "zero_dc",
    "skip_connection": "skip_connection",
    "stft_n_fft": "n_fft",
    "stft_hop_length": "hop_length",
}
_PYMSS_ROFORMERS = ("bs_", "mel_band_")


@dataclass
class NetworkEngine:
    """A network in an engine's place."""

    run: Run
    backend: str
    precision: str
    batch: int
    in_flight: int = 1
    healthy: bool = True

    def close(self) -> None:
        """Let go of the network."""
        del self.run


@contextmanager
def opened(one: Contestant, subject: Subject, threads: int, around: Any = None) -> Iterator[Separator]:
    """A separator in which this contestant computes. `around` is a context to open and use it in."""
    backend, precision = (one.backend, one.precision) if one.kind == ROFO else ("auto", "auto")
    stage = nullcontext() if one.kind == ROFO else _in_place_of_engines(one, subject)
    with (
        stage,
        around or nullcontext(),
        Separator(one.engine, backend=backend, precision=precision, threads=threads) as separator,
    ):
        yield separator


def open_alone(one: Contestant, subject: Subject, threads: int) -> Engine | NetworkEngine:
    """The contestant by itself, without a song around it. Raises EngineLoadError."""
    if one.kind != ROFO:
        return load_network(one, subject)
    manifest, settings = load_engine_manifest(one.engine), EngineSettings(one.backend, one.precision, threads)
    return open_engine(engine_file(one.engine, manifest, settings), manifest, settings)


def load_network(one: Contestant, subject: Subject) -> NetworkEngine:
    """The network of a contestant. Raises EngineLoadError where it does not run this model."""
    load = {PYMSS: _pymss, NETWORK: _plain_network, GIVEN: _given_file, PLAIN: _plain_session}[one.kind]
    return NetworkEngine(load(one, subject), one.kind, one.precision, subject.batch)


@contextmanager
def _in_place_of_engines(one: Contestant, subject: Subject) -> Iterator[None]:
    """Within, separators that are opened run this implementation of every network."""
    networks = {manifest: load_network(one, part) for manifest, part in subject.parts.items()}

    def opened_engine(file: Path, *_: Any) -> NetworkEngine:
        return replace(networks[manifest_path(file)])

    with wrapped(rofo.model, "open_engine", lambda _: opened_engine):
        if one.kind != PYMSS:
            yield
            return
        with wrapped(rofo.model, "ChunkLoop", lambda _: _SampleLoop):
            yield


class _SampleLoop:
    """Stands in for rofo.dsp.chunk_loop.ChunkLoop: no transform of ours comes near the network."""

    def __init__(self, engine: NetworkEngine, *_: Any) -> None:
        self._engine = engine

    def __call__(self, chunks: Iterable[Chunk], *_: Any) -> Iterator[tuple[Chunk, Floats]]:
        source = iter(chunks)
        while group := list(islice(source, self._engine.batch)):
            outputs = self._engine.run({"waveform": np.stack([chunk.samples for chunk in group])})
            yield from zip(group, outputs["waveforms"], strict=True)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as rofo-export reads it: `source`, its `family`, and `description` of what is known."""

    source: Any
    family: Any
    description: Any
    facts: Any

    @classmethod
    def of(cls, subject: Subject) -> "Checkpoint":
        """Raises CheckpointError, and EngineLoadError where there is none."""
        from rofo.export.families import describe, find_family
        from rofo.export.source import read_source

        if subject.checkpoint is None:
            raise EngineLoadError(f"{subject.engine}: give the checkpoint instead, to compare with PyTorch")
        source = read_source(subject.checkpoint)
        family = find_family(source)
        description = describe(family, source, subject.told.config, subject.told.given)
        return cls(source, family, description, description.require())

    def network(self) -> Any:
        """The family's plain network with its weights. Empties the source."""
        from rofo.export.families import load_network

        return load_network(self.family, self.source, self.facts)


def _plain_network(one: Contestant, subject: Subject) -> Run:
    from rofo.export.graph.trace import OUTPUTS

    run = _in_torch(Checkpoint.of(subject).network(), one)
    return lambda inputs: dict(zip(map(OUTPUTS.__getitem__, inputs), run(*inputs.values()), strict=False))


def _given_file(one: Contestant, subject: Subject) -> Run:
    """What an engine is compared with at its export, chunk by chunk."""
    file = Checkpoint.of(subject)
    run = file.family.original(file.source, file.facts, file.network())

    def run_all(inputs: Tensors) -> Tensors:
        chunks = range(len(next(iter(inputs.values()))))
        found = [run({name: tensor[i : i + 1] for name, tensor in inputs.items()}) for i in chunks]
        return {name: np.concatenate([outputs[name] for outputs in found]) for name in found[0]}

    return run_all


def _pymss(one: Contestant, subject: Subject) -> Run:
    """pymss-core reads the yaml and the weights by itself."""
    _require("pymss_core", "rofo[bench]")
    file = Checkpoint.of(subject)
    kind = file.family.msst_type(file.facts)
    if kind is None:
        raise EngineLoadError(f"{file.source.path}: no network of Music-Source-Separation-Training")
    facts: dict[str, Any] = {}
    if kind.startswith(_PYMSS_ROFORMERS):
        facts = {name: file.facts[fact] for name, fact in _PYMSS_ARGUMENTS.items() if fact in file.facts}
    if "mel_sample_rate" in file.facts:  # with mel bands a yaml counts the hidden layers of a mask
        facts["mlp_hidden_layers"] = file.facts["mask_estimator_depth"]
    try:
        network = pymss_network(kind, file.description.config, **facts)
        network.load_state_dict(file.source.state)
    except Exception as error:  # noqa: BLE001 - whatever it raises for models it does not know
        raise EngineLoadError(
            f"{file.source.path}: pymss-core does not run it ({str(error)[:200]})"
        ) from None
    run, stems = _in_torch(network, one), len(file.facts["stems"])

    def estimates(inputs: Tensors) -> Tensors:
        chunks = inputs["waveform"]
        return {"waveforms": run(chunks)[0].reshape(len(chunks), stems, *chunks.shape[1:])}

    return estimates


def _plain_session(one: Contestant, subject: Subject) -> Run:
    """The engine's graph, in fp16 the one that plans are built from, with ONNX Runtime's own defaults."""
    _require("onnxruntime", "rofo[ort]")
    onnxruntime = import_quietly("onnxruntime")
    provider = "CUDAExecutionProvider" if one.device == "cuda" else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise EngineLoadError(f"this ONNX Runtime ({onnxruntime.__version__}) has no {provider}")
    with tempfile.TemporaryDirectory() as folder:
        graph = subject.engines[ONNX] if one.precision == "fp32" else _typed_graph(subject, one, Path(folder))
        session = onnxruntime.InferenceSession(graph, providers=[provider])
    if session.get_providers()[0] != provider:
        raise EngineLoadError(f"ONNX Runtime runs on {session.get_providers()[0]}, not {provider}")
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))


def _typed_graph(subject: Subject, one: Contestant, folder: Path) -> Path:
    from rofo.export.graph.trace import write_onnx
    from rofo.export.graph.types import Form
    from rofo.export.model import Model

    file = Checkpoint.of(subject)
    model = Model.of(file.family, file.source, file.description, subject.engine.stem)
    engine = file.family.engine(file.network(), file.facts, Form("tensorrt", cast(Any, one.precision)))
    graph = folder / "typed.onnx"
    write_onnx(engine, model.tensors(subject.batch), graph, typed=True)
    return graph


def _in_torch(network: Any, one: Contestant) -> Callable[..., list[Floats]]:
    """A module as a function of arrays to its outputs. Products in TF32 are off, so that fp32 is fp32."""
    import torch

    if one.device == "cuda" and not torch.cuda.is_available():
        raise EngineLoadError(f"PyTorch {torch.__version__} sees no GPU; choose --device cpu")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    placed = network.eval().to(one.device)
    called = torch.compile(placed) if one.compiled else placed
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(one.precision)

    def run(*arrays: Floats) -> list[Floats]:
        casting = torch.autocast(one.device, half or torch.bfloat16, enabled=half is not None)
        with torch.inference_mode(), casting:
            found = called(*(torch.from_numpy(array).to(one.device) for array in arrays))
            outputs = found if isinstance(found, tuple) else (found,)
            return [output.float().cpu().numpy() for output in outputs]

    return run


def _require(module: str, extra: str) -> None:
    if find_spec(module) is None:
        raise EngineLoadError(f"{module} is not installed; pip install '{extra}'")
