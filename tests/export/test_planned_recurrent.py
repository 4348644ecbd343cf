"""Plans of Demucs, SCNet and BSRNN: real builds, the kernels in them, and how often their loops run."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from planned import Kernel, gigabytes, read_kernels
from torch import nn

from rofo.export.families.bsrnn.engine import Engine as BsrnnEngine
from rofo.export.families.bsrnn.network import Bsrnn
from rofo.export.families.bsrnn.network import Sizes as BsrnnSizes
from rofo.export.families.demucs.engine import arranged
from rofo.export.families.demucs.network import Demucs
from rofo.export.families.demucs.sizes import Sizes as DemucsSizes
from rofo.export.families.scnet.engine import Engine as ScnetEngine
from rofo.export.families.scnet.network import Scnet
from rofo.export.families.scnet.network import Sizes as ScnetSizes
from rofo.export.graph.cost import graph_cost
from rofo.export.graph.trace import Tensors, write_onnx
from rofo.export.graph.types import Form
from rofo.export.plan.gpus import GPUS
from rofo.export.plan.tensorrt import build_plan

FP16 = Form("tensorrt", "fp16")


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


def scnet(frames: int, bins: int, **sizes: object) -> Shape:
    usual = {"num_stems": 4, "band_stride": (1, 4, 16), "band_kernel": (3, 4, 16), "conv_depths": (3, 2, 1),
             "compress": 4, "conv_kernel": 3, "num_dplayer": 6, "expand": 1, "masked": False}  # fmt: skip
    network = Scnet(ScnetSizes(bins=bins, **{**usual, **sizes})).eval().requires_grad_(False)
    return Shape(ScnetEngine(network, frames, FP16), Tensors({"mix": (1, 2, frames, bins, 2)}, ("stems",)))


def bsrnn(sizes: BsrnnSizes, bands: list[int], frames: int) -> Shape:
    network = Bsrnn(sizes, bands, 1).eval().requires_grad_(False)
    return Shape(BsrnnEngine(network, FP16), Tensors({"mix": (1, 2, frames, sum(bands), 2)}, ("stems",)))


V4 = {"depth": 4, "dconv_mode": 3, "dconv_comp": 8}
BANDS = [8, 8, 8, 16, 16, 32]
SMALL = {
    "htdemucs": lambda: demucs(DemucsSizes(**V4, width=16, t_layers=3, t_heads=2, bottom_channels=128), 32768),
    "hdemucs": lambda: demucs(DemucsSizes(width=16), 65536),
    "scnet": lambda: scnet(60, 513, dims=(4, 16, 32), num_dplayer=2, conv_depths=(1, 1, 1), band_SR=(0.2, 0.4, 0.4)),
    "bsrnn lstm": lambda: bsrnn(BsrnnSizes(32, 1, "lstm", "lstm"), BANDS, 50),
    "bsrnn gru": lambda: bsrnn(BsrnnSizes(32, 1, "gru", "gru"), BANDS, 50),
    "bsrnn conv": lambda: bsrnn(BsrnnSizes(32, 2, "conv", "conv", n_att_head=2, attn_enc_dim=10), BANDS, 50),
}


def planned(shape: Shape, folder: Path) -> tuple[list[Kernel], int]:
    graph, plan = folder / "typed.onnx", folder / "p.plan"
    write_onnx(shape.engine, shape.tensors, graph, typed=True)
    build_plan(graph, plan, backend="tensorrt-rtx", gpu=GPUS["rtx4090"], stage=lambda _: None)
    return read_kernels(plan.read_bytes()), graph_cost(graph).steps
