"""Position embeddings of attention: rotary tables (exact, and as old PyTorch tools rounded them) and PoPE."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class AngleTable:
    """cos and sin of every position's angles, each (positions, angles), float32."""

    cos: Tensor
    sin: Tensor


def rotary_table(
    frequencies: Tensor, positions: int, precision: Literal["exact", "amp-0.3.5"] = "exact"
) -> AngleTable:
    """Angles position * frequency of rotary embedding (arXiv 2104.09864) for positions 0..n-1.

    `exact` rounds the angle to float32 as every float32 implementation does, and takes cos and sin of that
    in float64. `amp-0.3.5` repeats what rotary_embedding_torch 0.3.5 does under CUDA autocast, which is how
    many public checkpoints were trained and are played: position and frequency in fp16, their product
    rounded to fp16, cos and sin of that rounded to fp16.
    """
    dtype = torch.float16 if precision == "amp-0.3.5" else torch.float32
    position = torch.arange(positions).to(dtype)
    angles = (position[:, None].double() * frequencies.to(dtype)[None, :].double()).to(dtype).double()
    return AngleTable(angles.cos().to(dtype).float(), angles.sin().to(dtype).float())


class Rotary(nn.Module):
    """Rotates q and k whose features are split in halves: (first, second) of each pair, not interleaved.

    Public checkpoints interleave the pairs; `half_split_rows` reorders the rows of their projections, which
    leaves q.k unchanged and lets the rotation run on contiguous halves. With `heads_first`, heads come
    before positions.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, table: AngleTable, *, heads_first: bool = False) -> None:
        super().__init__()
        axis = 0 if heads_first else 1
        self.register_buffer("cos", table.cos.unsqueeze(axis))
        self.register_buffer("sin", table.sin.unsqueeze(axis))

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """q, k: (batch, positions, heads, dim_head), or heads first -> the same shapes."""
        return self._rotate(q), self._rotate(k)

    def _rotate(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * self.cos - second * self.sin, second * self.cos + first * self.sin), dim=-1)


class Polar(nn.Module):
    """PoPE: softplus magnitudes on polar angles; doubles the head dimension of q and k.

    `bias` (heads, dim_head) shifts the angles of k, clamped to [-2 pi, 0].
    """

    q_cos: Tensor
    q_sin: Tensor
    k_cos: Tensor
    k_sin: Tensor

    def __init__(self, frequencies: Tensor, bias: Tensor, positions: int) -> None:
        super().__init__()
        position = torch.arange(positions, dtype=torch.float32)
        angles = position[:, None] * frequencies.float()[None, :]
        shifted = angles[:, None, :] + bias.float().clamp(-2 * math.pi, 0)[None]
        for name, angle in (("q", angles[:, None, :]), ("k", shifted)):
            heads_first = angle.double().transpose(0, 1).contiguous()
            self.register_buffer(f"{name}_cos", heads_first.cos().float())
            self.register_buffer(f"{name}_sin", heads_first.sin().float())

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """q, k: (batch, heads, positions, dim_head) -> (..., 2 * dim_head)."""
        q, k = F.softplus(q), F.softplus(k)
        q = torch.cat((q * self.q_cos, q * self.q_sin), dim=-1)
        k = torch.cat((k * self.k_cos, k * self.k_sin), dim=-1)
        return q, k


def half_split_rows(heads: int, dim_head: int) -> Tensor:
    """Row order that turns interleaved pairs (0,1),(2,3),... into halves (0,2,4,...),(1,3,5,...) per head."""
    one_head = torch.arange(dim_head).view(-1, 2).T.reshape(-1)
    return (torch.arange(heads)[:, None] * dim_head + one_head[None]).reshape(-1)
