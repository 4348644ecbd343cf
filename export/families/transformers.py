"""Layers that the transformers of several families share, under the public names of their weights."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rofo.export.graph.types import frozen

# The networks divide by max(|x|, 1e-12), a clamp of the norm; RMSNormalization adds epsilon to the mean
# square. 1e-24 agrees to 1e-6 down to an rms of 1e-9; 1e-12 would be 29 % low at an rms of 1e-6.
NORM_EPSILON = 1e-24


class RMSNorm(nn.Module):
    """x / |x| * sqrt(width) * gamma over the last axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width) -> the same shape."""
        return F.normalize(x, dim=-1) * math.sqrt(x.shape[-1]) * self.gamma


class FeedForward(nn.Module):
    """Two linear layers with an exact (erf) GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        dropout = nn.Identity()  # in training; it has a number in the names of the weights
        self.net = nn.Sequential(
            RMSNorm(dim), nn.Linear(dim, hidden), nn.GELU(), dropout, nn.Linear(hidden, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., dim) -> the same shape, the residual not yet added."""
        return self.net(x)


class EngineRMSNorm(nn.Module):
    """Same result as RMSNorm, as one RMSNormalization."""

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.gamma = frozen(norm.gamma)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width) -> the same shape."""
        return F.rms_norm(x, (x.shape[-1],), self.gamma, eps=NORM_EPSILON)
