"""The dual paths of `scnet_tran`: rotary transformers where SCNet has LSTMs, under the public names."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rofo.export.families.transformers import FeedForward, RMSNorm

FF_MULT = 4


@dataclass(frozen=True)
class TransformerSizes:
    """Of every head's `dim_head` features the first `rotary` ones are turned by their place."""

    depth: int
    heads: int
    dim_head: int
    rotary: int


class DualPathTransformer(nn.Module):
    """A transformer along frequency and one along time, each after a norm over everything."""

    def __init__(self, width: int, sizes: TransformerSizes) -> None:
        super().__init__()
        self.norm_layers = nn.ModuleList(nn.GroupNorm(1, width) for _ in range(2))
        self.freq_layer, self.time_layer = (Transformer(width, sizes) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, rows, frames) -> the same."""
        over_rows, over_frames = self.norm_layers
        x = x + _along(self.freq_layer, over_rows(x).transpose(2, 3)).transpose(2, 3)
        return x + _along(self.time_layer, over_frames(x))


def _along(transformer: nn.Module, x: Tensor) -> Tensor:
    """x: (batch, channels, sequences, positions) -> the same."""
    sequences = x.permute(0, 2, 3, 1)
    found: Tensor = transformer(sequences.flatten(0, 1))
    return found.view(sequences.shape).permute(0, 3, 1, 2)


class Transformer(nn.Module):
    """Attention and feed-forward in turn, each added to its input, and a norm."""

    def __init__(self, width: int, sizes: TransformerSizes) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList((Attention(width, sizes), FeedForward(width, FF_MULT * width)))
            for _ in range(sizes.depth)
        )
        self.norm = RMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, positions, width) -> the same."""
        layer: Any
        for layer in self.layers:
            attention, feed_forward = layer
            x = x + attention(x)
            x = x + feed_forward(x)
        return self.norm(x)


class Attention(nn.Module):
    """Attention with rotary positions, each head's output weighed by a sigmoid gate."""

    def __init__(self, width: int, sizes: TransformerSizes) -> None:
        super().__init__()
        inner = sizes.heads * sizes.dim_head
        self.heads, self.dim_head = sizes.heads, sizes.dim_head
        self.rotary_embed = Rotary(sizes)
        self.norm = RMSNorm(width)
        self.to_qkv = nn.Linear(width, 3 * inner, bias=False)
        self.to_gates = nn.Linear(width, sizes.heads)
        self.to_out = nn.Sequential(nn.Linear(inner, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, positions, width) -> the same, not yet added."""
        x = self.norm(x)
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        cos, sin = self.rotary_embed.table(x.shape[1])
        q, k = _rotated(q, cos, sin), _rotated(k, cos, sin)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        found: Tensor = self.to_out((out * self.to_gates(x).sigmoid()[..., None]).flatten(2))
        return found


class Rotary(nn.Module):
    """Rotary position embedding (arXiv 2104.09864) of interleaved pairs: (0, 1), (2, 3), ..."""

    freqs: Tensor

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.still = (sizes.dim_head - sizes.rotary) // 2
        self.register_buffer("freqs", 10_000.0 ** -(torch.arange(0, sizes.rotary, 2) / sizes.rotary))

    def table(self, positions: int) -> tuple[Tensor, Tensor]:
        """cos and sin of every position's angles, (positions, dim_head / 2) each, float32.

        Angles are rounded to float32, as they were in training, and their cos and sin taken in float64.
        """
        angles = torch.arange(positions).float()[:, None] * F.pad(self.freqs.float(), (0, self.still))
        return angles.double().cos().float(), angles.double().sin().float()


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
