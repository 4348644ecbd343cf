"""A Roformer in the arrangement that engines run best, derived from the plain network."""

from typing import Any

import torch
from torch import Tensor, nn

from rofo.export.families.roformer import network as plain
from rofo.export.families.roformer.engine_bands import BandSplit
from rofo.export.families.roformer.engine_estimators import estimator_engine
from rofo.export.families.roformer.engine_layers import norm_of
from rofo.export.families.roformer.engine_transformer import Layer, Positions
from rofo.export.graph.types import Form


class RoformerEngine(nn.Module):
    """The network of one checkpoint for a fixed number of frames, in the form that one kind of engine needs.

    For TensorRT the residual stream stays as it is, (batch, bands, frames, dim), and attention over bands
    turns what it reads and writes: turning a float32 stream twice per layer is 5 % of what the largest
    public network moves, and inside a kernel that reads or writes 16 bits it is free.
    """

    def __init__(self, network: plain.Roformer, frames: int, form: Form) -> None:
        super().__init__()
        self.skip_connection = network.skip_connection
        self.band_split = BandSplit(network.band_split, form)
        positions = Positions(frames, len(network.bands), form)
        self.layers = nn.ModuleList(self.layer_of(layer, positions, form) for layer in network.layers)
        self.final_norm = norm_of(network.final_norm)
        self.mask_estimators = nn.ModuleList(
            estimator_engine(estimator, positions, zero_dc=network.zero_dc, form=form)
            for estimator in network.mask_estimators
        )

    def layer_of(self, layer: Any, positions: Positions, form: Form) -> nn.Module:
        """One layer's arrangement."""
        return Layer(layer, positions, form)

    def forward(self, mix: Tensor) -> Tensor:
        """mix: (batch, channels, frames, bins, 2) -> (batch, stems, channels, frames, bins, 2)."""
        x = self.transformed(self.band_split(mix.permute(0, 2, 3, 1, 4).flatten(2)))
        return torch.stack([_masked(mix, estimator(x)) for estimator in self.mask_estimators], dim=1)

    def transformed(self, x: Tensor) -> Tensor:
        """x: (batch, bands, frames, dim) through all layers and the norm after them -> the same shape."""
        outputs: list[Tensor] = []
        for layer in self.layers:
            x = layer(x, outputs)
            if self.skip_connection:
                outputs.append(x)
        return self.final_norm(x)


def _masked(mix: Tensor, mask: Tensor) -> Tensor:
    """Complex product of mix (batch, channels, frames, bins, 2) and mask (batch, frames, features)."""
    _, channels, _, bins, _ = mix.shape
    mask = mask.unflatten(-1, (bins, channels, 2)).permute(0, 3, 1, 2, 4)
    (a, b), (c, d) = mix.unbind(-1), mask.unbind(-1)
    return torch.stack((a * c - b * d, a * d + b * c), dim=-1)
