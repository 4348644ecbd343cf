"""A hybrid Demucs in the arrangement that engines run best: the plain network, some of its modules replaced.

Means are taken in stages: pools of a few hundred samples, whose mean is a product with a vector of equal
weights, then over channels. A plain mean of the wave branch's eight million numbers leaves ONNX Runtime 53 dB
(GroupNormalization) and means taken axis by axis, which OpenVINO joins to one, leave it 62; as products alone
both keep 104 and more, and with pools before as much or more (a public shape, seeded weights; PyTorch's own
float32 is 110 dB from float64). A product wants channels put in order first, pools take them wherever
convolutions leave them in memory: 8 % of OpenVINO's processor time in fp32 (one thread, two rounds).
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rofo.export.families.demucs import network as plain
from rofo.export.graph.attention import attend, attend_heads
from rofo.export.graph.recurrent import Linear, Loops
from rofo.export.graph.types import DTYPES, Form, cast, frozen

Made = dict[type[nn.Module], Callable[[Any], nn.Module]]


def arranged(network: plain.Demucs, frames: int, samples: int, form: Form) -> nn.Module:
    """The network for chunks of so many frames and samples; it shares what weights it can."""
    own: Made = {
        plain.Levelled: lambda _: Levelled(form),
        plain.TokenNorm: lambda norm: Norm(norm, form, channels=-1),
        nn.MultiheadAttention: lambda attention: Attention(attention, form),
        plain.Positions: lambda places: Fixed(places, *_inner_samples(network, samples)),
        plain.Positions2d: lambda places: Fixed(places, *_inner_bins(network, frames)),
    }
    return replaced(network, arrangements(form) | own)


def arrangements(form: Form) -> Made:
    """What stands for the modules that every Demucs is made of."""
    made: Made = {
        plain.DConv: lambda dconv: DConv(dconv, form, lambda module: replaced(module, made)),
        nn.GroupNorm: lambda norm: Norm(norm, form),
        nn.Linear: lambda linear: Linear(linear.weight, linear.bias, form),
    }
    if form.product != torch.float32:
        convolutions = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
        made |= dict.fromkeys(convolutions, lambda conv: Typed(conv, form.product))
    if form.engine == "tensorrt":
        made[nn.LSTM] = lambda lstm: Loops(lstm, form)
    return made


def replaced(module: nn.Module, made: Made) -> nn.Module:
    """A copy of a module, its weights shared, with the modules of some types replaced by others."""
    if type(module) in made:
        return made[type(module)](module)
    twin = copy.copy(module)
    twin.__dict__["_modules"] = {name: replaced(child, made) for name, child in module.named_children()}
    return twin


def _inner_samples(network: plain.Demucs, samples: int) -> tuple[int, int]:
    """Channels and length of the waveform's innermost level."""
    for _ in network.tencoder:
        samples = math.ceil(samples / network.sizes.stride)
    return _inner_width(network), samples


def _inner_bins(network: plain.Demucs, frames: int) -> tuple[int, int, int]:
    """Channels, frames and bins of the spectrogram's innermost level."""
    sizes = network.sizes
    return _inner_width(network), frames, sizes.n_fft // 2 // sizes.stride**sizes.depth


def _inner_width(network: plain.Demucs) -> int:
    return network.sizes.bottom_channels or network.sizes.levels[-1].outputs


class Fixed(nn.Module):
    """What a module gives for these sizes, as a table."""

    table: Tensor

    def __init__(self, module: nn.Module, *sizes: int) -> None:
        super().__init__()
        self.register_buffer("table", module(*sizes))

    def forward(self, *_: int) -> Tensor:
        """The sizes are known."""
        return self.table


class Typed(nn.Module):
    """A convolution whose operands are of a 16-bit type; in and out it is float32."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.dtype = copy.deepcopy(module).to(dtype), dtype

    @property
    def bias(self) -> Tensor:
        """What is added to every output, float32."""
        bias: Any = self.module.bias
        return cast(bias, torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """As the module's."""
        return cast(self.module(x.to(self.dtype)), torch.float32)


def mean(x: Tensor, axes: tuple[int, ...], form: Form) -> Tensor:
    """The mean over `axes`, the last one among them, which stay as axes of 1; taken in stages, see above."""
    if form.engine == "tensorrt":
        return x.mean(axes, keepdim=True)
    samples, kernel = x.shape[-1], 1
    if x.ndim in _POOLS:
        kernel, zeros = _pool(samples)
        x = _POOLS[x.ndim](x, kernel, zeros)
    x = x @ x.new_full((x.shape[-1], 1), kernel / samples)
    for axis in axes:
        x = x.mean(axis, keepdim=True) if axis not in (-1, x.ndim - 1) else x
    return x


_POOLED = 256
_POOLS: dict[int, Callable[[Tensor, int, int], Tensor]] = {
    3: lambda x, kernel, zeros: F.avg_pool1d(x, kernel, kernel, zeros),
    4: lambda x, kernel, zeros: F.avg_pool2d(x, (1, kernel), (1, kernel), (0, zeros)),
}


def _pool(samples: int) -> tuple[int, int]:
    """How many samples to sum at once, and the zeros at either end that fill the last sum."""
    if samples <= 2 * _POOLED:
        return samples, 0
    fitting = (n for n in range(_POOLED, 2 * _POOLED) if -samples % n % 2 == 0)
    kernel = next(fitting)
    return kernel, -samples % kernel // 2


