"""Layer by layer, how far a typed graph is from the network: to find where it goes astray."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from rofo.engines.contract import Tensors
from rofo.export.graph.gates import snr_db
from rofo.export.graph.rounded import RoundedGraph

Floats = NDArray[np.float32]

_SAMPLES = 200_000  # values compared per layer: a fixed share, evenly spread


@dataclass(frozen=True)
class LayerOutput:
    """What one module of the fp32 network puts out: how many values, and an even choice of them."""

    size: int
    values: Floats


@dataclass(frozen=True)
class LayerParity:
    """Signal-to-noise ratio of what one module of the network puts out, in dB, and the largest magnitude."""

    module: str
    snr_db: float
    largest: float

    def __str__(self) -> str:
        return f"{self.snr_db:8.1f} dB, magnitudes up to {self.largest:<10.4g} {self.module}"


def layer_outputs(network: nn.Module, inputs: Tensors, stages: str) -> dict[str, LayerOutput]:
    """What the modules whose names match `stages` put out for these inputs, in the order they run."""
    found: dict[str, LayerOutput] = {}

    def keep(name: str, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        # Of several, decoders of Demucs have two, the first is what the next module is given.
        flat = (output[0] if isinstance(output, tuple) else output).flatten()
        found[name] = LayerOutput(flat.numel(), flat[:: _stride(flat.numel())].clone().numpy())

    found_stages = [(name, module) for name, module in network.named_modules() if re.fullmatch(stages, name)]
    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name, module in found_stages
    ]
    try:
        with torch.inference_mode():
            network(*map(torch.from_numpy, inputs.values()))
    finally:
        for handle in handles:
            handle.remove()
    return found


def layer_parity(path: Path, inputs: Tensors, outputs: Mapping[str, LayerOutput]) -> tuple[LayerParity, ...]:
    """Module by module, how far the typed graph in `path` has come from the network, given its outputs."""
    ends = _ends(path, list(outputs))
    probes = {value: _stride(outputs[module].size) for module, value in ends.items()}
    _, typed, _ = RoundedGraph(path, probes).run(inputs)
    return tuple(_compared(module, outputs[module].values, typed[value]) for module, value in ends.items())


def _compared(module: str, wanted: Floats, got: Floats) -> LayerParity:
    finite = bool(np.isfinite(got).all())
    return LayerParity(module, snr_db(wanted, got) if finite else -math.inf, float(np.abs(wanted).max()))


def _ends(path: Path, modules: list[str]) -> dict[str, str]:
    """Per module the value that the last of its nodes puts out; nodes are named MODULE/OPERATOR_n."""
    ends = {}
    for node in onnx.load(path, load_external_data=False).graph.node:
        for module in modules:
            if node.name.startswith((f"{module}/", f"{module}.")):
                ends[module] = node.output[0]
    return {module: ends[module] for module in modules if module in ends}


def _stride(size: int) -> int:
    """Odd, so that it falls on every channel in turn."""
    return max(1, size // _SAMPLES) | 1
