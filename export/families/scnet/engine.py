"""SCNet in the arrangement that engines run fastest, derived from the plain network.

Rows stay where they are while convolutions run along time, which are convolutions of one row. Between encoder
and decoder features are last and rows first, as recurrent layers take them; Fourier transforms are products.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rofo.export.families.scnet import network as plain
from rofo.export.families.scnet.engine_transformer import DualPathTransformer
from rofo.export.graph.recurrent import Recurrent, staged_norm
from rofo.export.graph.types import Form, cast, frozen, product

# Parts of plain networks are Any below: torch's containers do not tell the types of what they hold.


class Engine(nn.Module):
    """Same input and output as the plain.Scnet, for an even number of `frames`."""

    def __init__(self, network: Any, frames: int, form: Form) -> None:
        super().__init__()
        self.stems = network.stems
        self.encoder = nn.ModuleList(_SDblock(block, form) for block in network.encoder)
        rows = sum(network.decoder[0][1].compressed)
        self.separation = _SeparationNet(network.separation_net, rows, frames, form)
        self.decoder = nn.ModuleList(_SUblock(block[0], block[1], form) for block in network.decoder)
        self.position = network.pos_embed_f
        self.mask = None if network.mask_layer is None else _MaskLayer(network.mask_layer, form)

    def forward(self, mix: Tensor) -> Tensor:
        """mix: (batch, channels, frames, bins, 2) -> (batch, stems, channels, frames, bins, 2)."""
        x = mix.permute(0, 1, 4, 3, 2).flatten(1, 2)
        if self.position is not None:
            x = x + self.position
        kept: list[Tensor] = []
        for block in self.encoder:
            x, skipped = block(x)
            kept.append(skipped)
        x = self.separation(x)
        for block in self.decoder:
            x = block(x + kept.pop())
        if self.mask is not None:
            x = self.mask(x)
        stems = x.unflatten(1, (self.stems, -1, 2)).permute(0, 1, 2, 5, 4, 3)
        return stems if self.mask is None else plain.masked(mix[:, None], stems)


class _Conv(nn.Module):
    """A convolution over rows and frames, both operands in the form's type."""

    def __init__(self, weight: Tensor, bias: Tensor | None, form: Form, **options: Any) -> None:
        super().__init__()
        self.weight = frozen(weight, form.product)
        self.bias = None if bias is None else frozen(bias, form.product)
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, rows, frames) -> (batch, outputs, rows, frames), float32."""
        found = F.conv2d(cast(x, self.weight.dtype), self.weight, self.bias, **self.options)
        return cast(found, torch.float32)


class _SDblock(nn.Module):
    def __init__(self, block: Any, form: Form) -> None:
        super().__init__()
        self.rows = block.SDlayer.rows
        convs = list(block.SDlayer.convs)
        self.padding = [plain.row_padding(rows, conv) for rows, conv in zip(self.rows, convs, strict=True)]
        self.down = nn.ModuleList(_Conv(c.weight, c.bias, form, stride=c.stride) for c in convs)
        self.along_time = nn.ModuleList(_ConvolutionModule(module, form) for module in block.conv_modules)
        self.join = _Conv(block.globalconv.weight, block.globalconv.bias, form, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        bands = []
        parts = zip(x.split(self.rows, dim=2), self.padding, self.down, self.along_time, strict=True)
        for band, padding, down, along_time in parts:
            bands.append(F.gelu(along_time(down(F.pad(band, (0, 0, *padding))))))
        skipped = torch.cat(bands, dim=2)
        return self.join(skipped), skipped


class _ConvolutionModule(nn.Module):
    def __init__(self, module: Any, form: Form) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_GatedLayer(layer, form) for layer in module.layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


class _GatedLayer(nn.Module):
    """A layer of a ConvolutionModule, its norms row by row."""

    def __init__(self, layer: Any, form: Form) -> None:
        super().__init__()
        first, gated, _, depthwise, second, _, last = layer
        self.eps = first.eps
        padding = (0, gated.kernel_size[0] // 2)
        self.scale, self.shift = (getattr(first, name)[:, None, None] for name in ("weight", "bias"))
        self.gated = _Conv(gated.weight[:, :, None], gated.bias, form, padding=padding)
        self.depthwise = _Conv(
            depthwise.weight[:, :, None], depthwise.bias, form, padding=padding, groups=depthwise.groups
        )
        self.scale_2, self.shift_2 = (getattr(second, name)[:, None, None] for name in ("weight", "bias"))
        self.last = _Conv(last.weight[:, :, None], last.bias, form)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, rows, frames) -> the same."""
        x = staged_norm(x, 3, 1, eps=self.eps) * self.scale + self.shift
        x = self.depthwise(F.glu(self.gated(x), dim=1))
        return self.last(F.silu(staged_norm(x, 3, 1, eps=self.eps) * self.scale_2 + self.shift_2))


