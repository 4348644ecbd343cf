"""Plans of Demucs, SCNet and BSRNN: real builds, the kernels in them, and how often their loops run."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from planned import Kernel, gigabytes, read_kernels
from torch import nn

from rofo.export import ExportOptions, export_checkpoint
from rofo.export.families.bsrnn.engine import Engine as BsrnnEngine
from rofo.export.families.bsrnn.network import Bsrnn
from rofo.export.families.bsrnn.network import Layer as BsrnnLayer
from rofo.export.families.bsrnn.network import Sizes as BsrnnSizes
from rofo.export.families.demucs.engine import arranged
from rofo.export.families.demucs.network import Demucs
from rofo.export.families.demucs.sizes import Sizes as DemucsSizes
from rofo.export.families.demucs.wave_engine import arranged as arranged_wave
from rofo.export.families.demucs.wave_network import WaveDemucs, WaveSizes
from rofo.export.families.scnet.engine import Engine as ScnetEngine
from rofo.export.families.scnet.network import Scnet
from rofo.export.families.scnet.network import Sizes as ScnetSizes
from rofo.export.graph.cost import graph_cost
from rofo.export.graph.trace import Tensors, write_onnx
from rofo.export.graph.types import Form
from rofo.export.plan.gpus import GPUS
from rofo.export.plan.plan import PlanOptions
from rofo.export.plan.tensorrt import build_plan
from rofo.manifest import Manifest, load_manifest

FP16 = Form("tensorrt", "fp16")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@dataclass(frozen=True)
class Shape:
    """A network in the form of a plan, and the tensors of one chunk."""

    engine: nn.Module
    tensors: Tensors


def demucs(sizes: DemucsSizes, samples: int) -> Shape:
    hop = sizes.n_fft // 4
    frames, bins = -(-samples // hop), sizes.n_fft // 2
    inputs = {"mix": (1, 2, frames, bins, 2), "waveform": (1, 2, samples)}
    network = Demucs(sizes).eval().requires_grad_(False)
    return Shape(arranged(network, frames, samples, FP16), Tensors(inputs, ("stems", "waveforms")))


def demucs_wave(sizes: WaveSizes, segment: int) -> Shape:
    samples = sizes.valid_length(segment)
    network = WaveDemucs(sizes, widened=True).eval().requires_grad_(False)
    return Shape(arranged_wave(network, FP16), Tensors({"waveform": (1, 2, samples)}, ("waveforms",)))


def scnet(frames: int, bins: int, **sizes: object) -> Shape:
    usual = {"num_stems": 4, "band_stride": (1, 4, 16), "band_kernel": (3, 4, 16), "conv_depths": (3, 2, 1),
             "compress": 4, "conv_kernel": 3, "num_dplayer": 6, "expand": 1, "masked": False}  # fmt: skip
    network = Scnet(ScnetSizes(bins=bins, **{**usual, **sizes})).eval().requires_grad_(False)
    return Shape(ScnetEngine(network, frames, FP16), Tensors({"mix": (1, 2, frames, bins, 2)}, ("stems",)))


def bsrnn(sizes: BsrnnSizes, bands: list[int], frames: int) -> Shape:
    network = Bsrnn(sizes, bands, 1).eval().requires_grad_(False)
    return Shape(BsrnnEngine(network, FP16), Tensors({"mix": (1, 2, frames, sum(bands), 2)}, ("stems",)))


V4 = {"dconv_mode": 3, "dconv_comp": 8}
BANDS = [8, 8, 8, 16, 16, 32]


@dataclass(frozen=True)
class Bound:
    """The most a plan may have: kernels in its program, launches of a run, moves, gigabytes a run touches.

    Of its attentions so many are fused, of its products so many `exact` ones are float32.
    """

    kernels: int
    launches: int
    moves: int
    gigabytes: float
    attentions: int = 0
    exact: int = 0


def planned(shape: Shape, folder: Path) -> tuple[list[Kernel], int]:
    """The kernels of a network's plan, and the steps of its loops."""
    graph, plan = folder / "typed.onnx", folder / "p.plan"
    write_onnx(shape.engine, shape.tensors, graph, typed=True)
    build_plan(graph, plan, backend="tensorrt-rtx", gpu=GPUS["rtx4090"], stage=lambda _: None)
    return read_kernels(plan.read_bytes()), graph_cost(graph).steps


