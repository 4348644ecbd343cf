"""What the layers of a Roformer put out, thinned out evenly: to find where a typed graph goes astray."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rofo.export.graph.trace import run_network

Floats = NDArray[np.float32]

_SAMPLES = 200_000  # values compared per layer: a fixed share, evenly spread


@dataclass(frozen=True)
class LayerOutput:
    """What one module of the fp32 network puts out: how many values, and an even choice of them."""

    size: int
    values: Floats


def layer_outputs(network: nn.Module, mix: Floats) -> dict[str, LayerOutput]:
    """What each stage of the network puts out for mix, in the order in which they run."""
    found: dict[str, LayerOutput] = {}

    def keep(name: str, output: torch.Tensor) -> None:
        flat = output.flatten()
        found[name] = LayerOutput(flat.numel(), flat[:: stride(flat.numel())].clone().numpy())

    stages = [(name, module) for name, module in network.named_modules() if _is_stage(name)]
    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name, module in stages
    ]
    try:
        run_network(network, torch.from_numpy(mix))
    finally:
        for handle in handles:
            handle.remove()
    return found


def stride(size: int) -> int:
    """Odd, so that it falls on every channel in turn."""
    return max(1, size // _SAMPLES) | 1


def _is_stage(module: str) -> bool:
    """band_split, every attention and feed-forward of every layer, and every mask."""
    parts = module.split(".")
    block = len(parts) == 5 and parts[0] == "layers" and parts[3] == "blocks"
    return module == "band_split" or block or (parts[0] == "mask_estimators" and len(parts) == 2)
