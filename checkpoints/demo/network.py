"""A BS-Roformer (arXiv 2309.02612) that trains: one mask for one stem, public state-dict keys.

rofo exports public checkpoints and never trains them; this network exists to make the demo's. Its mask
estimator's depth counts linear layers and equals 2, its attention has the public gates, and every name below
is that of the key it makes.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 2
ROTARY_BASE = 10000.0


@dataclass(frozen=True)
class Shape:
    """Hyper-parameters; `bands` are bins per band and sum to n_fft / 2 + 1. Lengths are in samples."""

    dim: int
    depth: int
    heads: int
    dim_head: int
    mlp_expansion: int
    bands: tuple[int, ...]
    n_fft: int
    hop_length: int

    def yaml(self) -> dict[str, Any]:
        """The `model` section of the checkpoint's yaml."""
        return {
            "dim": self.dim,
            "depth": self.depth,
            "stereo": True,
            "num_stems": 1,
            "time_transformer_depth": 1,
            "freq_transformer_depth": 1,
            "freqs_per_bands": list(self.bands),
            "dim_head": self.dim_head,
            "heads": self.heads,
            "stft_n_fft": self.n_fft,
            "stft_hop_length": self.hop_length,
            "stft_win_length": self.n_fft,
            "stft_normalized": False,
            "zero_dc": True,
            "mask_estimator_depth": 2,
            "mlp_expansion_factor": self.mlp_expansion,
        }


# The demo model's.
SHAPE = Shape(
    dim=96,
    depth=4,
    heads=3,
    dim_head=32,
    mlp_expansion=1,
    bands=(6,) * 10 + (10,) * 6 + (20,) * 5 + (40,) * 4 + (80,) * 2 + (200, 285),
    n_fft=2048,
    hop_length=1024,
)
# Samples, 128 hops, 2.97 s: what the network is trained on and what an engine is fed.
CHUNK = 131072


class RMSNorm(nn.Module):
    """x / ||x|| * sqrt(width) * gamma over the last axis, in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width), returned in float32."""
        return F.rms_norm(x, self.gamma.shape, self.gamma, eps=1e-12)


class Rotary(nn.Module):
    """Rotary positions over interleaved pairs; holds the public, untrained `freqs`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        frequencies = ROTARY_BASE ** (-torch.arange(0, width, 2) / width)
        self.freqs = nn.Parameter(frequencies, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, heads, positions, width) -> the same, turned by position * freqs."""
        positions = torch.arange(x.shape[-2], device=x.device, dtype=torch.float32)
        angle = positions[:, None] * self.freqs
        turn = torch.polar(torch.ones_like(angle), angle)
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turn).flatten(-2)


class Attention(nn.Module):
    """Pre-norm attention with one sigmoid gate per head."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        inner = shape.heads * shape.dim_head
        self.heads = shape.heads
        self.rotary_embed = Rotary(shape.dim_head)
        self.norm = RMSNorm(shape.dim)
        self.to_qkv = nn.Linear(shape.dim, 3 * inner, bias=False)
        self.to_gates = nn.Linear(shape.dim, shape.heads)
        self.to_out = nn.Sequential(nn.Linear(inner, shape.dim, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """x: (sequences, positions, dim) -> what to add to it."""
        x = self.norm(x)
        q, k, v = self.to_qkv(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # Written out: the fused kernel's backward pass takes three times as long in bfloat16 on a CPU.
        scores = self.rotary_embed(q * q.shape[-1] ** -0.5) @ self.rotary_embed(k).transpose(-1, -2)
        out = scores.softmax(dim=-1) @ v
        gates = self.to_gates(x).sigmoid().transpose(1, 2).unsqueeze(-1)
        result: Tensor = self.to_out((out * gates).transpose(1, 2).flatten(2))
        return result


class FeedForward(nn.Module):
    """Pre-norm feed-forward, four times as wide inside; in public files `net` has weights at 0, 1 and 4."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            RMSNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Identity(), nn.Linear(4 * dim, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., dim) -> what to add to it."""
        result: Tensor = self.net(x)
        return result