def resamples(kernel: Kernel) -> bool:
    """Whether it is one of the filters between a wave network and the song, which are float32."""
    return kernel.nodes[0].startswith(("up/Conv", "down/Conv"))


def assert_within(kernels: list[Kernel], steps: int, bound: Bound) -> None:
    convolutions = [kernel for kernel in kernels if kernel.convolution or kernel.computes("Conv")]
    products = [kernel for kernel in kernels if kernel.product and kernel not in convolutions]
    exact = [kernel for kernel in products if "half" not in kernel.takes]
    assert len(exact) == bound.exact
    assert all("half" in kernel.takes for kernel in convolutions if not resamples(kernel))
    assert {kernel.sums_in for kernel in products if kernel not in exact} <= {2, None}
    assert sum(kernel.fused_attention for kernel in kernels) == bound.attentions
    assert len(kernels) <= bound.kernels
    assert sum(kernel.only_moves for kernel in kernels) <= bound.moves
    assert gigabytes(kernels) <= bound.gigabytes
    launches = sum(kernel.runs for kernel in kernels)
    assert launches <= bound.launches
    # A step is a product and its gates; every eighth one gathers the next input in a kernel of its own.
    assert launches - len(kernels) <= 2.13 * steps


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_bsrnn(kind: BsrnnLayer, tmp_path: Path) -> None:
    """Measured of both kinds: 83 kernels, 168 launches; of PyTorch's operators 4 kernels a step and more."""
    bound = Bound(kernels=86, launches=172, moves=2, gigabytes=0.019)
    assert_within(*planned(bsrnn(BsrnnSizes(32, 1, kind, kind), BANDS, 50), tmp_path), bound)


def test_bsrnn_of_convolutions_with_attention_has_no_loops(tmp_path: Path) -> None:
    """Measured: 111 kernels. Heads as wide as all bands together, 60 and 96 here, are no fused kernel's."""
    sizes = BsrnnSizes(32, 2, "conv", "conv", n_att_head=2, attn_enc_dim=10)
    kernels, steps = planned(bsrnn(sizes, BANDS, 50), tmp_path)
    assert_within(kernels, steps, Bound(kernels=114, launches=114, moves=1, gigabytes=0.013))
    assert steps == 0


def test_scnet(tmp_path: Path) -> None:
    """Measured: 241 kernels, 581 launches."""
    shape = scnet(60, 513, dims=(4, 16, 32), num_dplayer=2, conv_depths=(1, 1, 1), band_SR=(0.2, 0.4, 0.4))
    bound = Bound(kernels=248, launches=590, moves=9, gigabytes=0.12)
    assert_within(*planned(shape, tmp_path), bound)


def test_demucs_v4_fuses_every_attention(tmp_path: Path) -> None:
    """Two levels of four, two layers of five (measured: 214 kernels, 0.206 GB)."""
    sizes = DemucsSizes(**V4, n_fft=512, width=16, depth=2, t_layers=2, t_heads=2, bottom_channels=128)
    kernels, steps = planned(demucs(sizes, 16384), tmp_path)
    assert_within(kernels, steps, Bound(kernels=220, launches=220, moves=13, gigabytes=0.21, attentions=4))


def test_demucs_v3(tmp_path: Path) -> None:
    """The last level has windowed LSTMs and local attention (measured: 137 kernels, 953 launches)."""
    sizes = DemucsSizes(n_fft=64, width=16, depth=3, dconv_depth=1, dconv_lstm=2, dconv_attn=2, norm_starts=2)
    bound = Bound(kernels=142, launches=960, moves=5, gigabytes=0.058, exact=1)
    assert_within(*planned(demucs(sizes, 9600), tmp_path), bound)


