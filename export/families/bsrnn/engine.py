"""BSRNN in the arrangement that engines run fastest, derived from the plain network.

Features rest as (bands, items, frames, features), an item being a channel of the batch: the sums of the
norms over frames and features run along memory, and bands of one width are one batched product.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rofo.export.families.bsrnn import network as plain
from rofo.export.graph.packing import masked
from rofo.export.graph.recurrent import Linear, Recurrent, folded, staged_norm
from rofo.export.graph.types import Form, cast, frozen, product

# Parts of plain networks are Any below: torch's containers do not tell the types of what they hold.


class Engine(nn.Module):
    """One plain.Bsrnn, or a plain.Separator. Same input and output."""

    def __init__(self, network: Any, form: Form) -> None:
        super().__init__()
        networks = network.source_models.values() if isinstance(network, plain.Separator) else [network]
        self.targets = nn.ModuleList(_Bsrnn(target, form) for target in networks)

    def forward(self, mix: Tensor) -> Tensor:
        """mix: (batch, channels, frames, bins, 2) -> (batch, targets, channels, frames, bins, 2)."""
        stems = [network(mix) for network in self.targets]
        return stems[0] if len(stems) == 1 else torch.cat(stems, dim=1)


class _Bsrnn(nn.Module):
    def __init__(self, network: Any, form: Form) -> None:
        super().__init__()
        runs = _runs(network.bands)
        self.bins = tuple(run.bins for run in runs)
        self.split = nn.ModuleList(
            _Split([network.BN[i] for i in run.bands], run.width, form) for run in runs
        )
        self.layers = nn.ModuleList(_Layers(layers, form) for layers in network.separator)
        self.maskers = nn.ModuleList(_Masker(masker, runs, form) for masker in network.maskers)

    def forward(self, mix: Tensor) -> Tensor:
        batch = mix.shape[0]
        runs = mix.flatten(0, 1).split(self.bins, dim=2)
        x = torch.cat([split(run) for split, run in zip(self.split, runs, strict=True)], dim=0)
        for layers in self.layers:
            x = layers(x, batch)
        stems = [masked(mix, masker(x).view(mix.shape)) for masker in self.maskers]
        return torch.stack(stems, dim=1)


@dataclass(frozen=True)
class _Run:
    """Neighbouring bands of one width."""

    bands: range
    width: int

    @property
    def bins(self) -> int:
        return len(self.bands) * self.width


def _runs(bands: Sequence[int]) -> list[_Run]:
    grouped = groupby(range(len(bands)), key=lambda band: bands[band])
    listed = [(width, list(members)) for width, members in grouped]
    return [_Run(range(members[0], members[-1] + 1), width) for width, members in listed]


class _Split(nn.Module):
    """Norm and product of the bands of a run."""

    def __init__(self, bands: Sequence[Any], width: int, form: Form) -> None:
        super().__init__()
        self.bands, self.width = len(bands), width
        norms, convolutions = zip(*bands, strict=True)
        self.eps = norms[0].eps
        self.project = _BandLinear(convolutions, form, norms=norms, inputs=_last_of_all(width, 1))

    def forward(self, run: Tensor) -> Tensor:
        """(items, frames, bins of the run, 2) -> (bands, items, frames, features)."""
        items, frames = run.shape[:2]
        x = run.reshape(items, frames, self.bands, 2 * self.width).permute(2, 0, 1, 3)
        return self.project(staged_norm(x, 3, 2, eps=self.eps))


class _Layers(nn.Module):
    """BSNet."""

    def __init__(self, layers: Any, form: Form) -> None:
        super().__init__()
        self.time, self.band = _Along(layers.time_net, form), _Along(layers.band_net, form)
        self.tac = None if layers.tac_module is None else _Tac(layers.tac_module, form)
        self.attention = None if layers.attn_block is None else _Attention(layers.attn_block, form)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        """x: (bands, items, frames, features) -> the same."""
        x = x + self.time(staged_norm(x, 3, 2, eps=self.time.eps).permute(2, 0, 1, 3)).permute(1, 2, 0, 3)
        x = x + self.band(staged_norm(x, 3, 0, eps=self.band.eps))
        if self.tac is not None:
            x = self.tac(x, batch)
        return x if self.attention is None else self.attention(x)


class _Along(nn.Module):
    """The layer of a ResNet and the product after it, along the first axis; norm and shortcut are outside."""

    def __init__(self, net: Any, form: Form) -> None:
        super().__init__()
        self.eps = net.norm.eps
        recurrent = isinstance(net.main_layer, nn.RNNBase)
        self.layer = (Recurrent if recurrent else _Convolution)(net.main_layer, net.norm, net.proj, form)

    def forward(self, x: Tensor) -> Tensor:
        """x: (steps, a, b, features) -> the same."""
        return self.layer(x.flatten(1, 2)).view(x.shape)


class _Convolution(nn.Module):
    """A convolution of three steps as one product, and the product after it."""

    def __init__(self, layer: Any, norm: nn.GroupNorm, project: nn.Linear, form: Form) -> None:
        super().__init__()
        convolution = layer[0]
        # The zeros beyond the ends come after the norm's shift, which cannot become a bias, then.
        self.scale, self.shift = norm.weight, norm.bias
        weight = convolution.weight.permute(0, 2, 1).flatten(1)
        self.convolve = Linear(weight, convolution.bias, form)
        self.project = Linear(project.weight, project.bias, form)

    def forward(self, x: Tensor) -> Tensor:
        """x: (steps, sequences, features) -> the same."""
        x = F.pad(x * self.scale + self.shift, (0, 0, 0, 0, 1, 1))
        steps = x.shape[0] - 2
        x = torch.cat((x[:steps], x[1 : steps + 1], x[2:]), dim=2)
        return self.project(torch.relu(self.convolve(x)))


class _Tac(nn.Module):
    """Transform, average, concatenate; what is the same for all channels is added to each channel's."""

    def __init__(self, tac: Any, form: Form) -> None:
        super().__init__()
        transform, average, concat = tac.transform[0], tac.average[0], tac.concat[0]
        self.activation = tac.transform[1]
        hidden = average.in_features
        own, mean = concat.weight.split(hidden, dim=1)
        self.transform = Linear(transform.weight, transform.bias, form)
        self.average = Linear(average.weight, average.bias, form)
        self.own, self.mean = (
            Linear(own, concat.bias, form),
            Linear(mean, torch.zeros_like(concat.bias), form),
        )

    def forward(self, x: Tensor, batch: int) -> Tensor:
        """x: (bands, items, frames, features) -> the same."""
        x = x.unflatten(1, (batch, -1))
        own = self.activation(self.transform(x))
        mean = self.activation(self.average(own.mean(dim=2, keepdim=True)))
        return (x + self.activation(self.own(own) + self.mean(mean))).flatten(1, 2)


