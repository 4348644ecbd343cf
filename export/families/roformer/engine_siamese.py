"""A Siamese Roformer for an engine."""

from itertools import chain
from typing import Any

from torch import Tensor, nn

from rofo.export.families.roformer.engine import RoformerEngine
from rofo.export.families.roformer.engine_layers import Attention, FeedForward
from rofo.export.families.roformer.engine_transformer import Positions
from rofo.export.families.transformers import EngineRMSNorm
from rofo.export.graph.types import Form, frozen


class SiameseEngine(RoformerEngine):
    """Both streams are turned between the axes in every form; they and their sums are float32."""

    def layer_of(self, layer: Any, positions: Positions, form: Form) -> nn.Module:
        """As in RoformerEngine."""
        axes = zip(layer, ("frames", "bands"), strict=True)
        return nn.ModuleList(SiameseTransformer(each, axis, positions, form) for each, axis in axes)

    def transformed(self, x: Tensor) -> Tensor:
        """As in RoformerEngine."""
        layers: Any = self.layers
        x = y = x.transpose(1, 2)
        for transformer in chain.from_iterable(layers):
            x, y = transformer(x.transpose(1, 2), y.transpose(1, 2))
        return (x + self.final_norm(y)).transpose(1, 2)


class SiameseTransformer(nn.Module):
    """Attention and feed-forward in turn on two streams."""

    def __init__(self, transformer: Any, axis: str, positions: Positions, form: Form) -> None:
        super().__init__()
        self.gains = [gain for gain in transformer.gains for _ in range(2)]
        self.blocks = nn.ModuleList()
        for attention, feed_forward in transformer.layers:
            attend = Attention(attention, positions.get(attention.positions, axis), form)
            self.blocks.extend((attend, FeedForward(feed_forward, form)))
        self.shares = nn.ParameterList(frozen(share) for share in transformer.y_attn)
        self.before, self.after = (
            nn.ModuleList(EngineRMSNorm(norm) for pair in zip(*norms, strict=True) for norm in pair)
            for norms in (
                (transformer.ln_y_attn, transformer.ln_y_mlp),
                (transformer.ln_x_attn, transformer.ln_x_mlp),
            )
        )

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x, normalised, and y: (batch, rows, positions, dim) -> the same shapes."""
        shape = x.shape
        x, y = x.flatten(0, 1), y.flatten(0, 1)
        for i, (block, gain) in enumerate(zip(self.blocks, self.gains, strict=True)):
            share = x if i % 2 else x * self.shares[i // 2]
            out = block(share + self.before[i](y)).float()
            x, y = self.after[i](x + gain * out), y + out
        return x.view(shape), y.view(shape)
