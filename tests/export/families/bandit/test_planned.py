"""Bandit's plan for TensorRT-RTX: a real build without a GPU, and the kernels it will launch."""

import pytest
import torch
from planned import read_kernels

from rofo.export.families.bandit import Bandit
from rofo.export.families.bandit.network import Bandit as Network
from rofo.export.families.bandit.network import Sizes
from rofo.export.graph.trace import Tensors, write_onnx
from rofo.export.graph.types import Form
from rofo.export.plan.gpus import GPUS
from rofo.export.plan.tensorrt import build_plan

# Bands that overlap and grow as the public ones do, in fewer bins; a pair of layers of public widths.
BANDS = tuple((first, min(2 + first // 4, 257 - first)) for first in range(0, 257, 1 + 257 // 24))
FRAMES = 40


def planned(folder, precision):
    torch.manual_seed(0)
    sizes = Sizes(
        512, BANDS, ("speech", "music"), 128, 256, 512, 1, "GRU", parts_first=True, use_freq_weights=True
    )
    network = Network(sizes).requires_grad_(False).eval()
    engine = Bandit().engine(network, None, Form("tensorrt", precision))
    graph, plan = folder / "typed.onnx", folder / "p.plan"
    write_onnx(engine, Tensors({"mix": (1, 2, FRAMES, 257, 2)}, ("stems",)), graph, typed=True)
    build_plan(graph, plan, backend="tensorrt-rtx", gpu=GPUS["rtx4090"], stage=lambda _: None)
    return read_kernels(plan.read_bytes())


@pytest.mark.parametrize(("precision", "type_"), [("fp16", "half"), ("bf16", "bf16")])
def test_around_its_loops_a_plan_has_few_kernels(tmp_path, precision, type_):
    """Measured: 56 kernels, 16 of them around the loops of two layers."""
    kernels = planned(tmp_path, precision)
    around = [k for k in kernels if any(_is_around(node) for node in k.nodes)]
    products = [k for k in around if k.product]
    assert len(kernels) <= 62
    assert len(around) <= 18
    # Band split, a product behind each layer, the first of both maskers, the last of each.
    assert len(products) == 1 + 2 + 1 + 2
    assert {k.sums_in for k in products} <= {2, None}
    assert all(type_ in k.types for k in products if k.types)


def _is_around(node):
    module, _, operator = node.partition("/")
    return bool(operator) and not module.endswith(".rnn.layer")