class _Attention(nn.Module):
    """Queries, keys and values of all heads are one product; so wide a head is no fused kernel's."""

    def __init__(self, block: Any, form: Form) -> None:
        super().__init__()
        self.heads, self.dtype = block.heads, form.product
        parts = [[block.get_submodule(f"attn_conv_{name}_{h}") for h in range(block.heads)] for name in "QKV"]
        self.widths = tuple(part[0][0].out_channels for part in parts)
        self.project = nn.ModuleList(_Projection(part, form) for part in parts)
        bands = block.attn_concat_proj[2].gamma.shape[3]
        self.scale = (self.widths[0] * bands) ** -0.5
        self.out = _Projection([block.attn_concat_proj], form)

    def forward(self, x: Tensor) -> Tensor:
        """x: (bands, items, frames, features) -> the same."""
        q, k, v = (self._flat(project(x)) for project in self.project)
        q = cast(q * self.scale, self.dtype)
        scores = product(q, cast(k, self.dtype).transpose(2, 3))
        found = product(F.softmax(scores.float(), dim=3), cast(v, self.dtype))
        # (items, heads, frames, bands x features of a head) -> (bands, items, frames, features)
        found = found.unflatten(3, (x.shape[0], -1)).permute(3, 0, 2, 1, 4).flatten(3)
        return x + self.out(found).squeeze(3)

    def _flat(self, x: Tensor) -> Tensor:
        """(bands, items, frames, heads, features) -> (items, heads, frames, bands x features)."""
        return x.permute(1, 3, 2, 0, 4).flatten(3)


