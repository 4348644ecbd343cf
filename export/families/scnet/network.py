"""SCNet (arXiv 2401.13276) as MSST has it, its `scnet_masked` and its `scnet_tran`.

Three bands of the spectrogram are compressed by different strides, separated by recurrent layers, or
transformers, along frequency and time, every second pair of which works on the spectrum of the features over
time, and expanded again.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rofo.export.families.scnet.transformer import DualPathTransformer, TransformerSizes

MASK_WIDTH = 64


@dataclass(frozen=True)
class Sizes:
    """What the network is made of, under the names of MSST's arguments; shares, strides ... of three bands.

    `bins` is what the bands share by `band_SR`, of which the last one's is what is left. `masked` is the
    variant whose output multiplies the mix; with `transformers` these stand where LSTMs do, to which `expand`
    belongs.
    """

    num_stems: int
    bins: int
    dims: tuple[int, ...]
    band_SR: tuple[float, ...]  # noqa: N815
    band_stride: tuple[int, ...]
    band_kernel: tuple[int, ...]
    conv_depths: tuple[int, ...]
    compress: int
    conv_kernel: int
    num_dplayer: int
    expand: int
    masked: bool
    transformers: TransformerSizes | None = None

    def rows(self) -> list[tuple[int, ...]]:
        """Rows of each band before the first block, between blocks, and after the last one."""
        found, rows = [], self.bins
        for _ in self.dims[1:]:
            low = math.ceil(rows * self.band_SR[0])
            both = math.ceil(rows * (self.band_SR[0] + self.band_SR[1]))
            found.append((low, both - low, rows - both))
            rows = sum(
                compressed_rows(n, stride) for n, stride in zip(found[-1], self.band_stride, strict=True)
            )
        last = zip(found[-1], self.band_stride, strict=True)
        return [*found, tuple(compressed_rows(n, stride) for n, stride in last)]


class Scnet(nn.Module):
    """The network; four channels of a stereo spectrogram are left and right, real and imaginary part."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        dims, rows = sizes.dims, sizes.rows()
        blocks = range(len(dims) - 1)
        outputs = dims[0] * sizes.num_stems
        self.stems = sizes.num_stems
        self.encoder = nn.ModuleList(SDblock(sizes, dims[i], dims[i + 1], rows[i]) for i in blocks)
        self.separation_net = SeparationNet(sizes)
        self.decoder = nn.ModuleList(
            nn.Sequential(
                FusionLayer(dims[i + 1]), SUlayer(sizes, dims[i + 1], dims[i] if i else outputs, rows[i])
            )
            for i in reversed(blocks)
        )
        self.pos_embed_f = nn.Parameter(torch.zeros(1, dims[0], sizes.bins, 1)) if sizes.masked else None
        self.mask_layer = _mask_layer(outputs) if sizes.masked else None

    def forward(self, mix: Tensor) -> Tensor:
        """mix: (batch, channels, frames, bins, 2) -> (batch, stems, channels, frames, bins, 2)."""
        x = mix.permute(0, 1, 4, 3, 2).flatten(1, 2)
        if self.pos_embed_f is not None:
            x = x + self.pos_embed_f
        kept: list[Tensor] = []
        for block in self.encoder:
            x, skipped = block(x)
            kept.append(skipped)
        x = self.separation_net(x)
        for block in self.decoder:
            x = block(x + kept.pop())
        if self.mask_layer is not None:
            x = self.mask_layer(x)
        stems = x.unflatten(1, (self.stems, -1, 2)).permute(0, 1, 2, 5, 4, 3)
        return stems if self.mask_layer is None else masked(mix[:, None], stems)


class SDblock(nn.Module):
    """Sparse down-sampling: each band by its own stride, modules along time, a convolution over all bands."""

    def __init__(self, sizes: Sizes, inputs: int, outputs: int, rows: tuple[int, ...]) -> None:
        super().__init__()
        self.SDlayer = SDlayer(sizes, inputs, outputs, rows)
        self.conv_modules = nn.ModuleList(
            ConvolutionModule(sizes, outputs, depth) for depth in sizes.conv_depths
        )
        self.globalconv = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, inputs, rows, frames) -> twice (batch, outputs, fewer rows, frames), one to skip."""
        pairs = zip(self.conv_modules, self.SDlayer(x), strict=True)
        skipped = torch.cat([F.gelu(along_time(band)) for along_time, band in pairs], dim=2)
        return self.globalconv(skipped), skipped


class SDlayer(nn.Module):
    """A convolution along frequency for each band."""

    def __init__(self, sizes: Sizes, inputs: int, outputs: int, rows: tuple[int, ...]) -> None:
        super().__init__()
        self.rows = rows
        self.convs = nn.ModuleList(
            nn.Conv2d(inputs, outputs, (kernel, 1), (stride, 1))
            for kernel, stride in zip(sizes.band_kernel, sizes.band_stride, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: (batch, inputs, rows, frames) -> of each band (batch, outputs, fewer rows, frames)."""
        bands = zip(self.convs, x.split(self.rows, dim=2), strict=True)
        return [conv(F.pad(band, (0, 0, *row_padding(band.shape[2], conv)))) for conv, band in bands]


