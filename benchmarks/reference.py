"""The other side of a comparison: networks that are not rofo's engines, as plain functions of chunks.

`pymss-core` is PyTorch code that we did not write, and `ConvTDFNet` a restatement of MDX-Net, which it does
not have; `network` is the model as rofo-export sees it before it is a graph (for an MDX-Net .onnx, the given
file in ONNX Runtime); `plain` is the engine's own graph in ONNX Runtime as anyone would drive it.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import rofo.model
from rofo.benchmarks.stopwatch import wrapped
from rofo.dsp.scheme import Chunk
from rofo.dsp.spectrogram import Spectrogram
from rofo.errors import EngineLoadError
from rofo.manifest import Manifest, Stft, load_engine_manifest

Floats = NDArray[np.float32]

PYMSS, RESTATED, NETWORK, PLAIN = "pymss-core", "ConvTDFNet", "network", "plain"
PYMSS_FAMILIES = {  # our name of a family -> pymss-core's
    "bs_roformer": "bs_roformer",
    "mel_band_roformer": "mel_band_roformer",
    "tfc_tdf_v3": "mdx23c",
}
PYTORCH = {**dict.fromkeys(PYMSS_FAMILIES, PYMSS), "mdx_net": RESTATED}  # family -> kind


class Network(Protocol):
    """chunks (n, channels, samples) -> estimates (n, stems, channels, samples), both float32."""

    def __call__(self, chunks: Floats) -> Floats: ...  # noqa: D102


@dataclass(frozen=True)
class Told:
    """What its user tells of a checkpoint: the yaml, or what an MDX-Net that no catalogue knows needs."""

    config: Path | None = None
    n_fft: int | None = None
    stems: tuple[str, ...] | None = None
    compensate: float | None = None

    def export_options(self) -> list[str]:
        """The same for rofo-export."""
        options = {"--config": self.config, "--n-fft": self.n_fft, "--compensate": self.compensate}
        stems = ["--stems", ",".join(self.stems)] if self.stems else []
        return [str(x) for pair in options.items() if pair[1] is not None for x in pair] + stems


@dataclass(frozen=True)
class Source:
    """The engine, and the checkpoint that it was made of, with what was told of it."""

    engine: Path
    checkpoint: Path | None = None
    told: Told = Told()


@dataclass(frozen=True)
class Setting:
    """How PyTorch runs it: fp32 as it is, bf16 and fp16 under autocast."""

    precision: str = "fp32"
    device: str = "cpu"
    compiled: bool = False

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        return self.device != "cpu"

    @property
    def eager(self) -> bool:
        """As PyTorch is used without thinking of speed: what others are compared with."""
        return self.precision == "fp32" and not self.compiled


def load_network(kind: str, source: Source, setting: Setting) -> Network:
    """The network of `kind`. Raises EngineLoadError where this kind does not run this model."""
    return {PYMSS: _pymss, RESTATED: _restated, NETWORK: _own, PLAIN: _plain}[kind](source, setting)


@contextmanager
def in_place_of_engines(kind: str, source: Source, setting: Setting) -> Iterator[None]:
    """Within, separators that are opened run this network: songs take the same path, chunk by chunk."""

    def open_network(path: Path, manifest: Manifest, *_: Any) -> "_NetworkEngine":
        batch = next(entry.batch for entry in manifest.engines if entry.file == path.name)
        return _NetworkEngine(load_network(kind, source, setting), kind, setting.precision, batch)

    with ExitStack() as replacing:
        replacing.enter_context(wrapped(rofo.model, "open_engine", lambda _: open_network))
        replacing.enter_context(wrapped(rofo.model, "ChunkLoop", lambda _: _NetworkLoop))
        yield


class _NetworkEngine:
    """What a separator holds in place of an engine."""

    in_flight, healthy = 1, True

    def __init__(self, network: Network, backend: str, precision: str, batch: int) -> None:
        self.run, self.backend, self.precision, self.batch = network, backend, precision, batch

    def close(self) -> None:
        """Let go of the network."""
        del self.run


class _NetworkLoop:
    """Stands in for rofo.dsp.chunk_loop.ChunkLoop: no transform of ours comes near the network."""

    def __init__(self, engine: _NetworkEngine, *_: Any) -> None:
        self._engine = engine

    def __call__(self, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, Floats]]:
        source = iter(chunks)
        while group := list(islice(source, self._engine.batch)):
            estimates = self._engine.run(np.stack([chunk.samples for chunk in group]))
            yield from zip(group, estimates, strict=True)


def _pymss(source: Source, setting: Setting) -> Network:
    """pymss-core reads the yaml and the weights by itself; only what it defaults otherwise is told it."""
    _require("pymss_core", "rofo[bench]")
    file, model = read_source(source)
    from pymss_core import get_model_from_config

    from rofo.export.families.roformer.config import RoformerConfig

    family = PYMSS_FAMILIES[model.network.family]
    overrides: dict[str, Any] = {}
    if isinstance(model.network, RoformerConfig):
        overrides = {name: getattr(model.network, name) for name in ("zero_dc", "skip_connection")}
        overrides |= {"stft_hop_length": model.network.hop_length, "stft_n_fft": model.network.n_fft}
        if family == "mel_band_roformer":  # counts hidden layers in the yaml, and has another name there
            overrides["mlp_hidden_layers"] = model.source.get("model", {}).get("mask_estimator_depth", 1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "config.yaml"
            config.write_text(json.dumps(model.source), encoding="utf-8")
            network, _ = get_model_from_config(family, str(config), overrides)
        network.load_state_dict(file.state)
    except Exception as error:  # noqa: BLE001 - whatever it raises for models it does not know
        raise EngineLoadError(f"{file.path}: pymss-core does not run it ({str(error)[:200]})") from None
    run = _torch(network, setting)
    stems, channels = len(model.stems), model.network.channels
    return lambda chunks: run(chunks).reshape(len(chunks), stems, channels, -1)


def _restated(source: Source, setting: Setting) -> Network:
    """A ConvTDFNet of Lightning's hyper-parameters, run as UVR runs it."""
    from rofo.benchmarks.conv_tdf_net import AsEngine, ConvTdfNet
    from rofo.export.families.mdx_net.config import ConvTdfConfig

    file, model = read_source(source)
    config = model.network
    if not isinstance(config, ConvTdfConfig) or "num_blocks" not in file.hyper_parameters:
        raise EngineLoadError(f"{file.path}: no Lightning checkpoint, so nothing tells PyTorch its shape")
    network = ConvTdfNet(file.hyper_parameters, layout=config.key_layout)
    network.load_state_dict({k: v for k, v in file.state.items() if k not in ("window", "freq_pad")})
    run = _torch(AsEngine(network, config.dim_f, config.zero_bins, config.compensate), setting)
    return _between_transforms(Spectrogram(Stft(config.n_fft, config.hop_length), model.chunk), run)


