"""A Roformer with value residuals for an engine."""

from typing import Any

import torch
from torch import Tensor, nn

from rofo.export.families.roformer.engine import RoformerEngine
from rofo.export.families.roformer.engine_layers import (
    Attention,
    FeedForward,
    Polar,
    Rotated,
    norm_of,
)
from rofo.export.families.roformer.engine_transformer import Positions, joined
from rofo.export.families.roformer.value_residual import Values
from rofo.export.graph.types import Form, cast, frozen


class ValueResidualEngine(RoformerEngine):
    """The stream is turned between the axes in every form: values of one layer are read by all later ones."""

    def layer_of(self, layer: Any, positions: Positions, form: Form) -> nn.Module:
        """As in RoformerEngine."""
        axes = zip(layer, ("frames", "bands"), strict=True)
        return nn.ModuleList(MixedTransformer(each, axis, positions, form) for each, axis in axes)

    def transformed(self, x: Tensor) -> Tensor:
        """As in RoformerEngine."""
        outputs: list[Tensor] = []
        of_frames: Values = None
        of_bands: Values = None
        layer: Any
        for layer in self.layers:
            over_frames, over_bands = layer
            x, of_frames = over_frames(sum(outputs, x), of_frames)
            x, of_bands = over_bands(x.transpose(1, 2), of_bands)
            x = x.transpose(1, 2)
            if self.skip_connection:
                outputs.append(x)
        return self.final_norm(x)


class MixedTransformer(nn.Module):
    """Attention and feed-forward in turn, each added to its input."""

    def __init__(self, transformer: Any, axis: str, positions: Positions, form: Form) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for attention, feed_forward in transformer.layers:
            mixed = MixedAttention(attention, positions.get(attention.positions, axis), form)
            self.blocks.extend((mixed, FeedForward(feed_forward, form)))
        self.norm, self.residual = norm_of(transformer.norm), transformer.residual

    def forward(self, x: Tensor, first: Values) -> tuple[Tensor, Tensor]:
        """x: (batch, rows, positions, dim), values to mix in -> the same shape, values for later layers."""
        rows, later = x.flatten(0, 1), first
        for attention, feed_forward in zip(self.blocks[::2], self.blocks[1::2], strict=True):
            out, values = attention(rows, first)
            later = values if later is None else later
            rows = joined(rows, out, residual=self.residual)
            rows = joined(rows, feed_forward(rows), residual=self.residual)
        assert later is not None
        return self.norm(rows).unflatten(0, x.shape[:2]), later


class MixedAttention(Attention):
    """Attention whose product also gives the shares of the first layer's values, where it has any."""

    def __init__(self, attention: Any, positions: Rotated | Polar, form: Form) -> None:
        super().__init__(attention, positions, form)
        self.mixes = hasattr(attention, "to_value_residual_mix")
        if self.mixes:
            mix, project = attention.to_value_residual_mix, self.project
            assert project.bias is not None
            project.weight = frozen(torch.cat((project.weight, mix.weight.T), dim=1), form.product)
            project.bias = frozen(torch.cat((project.bias, mix.bias)), form.product)

    def forward(self, x: Tensor, first: Values = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """x: (batch, positions, dim), the first values -> the same shape, own values (..., heads * width)."""
        projected = self.project(self.norm(x))
        if not self.mixes:
            return self.attended(projected), projected[..., 2 * self.inner : 3 * self.inner]
        assert first is not None
        parts = projected.split([2 * self.inner, self.inner, self.heads, self.heads], dim=-1)
        q_and_k, values, gates, shares = parts
        shares = cast(shares, torch.float32).sigmoid().unsqueeze(-1)
        own, others = (cast(v, torch.float32).unflatten(-1, (self.heads, -1)) for v in (values, first))
        mixed = cast((own + shares * (others - own)).flatten(2), projected.dtype)
        return self.attended(torch.cat((q_and_k, mixed, gates), dim=-1)), values