class _SeparationNet(nn.Module):
    def __init__(self, net: Any, rows: int, frames: int, form: Form) -> None:
        super().__init__()
        forward, inverse = fourier(frames)
        self.forward_transform = frozen(forward, form.product)
        self.inverse_transform = frozen(inverse, form.product)
        lengths = (frames, frames // 2 + 1)
        self.layers = nn.ModuleList(
            DualPathTransformer(layer, rows, lengths[i % 2], form)
            if net.transforms
            else _DualPath(layer, form)
            for i, layer in enumerate(net.dp_modules)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, rows, frames) -> the same."""
        x = x.permute(2, 0, 3, 1)
        for i, layer in enumerate(self.layers):
            x = layer(x)
            x = self._to_frames(x) if i % 2 else self._to_spectrum(x)
        return x.permute(1, 3, 0, 2)

    def _to_spectrum(self, x: Tensor) -> Tensor:
        """(rows, batch, frames, features) -> (rows, batch, frames / 2 + 1, real and imaginary features)."""
        re, im = self._transformed(self.forward_transform, x).chunk(2, dim=2)
        return torch.cat((re, im), dim=3)

    def _to_frames(self, x: Tensor) -> Tensor:
        """The inverse of _to_spectrum."""
        return self._transformed(self.inverse_transform, torch.cat(x.chunk(2, dim=3), dim=2))

    def _transformed(self, matrix: Tensor, x: Tensor) -> Tensor:
        return cast(product(matrix, cast(x, matrix.dtype)), torch.float32)


class _DualPath(nn.Module):
    def __init__(self, layer: Any, form: Form) -> None:
        super().__init__()
        self.eps = layer.norm_layers[0].eps
        parts = zip(layer.lstm_layers, layer.norm_layers, layer.linear_layers, strict=True)
        self.rows, self.frames = (Recurrent(*part, form) for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        """x: (rows, batch, frames, features) -> the same."""
        normed = staged_norm(x, 3, 2, 0, eps=self.eps)
        x = x + self.rows(normed.flatten(1, 2)).view(x.shape)
        normed = staged_norm(x, 3, 2, 0, eps=self.eps).permute(2, 1, 0, 3)
        return x + self.frames(normed.flatten(1, 2)).view(normed.shape).permute(2, 1, 0, 3)


class _SUblock(nn.Module):
    """FusionLayer and SUlayer."""

    def __init__(self, fusion: Any, expand: Any, form: Form) -> None:
        super().__init__()
        # Both halves of the convolution's input are the same.
        weight = fusion.conv.weight.double()
        half = weight.shape[1] // 2
        self.fuse = _Conv((weight[:, :half] + weight[:, half:]).float(), fusion.conv.bias, form, padding=1)
        self.compressed = expand.compressed
        self.up = nn.ModuleList(
            _Expansion(convtr, rows, form) for convtr, rows in zip(expand.convtrs, expand.rows, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, inputs, fewer rows, frames) -> (batch, outputs, rows, frames)."""
        x = F.glu(self.fuse(x), dim=1)
        bands = zip(self.up, x.split(self.compressed, dim=2), strict=True)
        return torch.cat([up(band) for up, band in bands], dim=2)


class _Expansion(nn.Module):
    """A transposed convolution along rows: an ordinary one of stride 1, or rows laid side by side."""

    def __init__(self, convtr: Any, rows: int, form: Form) -> None:
        super().__init__()
        self.rows, self.stride = rows, convtr.stride[0]
        inputs, outputs, kernel, _ = convtr.weight.shape
        if self.stride == 1:
            weight, bias = convtr.weight.transpose(0, 1).flip(2), convtr.bias
        else:
            weight = convtr.weight.permute(2, 1, 0, 3).reshape(kernel * outputs, inputs, 1, 1)
            bias = convtr.bias.repeat(kernel)
        padding = (kernel // 2, 0) if self.stride == 1 else 0
        self.conv = _Conv(weight, bias, form, padding=padding)

    def forward(self, band: Tensor) -> Tensor:
        """(batch, inputs, fewer rows, frames) -> (batch, outputs, rows, frames)."""
        x = self.conv(band)
        if self.stride > 1:
            x = x.unflatten(1, (self.stride, -1)).permute(0, 2, 3, 1, 4).flatten(2, 3)
        return x.narrow(2, (x.shape[2] - self.rows) // 2, self.rows)


class _MaskLayer(nn.Module):
    def __init__(self, layer: Any, form: Form) -> None:
        super().__init__()
        first, _, last, _ = layer
        self.first = _Conv(first.weight, first.bias, form, padding=1)
        self.last = _Conv(last.weight, last.bias, form)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.last(F.gelu(self.first(x))))


def fourier(frames: int) -> tuple[Tensor, Tensor]:
    """The orthonormal real transform of an even number of frames as a matrix, and its inverse.

    (2 x spectrum, frames), rows the real parts of all frequencies and then the imaginary ones; and
    (frames, 2 x spectrum). Computed in float64.
    """
    frequencies = frames // 2 + 1
    turns = torch.outer(torch.arange(frequencies), torch.arange(frames)).remainder(frames).double()
    angles = 2 * math.pi / frames * turns
    forward = torch.cat((angles.cos(), -angles.sin())) / math.sqrt(frames)
    # All frequencies but the first and the last stand for two.
    twice = torch.full((frequencies,), 2.0, dtype=torch.float64)
    twice[0] = twice[-1] = 1.0
    return forward.float(), (forward * twice.repeat(2)[:, None]).T.contiguous().float()