def _own(source: Source, setting: Setting) -> Network:
    """Our network (in PyTorch), or a given MDX-Net in ONNX Runtime, between our transforms."""
    from rofo.export.families.roformer.config import RoformerConfig
    from rofo.export.families.roformer.network import Roformer
    from rofo.export.model_file import geometry, make_graphs

    file, model = read_source(source)
    stft, chunk = geometry(model)
    if isinstance(model.network, RoformerConfig):  # whose graphs let go of the network after one chunk
        run = _torch(Roformer(model.network, file.state, chunk.frames), setting)
    elif setting == Setting():
        graphs = make_graphs(file, model, unsafe_pickle=False)
        run = lambda mix: np.concatenate([graphs.stems(one[None]) for one in mix])  # noqa: E731
    else:
        raise EngineLoadError(f"{file.path}: its own network is run in fp32 on the processor only")
    return _between_transforms(Spectrogram(stft, chunk.samples), run)


def _plain(source: Source, setting: Setting) -> Network:
    """The engine's graph in a session with ONNX Runtime's own defaults."""
    _require("onnxruntime", "rofo[ort]")
    import onnxruntime

    if setting != Setting():
        raise EngineLoadError(f"{source.engine}: ONNX Runtime is driven in fp32 on the processor only")
    session = onnxruntime.InferenceSession(source.engine, providers=["CPUExecutionProvider"])
    manifest = load_engine_manifest(source.engine)
    transform = Spectrogram(manifest.stft, manifest.chunk.samples)
    return _between_transforms(transform, lambda mix: session.run(["stems"], {"mix": mix})[0])


def read_source(source: Source) -> tuple[Any, Any]:
    """The checkpoint of a source and its ModelConfig. Raises CheckpointError."""
    from rofo.export.families.roformer.config import Facts
    from rofo.export.model_file import read_model, resolve

    if source.checkpoint is None:
        raise EngineLoadError(f"{source.engine}: give the checkpoint instead, to compare with PyTorch")
    file = read_model(source.checkpoint, unsafe_pickle=False)
    told = source.told
    facts = Facts(n_fft=told.n_fft, stems=told.stems, compensate=told.compensate)
    return file, resolve(file, yaml=told.config, facts=facts)


def _torch(network: Any, setting: Setting) -> Callable[[Floats], Floats]:
    """A module as a function of arrays. Products in TF32 are off, so that fp32 is fp32."""
    import torch

    if setting.on_gpu and not torch.cuda.is_available():
        raise EngineLoadError(f"PyTorch {torch.__version__} sees no GPU; choose --device cpu")
    torch.backends.cuda.matmul.allow_tf32 = False
    placed = network.eval().to(setting.device)
    called = torch.compile(placed) if setting.compiled else placed
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(setting.precision)

    def run(arrays: Floats) -> Floats:
        casting = torch.autocast(setting.device, half or torch.bfloat16, enabled=half is not None)
        with torch.inference_mode(), casting:
            out: Floats = called(torch.from_numpy(arrays).to(setting.device)).float().cpu().numpy()
        return out

    return run


def _between_transforms(transform: Spectrogram, run: Callable[[Floats], Floats]) -> Network:
    return lambda chunks: transform.inverse(run(transform.forward(chunks)))


def _require(module: str, extra: str) -> None:
    if find_spec(module) is None:
        raise EngineLoadError(f"{module} is not installed; pip install '{extra}'")