class Levelled(nn.Module):
    """As the plain network's."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, ...)."""
        axes, count = tuple(range(x.ndim - 1, 0, -1)), x[0].numel()
        level = mean(x, axes, self.form)
        x = x - level
        deviation = (mean(x * x, axes, self.form) * (count / (count - 1))).sqrt()
        return x / (deviation + plain.QUIETEST), level, deviation


class Norm(nn.Module):
    """GroupNorm. `channels` is their axis, 1 or -1; with `rows` every bin is normed by itself.

    `gain` (channels,) is multiplied with what comes out.
    """

    def __init__(
        self,
        norm: nn.GroupNorm,
        form: Form,
        *,
        channels: int = 1,
        rows: bool = False,
        gain: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.groups, self.eps, self.form = norm.num_groups, norm.eps, form
        self.channels, self.rows = channels, rows
        gain = torch.ones_like(norm.weight) if gain is None else gain
        self.weight, self.bias = frozen(norm.weight * gain), frozen(norm.bias * gain)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, [bins,] frames), or (batch, tokens, channels)."""
        if self.groups > 1:
            return self._in_groups(x)
        axes = (x.ndim - 1, 1) if self.rows else tuple(range(x.ndim - 1, 0, -1))
        shape = (-1,) if self.channels == -1 else (-1,) + (1,) * (x.ndim - 2)
        return self._normed(x, axes, shape)

    def _in_groups(self, x: Tensor) -> Tensor:
        axes = tuple(range(x.ndim, 1, -1))
        shape = (self.groups, -1) + (1,) * (x.ndim - 2)
        return self._normed(x.unflatten(1, (self.groups, -1)), axes, shape).flatten(1, 2)

    def _normed(self, x: Tensor, axes: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
        level = mean(x, axes, self.form)
        # The squares are of what is centred; what comes out is made of x, so that no third array is written.
        centred = x - level
        scale = torch.rsqrt(mean(centred * centred, axes, self.form) + self.eps) * self.weight.view(shape)
        return x * scale + (self.bias.view(shape) - level * scale)


class DConv(nn.Module):
    """As the plain network's; bins are not turned into items, but stay where they are wherever that can be.

    The gain of a LayerScale is multiplied into the norm before it, for the half that is not the gate.
    """

    def __init__(self, dconv: plain.DConv, form: Form, arrange: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        layers: Any = dconv.layers
        over_time = any(isinstance(part, plain.BLSTM | plain.LocalState) for part in layers[0])
        self.folds = dconv.rows and over_time
        rows = dconv.rows and not over_time
        self.layers = nn.ModuleList()
        for layer in layers:
            first, first_norm, act, *inner, last, last_norm, gate, scale = layer
            if rows:
                first, last = _over_rows(first), _over_rows(last)
            gain = torch.cat((scale.scale, torch.ones_like(scale.scale)))
            self.layers.append(
                nn.Sequential(
                    arrange(first),
                    Norm(first_norm, form, rows=rows),
                    act,
                    *map(arrange, inner),
                    arrange(last),
                    Norm(last_norm, form, rows=rows, gain=gain),
                    gate,
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, frames), or (batch, channels, bins, frames)."""
        y = x.transpose(1, 2).flatten(0, 1) if self.folds else x
        for layer in self.layers:
            y = y + layer(y)
        return y.unflatten(0, (x.shape[0], -1)).transpose(1, 2) if self.folds else y


def _over_rows(conv: nn.Conv1d) -> nn.Conv2d:
    """A convolution over frames for x with bins."""
    kernel, dilation, padding = conv.kernel_size[0], conv.dilation[0], int(conv.padding[0])
    made = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        (1, kernel),
        dilation=(1, dilation),
        padding=(0, padding),
        device="meta",
    )
    made.weight, made.bias = frozen(conv.weight.unsqueeze(2)), conv.bias
    return made


class Attention(nn.Module):
    """Attention with one product for q, k and v, or for k and v of the other branch.

    1 / sqrt(width of a head) is multiplied into the weights of q. 3-D attention is about twice as fast on
    ONNX Runtime's CPU as 4-D, for which TensorRT-RTX has fused kernels in fp16 and bf16.
    """

    def __init__(self, attention: nn.MultiheadAttention, form: Form) -> None:
        super().__init__()
        width, self.heads = attention.embed_dim, attention.num_heads
        self.dtype, self.heads_first = DTYPES[form.attention or form.precision], form.engine == "tensorrt"
        gain = torch.ones(3 * width, 1)
        gain[:width] = (width / self.heads) ** -0.5
        weight, bias = attention.in_proj_weight * gain, attention.in_proj_bias * gain[:, 0]
        self.project = Linear(weight, bias, form)
        self.project_query = Linear(weight[:width], bias[:width], form)
        self.project_other = Linear(weight[width:], bias[width:], form)
        self.out = Linear(attention.out_proj.weight, attention.out_proj.bias, form)

    def forward(self, query: Tensor, key: Tensor, _: Tensor, *, need_weights: bool) -> tuple[Tensor, None]:
        """query (batch, tokens, channels), key (batch, other tokens, channels), which is the value too."""
        if query is key:
            parts: Sequence[Tensor] = self.project(query).chunk(3, dim=-1)
        else:
            parts = (self.project_query(query), *self.project_other(key).chunk(2, dim=-1))
        q, k, v = (cast(part, self.dtype) for part in parts)
        if self.heads_first:
            q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
            attended = attend_heads(q, k, v, node=self.dtype != torch.float32).transpose(1, 2).flatten(2)
        else:
            attended = attend(q, k, v, heads=self.heads, scale=1.0)
        return self.out(attended), None
