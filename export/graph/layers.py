"""Layers of convolutional networks in the arrangement and number types that an engine runs best.

What one kernel leaves to the next is stored in 16 bits, for TensorRT-RTX convolves in 16 bits only what it
also stores so; everything else is computed in float32. A sum or product of two streams is of 16 bits where
both are, for only then it fits into the kernel of a convolution; else PyTorch makes it float32. A TFC-TDF v3
of 128 channels, 5 scales, 256 frames and 4096 bins is then planned as 402 kernels that touch 13.9 GB, an
MDX-Net of 48 channels, 5 scales, 256 frames and 3072 bins as 96 with 4.1 GB; their float32 graphs as 452 with
35.1 GB and 103 with 8.7 GB. Sums of two streams in float32 would be worth 0.2 dB for a quarter more bytes.
"""

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rofo.export.graph.types import Form, cast, frozen, product, refuse_attention

# fp16 ends at 65504, and a full-scale tone of 4096 times a stream of 30 is beyond it. A 64th has room for
# 4 million, and loses nothing above 0.004. It is a power of two: no rounding changes, nor does bf16.
SHARE = 1 / 64

Network = TypeVar("Network", bound=nn.Module)


def copied(network: Network) -> Network:
    """The same modules once more, to be rearranged; they share their weights."""
    return copy.deepcopy(network, {id(x): x for x in (*network.parameters(), *network.buffers())})


def scale_weight(layer: nn.Module, factor: float) -> None:
    """Multiply what a convolution of a `copied` network makes of its input, not what it adds to it."""
    assert isinstance(layer, nn.Conv2d)
    layer.weight = frozen(layer.weight * factor)


def arranged(module: nn.Module, form: Form) -> nn.Module:
    """A `copied` network, its layers replaced by an engine's. Raises UsageError for --attention."""
    refuse_attention(form)
    return _arranged(module, form.product)


def _arranged(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    if isinstance(module, nn.Sequential):
        return _sequence(module, dtype)
    layer = _layer(module, dtype)
    if layer is module:
        for name, child in list(module.named_children()):
            setattr(module, name, _arranged(child, dtype))
    return layer


def _sequence(layers: nn.Sequential, dtype: torch.dtype) -> nn.Sequential:
    """BatchNorms behind a convolution are folded into it; in 16 bits channels are last from a Linear on."""
    kept = _folded(list(layers))
    linear = next((i for i, layer in enumerate(kept) if isinstance(layer, nn.Linear)), len(kept))
    if linear == len(kept) or dtype == torch.float32:
        return nn.Sequential(*(_arranged(layer, dtype) for layer in kept))
    before, after = (_arranged(layer, dtype) for layer in kept[:linear]), kept[linear:]
    inner = nn.Sequential(*(_layer(layer, dtype, last=True) for layer in after))
    return nn.Sequential(*before, OverBins(inner, dtype))


def _folded(layers: list[nn.Module]) -> list[nn.Module]:
    folded: list[nn.Module] = []
    for layer in layers:
        before = folded[-1] if folded else None
        if isinstance(layer, nn.BatchNorm2d) and isinstance(before, nn.Conv2d | nn.ConvTranspose2d):
            folded[-1] = _with_norm(before, layer)
        else:
            folded.append(layer)
    return folded


def _with_norm(layer: nn.Conv2d | nn.ConvTranspose2d, norm: nn.BatchNorm2d) -> nn.Module:
    """Both in one, in float64, rounded once."""
    gain, shift = _gain_and_shift(norm)
    outputs = (1, -1, 1, 1) if isinstance(layer, nn.ConvTranspose2d) else (-1, 1, 1, 1)
    made = copied(layer)
    made.weight = frozen(layer.weight.double() * gain.reshape(outputs))
    bias = 0 if layer.bias is None else layer.bias.double()
    made.bias = frozen(bias * gain + shift)
    return made


def _gain_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a trained BatchNorm amounts to, (channels,) in float64."""
    mean, variance = (norm.get_buffer(name).double() for name in ("running_mean", "running_var"))
    gain = norm.weight.double() / torch.sqrt(variance + norm.eps)
    return gain, norm.bias.double() - mean * gain


def _layer(module: nn.Module, dtype: torch.dtype, *, last: bool = False) -> nn.Module:
    """An engine's layer instead of a plain one; `last`: channels are the last axis."""
    match module:
        case nn.BatchNorm2d():
            made: nn.Module = ScaleShift(*_gain_and_shift(module), last=last)
        case nn.Linear():
            made = LeftProduct(module, dtype) if last else RightProduct(module)
        case _ if dtype == torch.float32:
            made = module
        case nn.Conv2d():
            made = Conv(module, dtype)
        case nn.ConvTranspose2d():
            made = Tiles(module, dtype)
        case nn.InstanceNorm2d():
            made = InstanceNorm(module, dtype, last=last)
        case nn.GroupNorm() | nn.GELU() | nn.ELU():
            made = Exact(module, last=last)
        case _:
            made = module
    return made


class Stored(nn.Module):
    """Rounds a stream where several kernels will read it, which would else be stored in float32."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape."""
        return cast(x, self.dtype)


class Times(nn.Module):
    """A constant factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape."""
        return x * self.factor


class Exact(nn.Module):
    """A layer that is computed in float32."""

    def __init__(self, layer: nn.Module, *, last: bool) -> None:
        super().__init__()
        self.layer, self.turned = layer, last and isinstance(layer, nn.GroupNorm)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, frames, bins), or with the channels last -> the same shape."""
        x = cast(x, torch.float32)
        out: Tensor = _last(self.layer(_first(x))) if self.turned else self.layer(x)
        return out


class ScaleShift(nn.Module):
    """x * scale + shift per channel: a BatchNorm that nothing before it can absorb."""

    def __init__(self, scale: Tensor, shift: Tensor, *, last: bool) -> None:
        super().__init__()
        shape = (-1,) if last else (-1, 1, 1)
        self.scale, self.shift = (frozen(x.reshape(shape)) for x in (scale, shift))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, frames, bins), or with the channels last -> the same shape."""
        return cast(x, torch.float32) * self.scale + self.shift