class _Projection(nn.Module):
    """Product, PReLU and norm over the bands of a frame, for several heads at once."""

    def __init__(self, heads: Sequence[Any], form: Form) -> None:
        super().__init__()
        convolutions, slopes, norms = zip(*heads, strict=True)
        self.heads = len(heads)
        weight = torch.cat([convolution.weight.flatten(1) for convolution in convolutions])
        self.project = Linear(weight, torch.cat([convolution.bias for convolution in convolutions]), form)
        self.slope = torch.stack([slope.weight for slope in slopes])  # (heads, 1)
        self.gamma, self.beta = (
            torch.stack([getattr(norm, name)[0, :, 0] for norm in norms]).permute(2, 0, 1)[:, None, None]
            for name in ("gamma", "beta")
        )  # (bands, 1, 1, heads, features)

    def forward(self, x: Tensor) -> Tensor:
        """x: (bands, items, frames, inputs) -> (bands, items, frames, heads, outputs of a head)."""
        x = self.project(x).unflatten(3, (self.heads, -1))
        x = torch.relu(x) - self.slope * torch.relu(-x)
        return staged_norm(x, 4, 0, eps=plain.FRAME_EPS) * self.gamma + self.beta


class _Masker(nn.Module):
    """The masks of all bins: two products of all bands at once, the last one run by run."""

    def __init__(self, masker: Any, runs: Sequence[_Run], form: Form) -> None:
        super().__init__()
        norms, first, _, second, _, last = zip(*masker.mask, strict=True)
        self.eps = norms[0].eps
        self.sizes = tuple(len(run.bands) for run in runs)
        self.first, self.second = _BandLinear(first, form, norms=norms), _BandLinear(second, form)
        self.last = nn.ModuleList(
            _BandLinear([last[i] for i in run.bands], form, outputs=_last_of_all(run.width, 2))
            for run in runs
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (bands, items, frames, features) -> (items, frames, bins, 2)."""
        x = torch.tanh(self.first(staged_norm(x, 3, 2, eps=self.eps)))
        x = torch.tanh(self.second(x))
        masks = []
        for last, run in zip(self.last, x.split(self.sizes), strict=True):
            value, gate = last(run).chunk(2, dim=3)
            mask = (value * torch.sigmoid(gate)).permute(1, 2, 0, 3)
            masks.append(mask.reshape(*mask.shape[:2], -1, 2))
        return torch.cat(masks, dim=2)


class _BandLinear(nn.Module):
    """A product for each of several bands; `norms` before it give their scales and shifts.

    `inputs` and `outputs` are orders: the feature of the plain network that stands at each place.
    """

    def __init__(
        self, bands: Sequence[Any], form: Form, *, norms: Sequence[Any] = (),
        inputs: Tensor | None = None, outputs: Tensor | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        weights, biases = [], []
        for i, band in enumerate(bands):
            scale, shift = (norms[i].weight, norms[i].bias) if norms else (None, None)
            weight, bias = folded(band.weight.flatten(1), band.bias, scale, shift)
            weight = weight if inputs is None else weight[:, inputs]
            weights.append((weight if outputs is None else weight[outputs]).T)
            biases.append(bias if outputs is None else bias[outputs])
        # An axis for the items: were x reshaped to three axes and back, the optimizer of onnxscript 0.7
        # would leave out both, and where there are as many items as bands it takes the ones for the others.
        self.weight = frozen(torch.stack(weights)[:, None], form.product)
        self.bias = frozen(torch.stack(biases)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """x: (bands, items, frames, inputs) -> (bands, items, frames, outputs), float32."""
        return cast(product(x, self.weight), torch.float32) + self.bias


def _last_of_all(width: int, blocks: int) -> Tensor:
    """The order that turns `blocks` blocks of (2, width) into as many of (width, 2)."""
    return torch.arange(blocks * 2 * width).view(blocks, 2, width).transpose(1, 2).flatten()
