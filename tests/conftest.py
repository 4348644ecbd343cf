"""Engines for tests: hand-made graphs that need no torch, and one export of a tiny seeded network."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import pytest

from rofo import Separator
from rofo.engines.contract import Shapes
from rofo.manifest import ChunkSize, EngineFile, Manifest, OverlapAdd, Parity, Source, Stft, file_sha256

FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
OPSET, IR = 23, 10
STFT = Stft(n_fft=256, hop_length=64)


class Graph:
    """An ONNX graph under construction: nodes that end in `stems`, and constants by name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, values: object, kind: int = FLOAT) -> str:
        array = np.asarray(values, np.float32 if kind == FLOAT else np.int64)
        self.constants.append(onnx.helper.make_tensor(name, kind, array.shape, array.ravel()))
        return name

    def add(self, operator: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(onnx.helper.make_node(operator, inputs, [output], **attributes))
        return output

    def loudness(self) -> str:
        """The largest number of each item of the batch, (batch, 1, 1, 1, 1)."""
        absolute = self.add("Abs", ["mix"], "absolute")
        return self.add("ReduceMax", [absolute, self.constant("axes", [1, 2, 3, 4], INT64)], "loudness")

    def finish(self, spectrum: str, stems: int) -> None:
        """`spectrum` as every stem, the first at half, the second at a quarter of its level, and so on."""
        gains = self.constant("gains", np.reshape(0.5 ** np.arange(1, stems + 1), (1, stems, 1, 1, 1, 1)))
        each = self.add("Unsqueeze", [spectrum, self.constant("one", [1], INT64)], "each")
        self.add("Mul", [each, gains], "stems")


def half(graph: Graph) -> str:
    """The mix itself."""
    return "mix"


def level(graph: Graph) -> str:
    """The mix times a number that depends on the whole chunk, so that no two chunks are treated alike."""
    scaled = graph.add("Mul", [graph.loudness(), graph.constant("small", 0.05)], "scaled")
    return graph.add("Mul", ["mix", graph.add("Tanh", [scaled], "tanh")], "levelled")


def nan_when_loud(graph: Graph) -> str:
    """Not a number for chunks whose spectrum exceeds 20."""
    room = graph.add("Sub", [graph.constant("limit", 20.0), graph.loudness()], "room")
    return graph.add("Mul", ["mix", graph.add("Sqrt", [room], "root")], "broken")


def failing(graph: Graph) -> str:
    """An index far outside, found only when it is computed; ONNX Runtime stops there."""
    index = graph.add("Cast", [graph.loudness()], "cast", to=INT64)
    flat = graph.add("Reshape", [index, graph.constant("flat", [-1], INT64)], "flattened")
    far = graph.add("Add", [flat, graph.constant("far", [1000], INT64)], "index")
    return graph.add("Gather", ["mix", far], "gathered", axis=0)


def slow(graph: Graph) -> str:
    """The mix after minutes of matrix products in one loop: nobody waits for it to end."""
    body = onnx.helper.make_graph(
        [
            onnx.helper.make_node("MatMul", ["state", "matrix"], ["product"]),
            onnx.helper.make_node("Tanh", ["product"], ["next"]),
            onnx.helper.make_node("Identity", ["go"], ["again"]),
        ],
        "body",
        [
            onnx.helper.make_tensor_value_info("i", INT64, []),
            onnx.helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("state", FLOAT, [256, 256]),
        ],
        [
            onnx.helper.make_tensor_value_info("again", onnx.TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("next", FLOAT, [256, 256]),
        ],
    )
    matrix = graph.constant("matrix", np.random.default_rng(0).normal(0, 0.1, (256, 256)))
    seed = graph.add("Mul", [graph.add("ReduceMax", ["mix"], "top", keepdims=0), matrix], "seed")
    trips = graph.constant("trips", 1_000_000, INT64)
    graph.add("Loop", [trips, "", seed], "ended", body=body)
    sum_ = graph.add("ReduceMax", ["ended"], "sum", keepdims=0)
    return graph.add("Add", ["mix", graph.add("Mul", [sum_, graph.constant("nothing", 0.0)], "zero")], "late")


GRAPHS = {f.__name__: f for f in (half, level, nan_when_loud, failing, slow)}


def build(kind: str, shapes: Shapes) -> onnx.ModelProto:
    """A model of the engine contract. A waveform becomes waveforms as the mix becomes stems of `half`."""
    graph = Graph()
    stems = shapes.outputs["stems"][1]
    graph.finish(GRAPHS[kind](graph), stems)
    if "waveform" in shapes.inputs:
        levels = graph.constant("levels", np.reshape(0.5 ** np.arange(1, stems + 1), (1, stems, 1, 1)))
        wave = graph.add("Unsqueeze", ["waveform", graph.constant("first", [1], INT64)], "wave")
        graph.add("Mul", [wave, levels], "waveforms")
    inputs, outputs = (
        [onnx.helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in tensors.items()]
        for tensors in (shapes.inputs, shapes.outputs)
    )
    made = onnx.helper.make_graph(graph.nodes, kind, inputs, outputs, initializer=graph.constants)
    return onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR)


@pytest.fixture(scope="session")
def make_engine(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a graph of GRAPHS and its manifest; the path of the .onnx file. Needs no torch."""

    def make(
        kind: str = "half",
        *,
        stems: tuple[str, ...] = ("vocals",),
        residual: str | None = "instrumental",
        channels: int = 2,
        sample_rate: int = 44100,
        batch: int = 1,
        chunk: int = 4000,
        overlap: float = 0.5,
        normalize: bool = False,
        parity: tuple[Parity, ...] = (),
        time_branch: bool = False,
        stft: Stft = STFT,
    ) -> Path:
        path = tmp_path_factory.mktemp("engine") / f"{kind}.onnx"
        entry = EngineFile(path.name, "onnx", f"opset {OPSET}", "fp32", (), batch, "0" * 64)
        manifest = Manifest(
            name=kind,
            architecture="test",
            sample_rate=sample_rate,
            channels=channels,
            stems=stems,
            residual=residual,
            stft=stft,
            chunk=ChunkSize(chunk, stft.frames(chunk)),
            overlap_add=OverlapAdd("fade", overlap),
            normalize=normalize,
            engines=(entry,),
            source=Source("test.ckpt", "0" * 64, {}, "0", "0"),
            parity=parity,
            inputs=("mix", "waveform") if time_branch else ("mix",),
            outputs=("stems", "waveforms") if time_branch else ("stems",),
        )
        onnx.save(build(kind, Shapes.of(manifest, batch)), path)
        manifest = replace(manifest, engines=(replace(entry, sha256=file_sha256(path)),))
        path.with_suffix(".json").write_text(manifest.to_json())
        return path

    return make


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Checkpoint and yaml of a tiny seeded BS-Roformer in the public layout: chunk 8000, n_fft 256."""
    from oracle import Oracle

    return Oracle("bs_roformer", {"depth": 1, "dim": 16}).write(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def exported(checkpoint: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The engine file of that checkpoint for a batch size, verified when it was exported."""
    from rofo.export import ExportOptions, export_checkpoint

    made: dict[int, Path] = {}

    def engine(batch: int = 1) -> Path:
        if batch not in made:
            output = tmp_path_factory.mktemp("exported") / "tiny"
            options = ExportOptions(output=output, config=checkpoint[1], batch=batch)
            made[batch] = export_checkpoint(checkpoint[0], options).files[0]
        return made[batch]

    return engine


@pytest.fixture(scope="module")
def opened(make_engine: Callable[..., Path]) -> Iterator[Callable[..., Separator]]:
    """Separators by the arguments of `make_engine`, each opened once."""
    made: dict[tuple[object, ...], Separator] = {}

    def get(
        kind: str = "level", *, backend: str = "onnxruntime", threads: int | None = None, **options: object
    ) -> Separator:
        key = (kind, backend, threads, *sorted(options.items()))
        if key not in made:
            made[key] = Separator(make_engine(kind, **options), backend=backend, threads=threads)
        return made[key]

    yield get
    for separator in made.values():
        separator.close()


@pytest.fixture(scope="session")
def song() -> Callable[..., np.ndarray]:
    """Make a song: (channels, samples) float32, chords and noise below 6 kHz, different in every channel."""

    def make(samples: int, channels: int = 2, rate: int = 44100, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        time = np.arange(samples) / rate
        parts = rng.uniform(100, 6000, (channels, 40, 1)), rng.uniform(0, 6.28, (channels, 40, 1))
        tones = np.sin(2 * np.pi * parts[0] * time + parts[1]).sum(axis=1)
        return (0.03 * tones).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def snr_db() -> Callable[[np.ndarray, np.ndarray], float]:
    """10 log10 of signal over noise, summed in float64; infinite for equal arrays."""

    from oracle import snr_db as measure

    return measure
