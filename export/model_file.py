"""Any model file -> what it is and the graphs that can be made of it, whatever its family."""

from pathlib import Path

from rofo.errors import CheckpointError, ManifestError
from rofo.export.checkpoint import Checkpoint, load_checkpoint
from rofo.export.config import Facts, ModelConfig, Network, RoformerConfig, resolve_config
from rofo.export.conv_graphs import NetworkGraphs, OnnxGraphs
from rofo.export.file_kind import file_kind
from rofo.export.graphs import Graphs
from rofo.export.mdx23c_model import resolve_tfc_tdf
from rofo.export.mdx_config import ConvTdfConfig, MdxOnnxConfig, TfcTdfConfig
from rofo.export.mdx_model import resolve_conv_tdf, resolve_mdx_onnx
from rofo.export.mdx_onnx import MdxGraph, read_mdx_onnx
from rofo.export.mdx_shapes import is_conv_tdf, is_tfc_tdf
from rofo.export.roformer_graphs import RoformerGraphs
from rofo.manifest import ChunkSize, Stft

ModelFile = Checkpoint | MdxGraph


def read_model(path: Path, *, unsafe_pickle: bool) -> ModelFile:
    """Read a checkpoint of weights, or the .onnx file of an MDX-Net. Raises CheckpointError."""
    if file_kind(path) == "onnx":
        return read_mdx_onnx(path)
    return load_checkpoint(path, unsafe_pickle=unsafe_pickle)


def resolve(file: ModelFile, *, yaml: Path | None, facts: Facts) -> ModelConfig:
    """Everything there is to know about the model in a file. Raises CheckpointError, UsageError."""
    if isinstance(file, MdxGraph):
        return resolve_mdx_onnx(file, yaml, facts)
    if is_conv_tdf(file.state):
        return resolve_conv_tdf(file, yaml, facts)
    if is_tfc_tdf(file.state):
        return resolve_tfc_tdf(file, yaml, facts)
    return resolve_config(file, yaml=yaml, facts=facts)


def make_graphs(file: ModelFile, model: ModelConfig, *, unsafe_pickle: bool) -> Graphs:
    """The graphs of a model; empties a checkpoint's state. Raises CheckpointError if weights do not fit."""
    network, (_, chunk) = model.network, geometry(model)
    if isinstance(file, MdxGraph):
        assert isinstance(network, MdxOnnxConfig)
        return OnnxGraphs(network, file, chunk)
    if isinstance(network, RoformerConfig):
        return RoformerGraphs(network, file, chunk, unsafe_pickle=unsafe_pickle)
    assert isinstance(network, ConvTdfConfig | TfcTdfConfig)
    return NetworkGraphs(network, file, chunk)


def geometry(model: ModelConfig) -> tuple[Stft, ChunkSize]:
    """The transform and the chunk. Raises CheckpointError where they do not go together."""
    network = model.network
    try:
        stft = Stft(network.n_fft, network.hop_length, normalized=network.stft_normalized)
    except ManifestError as error:
        raise CheckpointError(
            f"{model.name}: {error}, n_fft {network.n_fft}: an STFT that cannot be inverted; correct the "
            "yaml or the options"
        ) from None
    return stft, ChunkSize(model.chunk, stft.frames(model.chunk))


def summary(model: ModelConfig) -> str:
    """The model in a line."""
    _, chunk = geometry(model)
    seconds = chunk.samples / model.network.sample_rate
    return (
        f"{_network(model.network)}, stems {', '.join(model.stems)}, "
        f"chunks of {seconds:.2f} s ({chunk.frames} frames)"
    )


def _network(network: Network) -> str:
    if isinstance(network, RoformerConfig):
        return f"{network.family} {network.dim}x{network.depth}, {len(network.bands)} bands"
    if isinstance(network, TfcTdfConfig):
        scales = f"{network.num_scales} scales, {network.num_subbands} sub-bands"
        return f"{network.family} {network.num_channels}+{network.growth}, {scales} of {network.dim_f} bins"
    assert isinstance(network, ConvTdfConfig | MdxOnnxConfig)
    use = f"lowest {network.zero_bins} bins silent, gain {network.compensate:g}"
    return f"{network.family}, n_fft {network.n_fft}, {network.dim_f} bins, {use}"