class RightProduct(nn.Module):
    """x @ weight + bias, with `weight` stored (inputs, outputs): the graph then needs no transpose."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = frozen(linear.weight.T.contiguous()), linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., inputs) -> (..., outputs)."""
        x = product(x, self.weight)
        return x if self.bias is None else x + self.bias


class LeftProduct(nn.Module):
    """weight @ x + bias: the channels of x are last, as they are in memory between convolutions.

    The other way round a kernel of its own turns x for every product.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = frozen(linear.weight, dtype)
        self.bias = None if linear.bias is None else frozen(linear.bias[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, frames, inputs, channels) -> (batch, frames, outputs, channels)."""
        x = product(self.weight, cast(x, self.weight.dtype))
        return x if self.bias is None else cast(x, torch.float32) + self.bias


class OverBins(nn.Module):
    """Layers that have the channels last, from a linear one on."""

    def __init__(self, layers: nn.Sequential, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers, self.dtype = layers, dtype

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, frames, bins) -> the same shape."""
        return _first(self.layers(_last(cast(x, self.dtype))))


class Conv(nn.Module):
    """A convolution in 16 bits, which says nothing of its sums: the plan has no place for that.

    With casts around it, as for products, the plan is the same; but where a float32 operator has the same
    input, it can become a convolution in float32.
    """

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = frozen(layer.weight, dtype)
        self.bias = None if layer.bias is None else frozen(layer.bias, dtype)
        self.stride, self.padding, self.groups = layer.stride, layer.padding, layer.groups

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, inputs, frames, bins) -> (batch, outputs, frames / stride, bins / stride)."""
        x = cast(x, self.weight.dtype)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, groups=self.groups)


class Tiles(nn.Module):
    """A transposed convolution whose kernel is its step, as a product whose columns are laid as tiles.

    In bf16 TensorRT-RTX 1.7 has no transposed convolution, and in fp16 it does not say how it sums. Tiles are
    laid in the kernel that multiplies by the skipped stream or joins it: one more per scale.
    """

    def __init__(self, layer: nn.ConvTranspose2d, dtype: torch.dtype) -> None:
        super().__init__()
        tiles = layer.weight.permute(0, 2, 3, 1)
        self.tile, self.columns = tiles.shape[1:], frozen(tiles.flatten(1), dtype)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, inputs, frames, bins) -> (batch, outputs, frames * step, bins * step)."""
        tiles = product(_last(cast(x, self.columns.dtype)), self.columns).unflatten(3, self.tile)
        x = tiles.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)
        return _first(x if self.bias is None else cast(x, torch.float32) + self.bias)


class InstanceNorm(nn.Module):
    """(x - mean) * gain + bias: mean, variance and result each read x once, in 16 bits.

    Behind a reshape of its own each has a cast of its own; of a common one the plan stores the result, in
    float32. Bytes per value: 8 so, 13 to 17 with a common cast, 10 as the operator on 16 bits.
    """

    def __init__(self, norm: nn.InstanceNorm2d, dtype: torch.dtype, *, last: bool) -> None:
        super().__init__()
        self.dtype, self.epsilon, self.last = dtype, norm.eps, last
        shape = (-1,) if last else (-1, 1, 1)
        self.gamma, self.beta = (frozen(x.reshape(shape)) for x in (norm.weight, norm.bias))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, frames, bins), or with the channels last -> the same shape, float32."""
        x = cast(x, self.dtype)
        over = 1 if self.last else 2
        line = x.flatten(over, over + 1)
        plane = line.unsqueeze(over + 1)
        mean = line.float().mean(over, keepdim=True).unsqueeze(over)
        variance = (plane.float() - mean).square().mean((over, over + 1), keepdim=True)
        gain = self.gamma / torch.sqrt(variance + self.epsilon)
        return (x.float() - mean) * gain + self.beta


def _last(x: Tensor) -> Tensor:
    """(batch, channels, frames, bins) -> (batch, frames, bins, channels)."""
    return x.permute(0, 2, 3, 1)


def _first(x: Tensor) -> Tensor:
    """(batch, frames, bins, channels) -> (batch, channels, frames, bins)."""
    return x.permute(0, 3, 1, 2)
