"""The conformers of MSST: convolutions and a second feed-forward in every block (arXiv 2005.08100)."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from rofo.export.families.transformers import FeedForward, RMSNorm


class Conformer(nn.Module):
    """`depth` blocks, called as Transformer is; it never has a norm of its own, each of its blocks has."""

    def __init__(
        self, dim: int, depth: int, ff_mult: int, attention: Callable[[], nn.Module], *,
        norm_output: bool, conv_expansion_factor: int, conv_kernel_size: int,
    ) -> None:  # fmt: skip
        super().__init__()
        assert not norm_output
        inner = dim * conv_expansion_factor
        self.layers = nn.ModuleList(
            ConformerBlock(dim, dim * ff_mult, inner, conv_kernel_size, attention()) for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, positions, dim) -> the same shape."""
        for block in self.layers:
            x = block(x)
        return x


class ConformerBlock(nn.Module):
    """Attention and convolution between two halves of a feed-forward, each added to its input."""

    def __init__(self, dim: int, hidden: int, inner: int, kernel_size: int, attention: nn.Module) -> None:
        super().__init__()
        self.ff1 = HalfFeedForward(dim, hidden)
        self.attn = attention
        self.conv = Convolution(dim, inner, kernel_size)
        self.ff2 = HalfFeedForward(dim, hidden)
        self.out_norm = RMSNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, positions, dim) -> the same shape."""
        for layer in (self.ff1, self.attn, self.conv, self.ff2):
            x = x + layer(x)
        return self.out_norm(x)


class HalfFeedForward(nn.Module):
    """Half of what a feed-forward gives."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.ff = FeedForward(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., dim) -> the same shape, the residual not yet added."""
        return 0.5 * self.ff(x)


class Convolution(nn.Module):
    """A gated linear unit, each channel convolved over the positions, BatchNorm, SiLU, a linear layer."""

    def __init__(self, dim: int, inner: int, kernel_size: int) -> None:
        super().__init__()
        turned = nn.Identity()  # has a number in the names of the weights
        over = nn.Conv1d(inner, inner, kernel_size, padding=kernel_size // 2, groups=inner)
        self.net = nn.Sequential(
            RMSNorm(dim), turned, nn.Conv1d(dim, 2 * inner, 1), nn.GLU(dim=1), over, nn.BatchNorm1d(inner),
            nn.SiLU(), nn.Conv1d(inner, dim, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, positions, dim) -> the same shape, the residual not yet added."""
        norm, *rest = self.net
        x = norm(x).transpose(1, 2)
        layer: Any
        for layer in rest:
            x = layer(x)
        return x.transpose(1, 2)