class Transformer(nn.Module):
    """One attention and one feed-forward block along one axis."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Block([Attention(shape), FeedForward(shape.dim)])])

    def forward(self, x: Tensor) -> Tensor:
        """x: (sequences, positions, dim) -> the same shape, float32."""
        added: Tensor = self.layers[0](x)
        return added


class _Block(nn.ModuleList):
    """Two modules whose results are added to the stream."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + self[0](x)
        added: Tensor = x + self[1](x)
        return added


class _Layer(nn.ModuleList):
    """A transformer over frames, one over bands."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, frames, bands, dim) -> the same shape."""
        batch, frames, bands, _ = x.shape
        x = self[0](x.transpose(1, 2).flatten(0, 1)).view(batch, bands, frames, -1)
        out: Tensor = self[1](x.transpose(1, 2).flatten(0, 1)).view(batch, frames, bands, -1)
        return out


class BandSplit(nn.Module):
    """A norm and a linear layer per band."""

    def __init__(self, widths: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.widths = widths
        self.to_features = nn.ModuleList(
            nn.Sequential(RMSNorm(width), nn.Linear(width, dim)) for width in widths
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, frames, features) -> (batch, frames, bands, dim)."""
        bands = torch.split(x, list(self.widths), dim=-1)
        return torch.stack([f(band) for f, band in zip(self.to_features, bands, strict=True)], dim=-2).float()


class MaskEstimator(nn.Module):
    """A two-layer perceptron with a gated output per band."""

    def __init__(self, widths: tuple[int, ...], dim: int, expansion: int) -> None:
        super().__init__()
        hidden = dim * expansion
        self.to_freqs = nn.ModuleList(
            nn.Sequential(
                nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, 2 * width)), nn.GLU()
            )
            for width in widths
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, frames, bands, dim) -> (batch, frames, features)."""
        bands = x.unbind(-2)
        return torch.cat([f(band) for f, band in zip(self.to_freqs, bands, strict=True)], dim=-1)


class Roformer(nn.Module):
    """The masking network, from spectrogram to mask; `stft` and `istft` lead to and from samples."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        widths = tuple(2 * CHANNELS * bins for bins in shape.bands)
        self.band_split = BandSplit(widths, shape.dim)
        self.layers = nn.ModuleList(
            _Layer([Transformer(shape), Transformer(shape)]) for _ in range(shape.depth)
        )
        self.final_norm = RMSNorm(shape.dim)
        self.mask_estimators = nn.ModuleList([MaskEstimator(widths, shape.dim, shape.mlp_expansion)])

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, frames, features), features by bin, channel, part -> the mask, the same shape."""
        x = self.band_split(x)
        for layer in self.layers:
            x = layer(x)
        mask: Tensor = self.mask_estimators[0](self.final_norm(x))
        return mask.float()


def stft(audio: Tensor, shape: Shape) -> Tensor:
    """(batch, channels, samples) -> complex (batch, channels, bins, frames)."""
    window = torch.hann_window(shape.n_fft, device=audio.device)
    spectrum = torch.stft(
        audio.flatten(0, 1), shape.n_fft, shape.hop_length, window=window, return_complex=True
    )
    return spectrum.view(*audio.shape[:2], *spectrum.shape[1:])


def istft(spectrum: Tensor, shape: Shape, samples: int) -> Tensor:
    """The inverse of `stft`, cut to `samples`."""
    window = torch.hann_window(shape.n_fft, device=spectrum.device)
    audio = torch.istft(spectrum.flatten(0, 1), shape.n_fft, shape.hop_length, window=window, length=samples)
    return audio.view(*spectrum.shape[:2], samples)


def masked(network: nn.Module, spectrum: Tensor) -> Tensor:
    """Mix times mask, complex (batch, channels, bins, frames): the voice's spectrogram, without bin 0."""
    _, channels, bins, _ = spectrum.shape
    features = torch.view_as_real(spectrum).permute(0, 3, 2, 1, 4).flatten(2).contiguous()
    mask = network(features).view(*features.shape[:2], bins, channels, 2).permute(0, 3, 2, 1, 4)
    voice = spectrum * torch.view_as_complex(mask.contiguous())
    keep = torch.ones(bins, 1, device=spectrum.device)
    keep[0] = 0
    return voice * keep
