"""The kernels that plans of the variants will launch, on a tiny shape: real builds without a GPU."""

import pytest
import torch
from golden.checkpoints import write_checkpoint
from golden.files import read
from golden.seeded import seeded_state
from planned import read_kernels

from rofo.export.families import describe, find_family
from rofo.export.graph.trace import Tensors, write_onnx
from rofo.export.graph.types import Form
from rofo.export.plan.gpus import GPUS
from rofo.export.plan.tensorrt import build_plan
from rofo.export.source import read_source

# Fused attentions, and the most kernels in all. Measured: 62, 62, 74, 80, 77, 117, 599 and 700; a
# BS-Roformer's two layers and its mask estimator are 40 and about 10.
BOUNDS = {
    ("value_residual", "value residual"): (6, 64),
    ("msst_experimental", "bs experimental, value residuals"): (6, 64),
    ("siamese", "siamese"): (6, 77),
    ("msst_conformers", "bs_conformer"): (4, 84),
    ("fno", "fno"): (4, 80),
    ("unwa", "large inst"): (12, 120),
    ("unwa", "hyperace 1"): (4, 620),
    ("unwa", "hyperace 2"): (4, 720),
}
SLOW = [pytest.param(*case, marks=pytest.mark.slow if "hyperace" in case[1] else ()) for case in BOUNDS]


@pytest.mark.parametrize(("file", "name"), SLOW)
def test_every_attention_is_fused_and_kernels_are_few(file, name, tmp_path):
    attentions, bound = BOUNDS[file, name]
    checkpoint, config = write_checkpoint(read(file).cases[name], tmp_path)
    source = read_source(checkpoint)
    family = find_family(source)
    # TensorRT-RTX has fused attention for heads of 64, not of the golden files' 8.
    facts = describe(family, source, config, {}).require().derived("weights", dim_head=64)
    network = family.network(facts).eval().requires_grad_(False)
    reals = {k: list(v.shape) for k, v in network.state_dict().items() if not v.is_complex()}
    state = {k: torch.from_numpy(v) for k, v in seeded_state(reals).items()}
    network.load_state_dict({**network.state_dict(), **state})
    frames = 1 + facts["chunk"] // facts["hop_length"]
    tensors = Tensors({"mix": (1, 2, frames, facts["n_fft"] // 2 + 1, 2)}, ("stems",))
    graph, plan = tmp_path / "typed.onnx", tmp_path / "p.plan"
    write_onnx(family.engine(network, facts, Form("tensorrt", "fp16")), tensors, graph, typed=True)
    build_plan(graph, plan, backend="tensorrt-rtx", gpu=GPUS["rtx4090"], stage=lambda _: None)
    kernels = read_kernels(plan.read_bytes())
    assert sum(kernel.fused_attention for kernel in kernels) == attentions
    assert len(kernels) <= bound
