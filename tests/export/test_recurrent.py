"""Recurrent layers as the loops of a plan: PyTorch's numbers, their cost, and how often they launch what."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rofo.export.graph.cost import graph_cost
from rofo.export.graph.recurrent import Loop, Loops
from rofo.export.graph.rounded import RoundedGraph
from rofo.export.graph.trace import Tensors, write_onnx
from rofo.export.graph.types import Form, Precision
from rofo.export.plan.gpus import GPUS, least_launches
from rofo.export.plan.program import count_launches, launches
from rofo.export.plan.tensorrt import build_plan

STEPS, SEQUENCES, INPUTS, HIDDEN = 20, 3, 8, 16
KINDS = {"lstm": nn.LSTM, "gru": nn.GRU}


class AsEngine(nn.Module):
    """A layer between the tensors of an engine."""

    def __init__(self, loop: nn.Module) -> None:
        super().__init__()
        self.loop = loop

    def forward(self, mix: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.loop(mix[0, 0])[0]
        return found[None, None, None]


def looped(kind: str, precision: Precision = "fp32") -> tuple[nn.RNNBase, AsEngine]:
    torch.manual_seed(0)
    layer = KINDS[kind](INPUTS, HIDDEN, bidirectional=True).requires_grad_(False)
    weights = dict(layer.named_parameters())
    return layer, AsEngine(Loop(KINDS[kind], weights, Form("tensorrt", precision)))


def written(engine: AsEngine, folder: Path) -> Path:
    shape = (1, 1, STEPS, SEQUENCES, INPUTS)
    write_onnx(engine, Tensors({"mix": shape}, ("stems",)), folder / "g.onnx", typed=True)
    return folder / "g.onnx"


def mix() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((1, 1, STEPS, SEQUENCES, INPUTS)).astype(np.float32)


@pytest.mark.parametrize(("precision", "error"), [("fp32", 1e-6), ("fp16", 1e-3), ("bf16", 1e-2)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_is_the_layer_and_its_graph_the_loop(kind, precision, error, tmp_path):
    layer, engine = looped(kind, precision)
    x = mix()
    wanted = layer(torch.from_numpy(x[0, 0]))[0].numpy()
    here = engine(torch.from_numpy(x))[0, 0, 0].numpy()
    np.testing.assert_allclose(here, wanted, atol=error)
    outputs, _, _ = RoundedGraph(written(engine, tmp_path)).run({"mix": x})
    np.testing.assert_allclose(outputs["stems"][0, 0, 0], here, atol=error / 4)


def test_layers_on_each_other_with_the_sequences_first():
    torch.manual_seed(0)
    lstm = nn.LSTM(INPUTS, HIDDEN, num_layers=2, bidirectional=True, batch_first=True).requires_grad_(False)
    x = torch.randn(SEQUENCES, STEPS, INPUTS)
    torch.testing.assert_close(Loops(lstm, Form("tensorrt", "fp32"))(x)[0], lstm(x)[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_two_kernels_and_what_is_computed_is_counted(kind, tmp_path):
    graph, plan = written(looped(kind, "fp16")[1], tmp_path), tmp_path / "p.plan"
    cost = graph_cost(graph)
    assert cost.steps == STEPS
    assert cost.flop == STEPS * 2 * 2 * SEQUENCES * (INPUTS + HIDDEN) * 4 * HIDDEN
    built = build_plan(graph, plan, backend="tensorrt-rtx", gpu=GPUS["rtx4090"], stage=lambda _: None)
    kernels = launches(plan.read_bytes())
    # Eight steps are unrolled: two trips, and the last four steps behind them.
    assert {kernel.runs for kernel in kernels} == {1, 2}
    assert built.launches == sum(kernel.runs for kernel in kernels)
    assert built.launches < 1.25 * least_launches(cost) + 8
    assert len(kernels) < built.launches


def program(body: str, on_host: str = "n") -> bytes:
    tensor = f'  tensor={{ name="{on_host}" region="hmem" type=int32 }}\n'
    return f"\ndescriptors {{\n{tensor}\n}}\nmain {{\n{body}\n}}\n".encode()


SET = '  memset={ name="a" output={"n" }  src="0i32" stream=0 }\n'
ADD = '  add={ name="b" output={"n" } input={"n" "__d^4i32" } stream=0 }\n'
KERNEL = '  function={ name=k args={ "x" } input_args={ "x" } output_args={ "y" } stream=0 }\n'
JUMP = '  cjmp={ name="c" input={"n" "__d^10i32" } stream=0 op=lt target={one two } }\n'


def test_a_kernel_runs_once_for_every_trip_of_its_loop():
    text = f"{KERNEL}{SET} label one: \n{KERNEL}{KERNEL}{ADD}{JUMP} label two: \n{KERNEL}"
    assert [launch.runs for launch in launches(program(text))] == [1, 3, 3, 1]
    assert count_launches(program(text)) == 8


@pytest.mark.parametrize(
    "body",
    [
        "",
        f"{SET} label one: \n{KERNEL}{JUMP} label two: \n",  # nothing is added
        f" label one: \n{KERNEL}{ADD}{JUMP} label two: \n",  # it starts nowhere
        f"{SET}{KERNEL}{ADD}{JUMP} label one: \n label two: \n",  # it goes on
    ],
)
def test_a_program_of_another_form_is_not_counted(body):
    assert count_launches(program(body)) is None
    assert count_launches(b"another format") is None