class ConvolutionModule(nn.Module):
    """Gated convolutions along time, each row by itself, around each a shortcut."""

    def __init__(self, sizes: Sizes, channels: int, depth: int) -> None:
        super().__init__()
        hidden, kernel = int(channels / sizes.compress), sizes.conv_kernel
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(1, channels),
                nn.Conv1d(channels, 2 * hidden, kernel, padding=kernel // 2),
                nn.GLU(1),
                nn.Conv1d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden),
                nn.GroupNorm(1, hidden),
                nn.SiLU(),
                nn.Conv1d(hidden, channels, 1),
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, rows, frames) -> the same."""
        rows = x.transpose(1, 2).flatten(0, 1)
        for layer in self.layers:
            rows = rows + layer(rows)
        return rows.unflatten(0, (x.shape[0], -1)).transpose(1, 2)


class SeparationNet(nn.Module):
    """Dual-path layers; of every two, the second works on spectra over time."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.transforms = sizes.transformers is not None
        widths = [sizes.dims[-1] * (1 + i % 2) for i in range(sizes.num_dplayer)]
        self.dp_modules = nn.ModuleList(
            DualPathTransformer(width, sizes.transformers)
            if sizes.transformers
            else DualPathRNN(width, sizes.expand)
            for width in widths
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, rows, frames), an even number of frames -> the same."""
        for i, dual_path in enumerate(self.dp_modules):
            x = dual_path(x)
            if i % 2 == 0:
                spectrum = torch.fft.rfft(x, dim=3, norm="ortho")
                x = torch.cat((spectrum.real, spectrum.imag), dim=1)
            else:
                x = torch.fft.irfft(torch.complex(*x.chunk(2, dim=1)), dim=3, norm="ortho")
        return x


class DualPathRNN(nn.Module):
    """A recurrent layer along frequency and one along time, each after a norm over everything."""

    def __init__(self, width: int, expand: int) -> None:
        super().__init__()
        hidden = width * expand
        self.lstm_layers = nn.ModuleList(
            nn.LSTM(width, hidden, batch_first=True, bidirectional=True) for _ in range(2)
        )
        self.linear_layers = nn.ModuleList(nn.Linear(2 * hidden, width) for _ in range(2))
        self.norm_layers = nn.ModuleList(nn.GroupNorm(1, width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, rows, frames) -> the same."""
        x = x + self._path(0, x.transpose(2, 3)).transpose(2, 3)
        return x + self._path(1, x)

    def _path(self, i: int, x: Tensor) -> Tensor:
        """x: (batch, channels, sequences, steps) -> the same."""
        sequences = self.norm_layers[i](x).permute(0, 2, 3, 1)
        found, _ = self.lstm_layers[i](sequences.flatten(0, 1))
        return self.linear_layers[i](found).view(sequences.shape).permute(0, 3, 1, 2)


class FusionLayer(nn.Module):
    """A gated convolution of what comes up and what was skipped, added before."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, rows, frames) -> the same."""
        return F.glu(self.conv(x.repeat(1, 2, 1, 1)), dim=1)


class SUlayer(nn.Module):
    """Sparse up-sampling: a transposed convolution along frequency for each band."""

    def __init__(self, sizes: Sizes, inputs: int, outputs: int, rows: tuple[int, ...]) -> None:
        super().__init__()
        self.rows = rows
        self.compressed = tuple(
            compressed_rows(n, stride) for n, stride in zip(rows, sizes.band_stride, strict=True)
        )
        self.convtrs = nn.ModuleList(
            nn.ConvTranspose2d(inputs, outputs, (kernel, 1), (stride, 1))
            for kernel, stride in zip(sizes.band_kernel, sizes.band_stride, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, inputs, fewer rows, frames) -> (batch, outputs, rows, frames)."""
        bands = zip(self.convtrs, x.split(self.compressed, dim=2), self.rows, strict=True)
        expanded = ((convtr(band), rows) for convtr, band, rows in bands)
        return torch.cat(
            [band.narrow(2, (band.shape[2] - rows) // 2, rows) for band, rows in expanded], dim=2
        )


def compressed_rows(rows: int, stride: int) -> int:
    """Rows of a band after its convolution."""
    return -(-rows // stride)


def row_padding(rows: int, conv: Any) -> tuple[int, int]:
    """Zeros before and after the rows of a band, so that its convolution gives `compressed_rows`."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    missing = kernel - 1 if stride == 1 else -rows % stride
    return missing // 2, missing - missing // 2


def masked(mix: Tensor, mask: Tensor) -> Tensor:
    """The complex product of two (..., 2)."""
    (re, im), (mask_re, mask_im) = mix.unbind(-1), mask.unbind(-1)
    return torch.stack((re * mask_re - im * mask_im, re * mask_im + im * mask_re), dim=-1)


def _mask_layer(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, MASK_WIDTH, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(MASK_WIDTH, channels, 1),
        nn.Tanh(),
    )
