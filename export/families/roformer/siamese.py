"""unwa's Siamese BS-Roformer (arXiv 2602.08064): two residual streams, one normalised after each sum.

Attention and feed-forward read a sum of both and are added to both. What the layers give is the normalised
stream plus the other one through the network's last norm.
"""

from collections.abc import Callable
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor, nn

from rofo.export.families.roformer.network import Roformer, Transformer
from rofo.export.families.transformers import RMSNorm


class SiameseRoformer(Roformer):
    """A Roformer of Siamese transformers. Both streams begin as the bands' features."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{**arguments, "stack": SiameseTransformer})
        layers: Any = self.layers
        block = count(1)
        for transformer in chain.from_iterable(layers):
            transformer.gains = tuple(1 + next(block) ** -0.5 for _ in transformer.layers)

    def transformed(self, x: Tensor) -> Tensor:
        """As in Roformer."""
        layers: Any = self.layers
        y = x
        for transformer in chain.from_iterable(layers):  # over frames and over bands in turn
            x, y = transformer(x.transpose(1, 2), y.transpose(1, 2))
        return x + self.final_norm(y)


class SiameseTransformer(Transformer):
    """`gains`, one per block, are those of what goes into the normalised stream."""

    gains: tuple[float, ...]

    def __init__(
        self, dim: int, depth: int, ff_mult: int, attention: Callable[[], nn.Module], *, norm_output: bool
    ) -> None:
        super().__init__(dim, depth, ff_mult, attention, norm_output=norm_output)
        self.ln_y_attn, self.ln_x_attn, self.ln_y_mlp, self.ln_x_mlp = (
            nn.ModuleList(RMSNorm(dim) for _ in range(depth)) for _ in range(4)
        )
        self.y_attn = nn.ParameterList(torch.ones(dim) for _ in range(depth))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """x, normalised, and y: (batch, rows, positions, dim) -> the same shapes."""
        shape = x.shape
        x, y = x.flatten(0, 1), y.flatten(0, 1)
        block: Any
        for i, block in enumerate(self.layers):
            attention, feed_forward = block
            out = attention(x * self.y_attn[i] + self.ln_y_attn[i](y))
            x, y = self.ln_x_attn[i](x + self.gains[i] * out), y + out
            out = feed_forward(x + self.ln_y_mlp[i](y))
            x, y = self.ln_x_mlp[i](x + self.gains[i] * out), y + out
        return x.view(shape), y.view(shape)