WAVES = {
    "v3": WaveSizes(width=16, depth=3, dconv_depth=1, dconv_lstm=2, dconv_attn=2, norm_starts=2),
    "v2": WaveSizes(generation=2, width=16, depth=4, context=3, lstm_layers=2, gelu=False, levelled=False),
}


@pytest.mark.parametrize(
    ("kind", "bound"),
    [
        ("v3", Bound(kernels=121, launches=945, moves=5, gigabytes=0.0475, exact=1)),
        ("v2", Bound(kernels=100, launches=378, moves=3, gigabytes=0.119)),
    ],
)
def test_demucs_of_one_branch(kind: str, bound: Bound, tmp_path: Path) -> None:
    """Measured: 117 kernels, 933 launches, 0.0461 GB of a v3; 97, 369 and 0.1152 of a v2."""
    kernels, steps = planned(demucs_wave(WAVES[kind], 9600), tmp_path)
    assert_within(kernels, steps, bound)


def test_the_manifest_and_the_user_are_told_what_a_recurrent_plan_launches(tmp_path: Path) -> None:
    state = {**Bsrnn(BsrnnSizes(8, 1, "lstm", "conv"), (8, 8, 12, 5), 1).state_dict()}
    torch.save({**state, "stft.transf.window": torch.hann_window(64)}, tmp_path / "voice.ckpt")
    given = {"chunk_seconds": 0.01, "hop_length": 16, "stems": ("voice",)}
    told: list[str] = []
    options = ExportOptions(given=given, onnx=False, verify=False, plan=PlanOptions(batch=2))
    report = export_checkpoint(tmp_path / "voice.ckpt", options, told.append)
    manifest = load_manifest(report.files[-1])
    assert isinstance(manifest, Manifest)
    (entry,) = manifest.engines
    kernels = read_kernels((tmp_path / entry.file).read_bytes())
    assert entry.launches == sum(kernel.runs for kernel in kernels)
    assert entry.launches > len(kernels)
    said = f"recurrent layers are loops: {entry.launches} kernels a run, {entry.launches / 2:.0f} a chunk; "
    assert any(line.startswith(said) and "predicted" in line for line in told)


@pytest.mark.slow
def test_the_htdemucs_shape(tmp_path: Path) -> None:
    """htdemucs, 7.8 s (measured: 642 kernels, of which 102 only move 1.8 of 9.12 GB)."""
    sizes = DemucsSizes(**V4, depth=4, t_layers=5, bottom_channels=512)
    kernels, steps = planned(demucs(sizes, 343980), tmp_path)
    assert_within(kernels, steps, Bound(kernels=650, launches=650, moves=104, gigabytes=9.3, attentions=10))


@pytest.mark.slow
def test_the_bsrnn_shape(tmp_path: Path) -> None:
    """64 x 8, one head, 41 bands, 12 s (measured: 742 kernels, 18,694 launches, 9.2 + 20.4 GB in loops)."""
    sizes = BsrnnSizes(64, 8, "lstm", "lstm", n_att_head=1, attn_enc_dim=10)
    bands = [5] * 20 + [10] * 10 + [20] * 8 + [40] * 2 + [585]
    kernels, steps = planned(bsrnn(sizes, bands, 1 + 12 * 44100 // 512), tmp_path)
    assert steps == 8 * (1034 + 41)
    assert_within(kernels, steps, Bound(kernels=755, launches=18_800, moves=68, gigabytes=30.2))


@pytest.mark.slow
def test_the_scnet_large_shape(tmp_path: Path) -> None:
    """SCNet large, 11 s (measured: 764 kernels, 6068 launches, 14.2 + 23.9 GB in loops)."""
    kernels, steps = planned(
        scnet(474, 2049, dims=(4, 64, 128, 256), band_SR=(0.225, 0.372, 0.403)), tmp_path
    )
    assert_within(kernels, steps, Bound(kernels=780, launches=6100, moves=70, gigabytes=38.8))
