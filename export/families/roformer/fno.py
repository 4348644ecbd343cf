"""unwa's FNO: a Fourier neural operator (arXiv 2010.08895) per band in place of a mask's perceptron."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rofo.export.families.band_groups import Bands


class FnoMaskEstimator(nn.Module):
    """One operator over the frames per band, then a gated linear unit; bands do not overlap."""

    def __init__(self, bands: Bands, channels: int, dim: int, modes: int, depth: int) -> None:
        super().__init__()
        self.bands, self.channels = bands, channels
        self.to_freqs = nn.ModuleList(
            nn.Sequential(Fno(dim, 4 * channels * count, modes, depth), nn.GLU(dim=1)) for _, count in bands
        )

    def forward(self, x: Tensor, bins: int) -> Tensor:
        """x: (batch, frames, bands, dim) -> mask (batch, frames, bins, channels, 2)."""
        masks = [band(x[:, :, k].transpose(1, 2)) for k, band in enumerate(self.to_freqs)]
        return torch.cat(masks, dim=1).transpose(1, 2).unflatten(-1, (bins, self.channels, 2))


class Fno(nn.Module):
    """Lifted to a stream of `width` channels, `depth` blocks, projected to `outputs`.

    What is lifted has the place in the chunk, 0 to 1, as one more channel. `modes` are the lowest frequencies
    over the frames that a block's filters keep, the mean among them.
    """

    def __init__(self, width: int, outputs: int, modes: int, depth: int) -> None:
        super().__init__()
        self.lifting = Perceptron(width + 1, 2 * width, width)
        self.fno_blocks = nn.Module()
        self.fno_blocks.convs = nn.ModuleList(Filter(width, modes) for _ in range(depth))
        self.fno_blocks.fno_skips = nn.ModuleList(Pointwise(width) for _ in range(depth))
        self.fno_blocks.channel_mlp = nn.ModuleList(
            Perceptron(width, width // 2, width) for _ in range(depth)
        )
        self.fno_blocks.channel_mlp_skips = nn.ModuleList(Gain(width) for _ in range(depth))
        self.projection = Perceptron(width, 2 * width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, width, frames) -> (batch, outputs, frames)."""
        batch, _, frames = x.shape
        place = (torch.arange(frames, dtype=torch.float64) / frames).to(x.dtype)
        x = self.lifting(torch.cat((x, place.expand(batch, 1, -1)), dim=1))
        blocks: Any = self.fno_blocks
        steps = list(
            zip(blocks.convs, blocks.fno_skips, blocks.channel_mlp, blocks.channel_mlp_skips, strict=True)
        )
        for i, (convolve, skip, mix, mix_skip) in enumerate(steps):
            activation = F.gelu if i < len(steps) - 1 else nn.Identity()
            skipped = mix_skip(x)
            x = activation(convolve(x) + skip(x))
            x = activation(mix(x) + skipped)
        return self.projection(x)


class Perceptron(nn.Module):
    """Two pointwise layers with an exact (erf) GELU between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.fcs = nn.ModuleList((nn.Conv1d(inputs, hidden, 1), nn.Conv1d(hidden, outputs, 1)))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, inputs, frames) -> (batch, outputs, frames)."""
        first, second = self.fcs
        return second(F.gelu(first(x)))


class Pointwise(nn.Module):
    """A linear layer on every frame."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, width, frames) -> the same shape."""
        return self.conv(x)


class Gain(nn.Module):
    """A factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, width, frames) -> the same shape."""
        return x * self.weight


class Filter(nn.Module):
    """Each channel's lowest frequencies times a complex factor each; all others are dropped."""

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.weight = nn.Module()
        self.weight.tensor = nn.Parameter(torch.ones(width, modes, dtype=torch.complex64))
        self.bias = nn.Parameter(torch.zeros(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, width, frames) -> the same shape."""
        frames, factors = x.shape[-1], self.weight.get_parameter("tensor")
        spectrum = torch.fft.rfft(x, norm="forward")
        kept = min(factors.shape[1], spectrum.shape[-1])
        filtered = spectrum[..., :kept] * factors[:, :kept]
        return torch.fft.irfft(filtered, n=frames, norm="forward") + self.bias
