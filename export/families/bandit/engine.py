"""Bandit in the arrangement that engines run fastest, derived from the plain network.

Before a recurrent layer features rest with its steps first, so that a transpose is all that lies between two
of them; an item is a channel of the batch.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rofo.export.families.band_groups import (
    SPLIT_COST,
    GatheredBands,
    Group,
    MaskOutputs,
    StackedLinear,
    group_bands,
    joined,
)
from rofo.export.graph.packing import masked
from rofo.export.graph.recurrent import Recurrent, folded, staged_norm
from rofo.export.graph.types import Form, cast, frozen, product

# Parts of plain networks are Any below: torch's containers do not tell the types of what they hold.


class Engine(nn.Module):
    """A plain Bandit. Same input and output."""

    def __init__(self, network: Any, form: Form) -> None:
        super().__init__()
        self.split = _BandSplit(network.band_split, 2 * network.sizes.bins, form)
        self.layers = nn.ModuleList(_Layer(layer, form) for layer in network.tf_model.seqband)
        self.maskers = nn.ModuleList(_Masker(masker, form) for masker in network.mask_estim.values())
        self.eps = network.tf_model.seqband[0].norm.eps

    def forward(self, mix: Tensor) -> Tensor:
        """mix: (batch, channels, frames, bins, 2) -> (batch, stems, channels, frames, bins, 2)."""
        # To split and masks all frames are alike: were items an axis of their own, TensorRT-RTX would lay the
        # weights of every product down once for each, in float32.
        x = self.split(mix.flatten(0, 2).flatten(1)[None]).unflatten(2, (-1, mix.shape[2]))[0]
        for layer in self.layers:
            x = layer(x.transpose(0, 2))
        # Every band of every stem has a norm of its own; what differs is in the weights behind it.
        x = staged_norm(x, 3, eps=self.eps).flatten(1, 2)[None]
        return torch.stack([masked(mix, masker(x).view(mix.shape)) for masker in self.maskers], dim=1)


class _BandSplit(nn.Module):
    def __init__(self, split: Any, features: int, form: Form) -> None:
        super().__init__()
        groups = group_bands(split.bands, 1, SPLIT_COST[form.engine])
        self.groups = nn.ModuleList(_SplitGroup(split, group, features, form) for group in groups)

    def forward(self, x: Tensor) -> Tensor:
        """x: (1, frames, features) -> (1, bands, frames, width), float32."""
        padded = F.pad(x, (0, 1))
        return joined([group(x, padded) for group in self.groups], 1)


class _SplitGroup(nn.Module):
    """Norm and product of a group's bands. The zeros that pad them are no part of mean and variance."""

    def __init__(self, split: Any, group: Group, features: int, form: Form) -> None:
        super().__init__()
        self.bands = GatheredBands(group, features)
        layers = [split.norm_fc_modules[band.number] for band in group.bands]
        self.eps = layers[0].norm.eps
        inside = torch.zeros(len(layers), 1, group.width)
        weight = torch.zeros(len(layers), group.width, layers[0].fc.out_features)
        biases = []
        for i, (band, layer) in enumerate(zip(group.bands, layers, strict=True)):
            own, bias = folded(layer.fc.weight, layer.fc.bias, layer.norm.weight, layer.norm.bias)
            if split.parts_first:
                own = own.unflatten(1, (2, -1)).transpose(1, 2).flatten(1)
            inside[i, 0, : band.width] = 1
            weight[i, : band.width] = own.T
            biases.append(bias)
        self.inside, self.share = frozen(inside), frozen(1 / inside.sum(dim=2, keepdim=True))
        self.weight, self.bias = frozen(weight, form.product), frozen(torch.stack(biases)[:, None])

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:
        x = self.bands(x, padded)
        x = (x - x.sum(dim=3, keepdim=True) * self.share) * self.inside
        x = x * torch.rsqrt((x * x).sum(dim=3, keepdim=True) * self.share + self.eps)
        return cast(product(x, self.weight), torch.float32) + self.bias


class _Layer(nn.Module):
    """ResidualRnn along the first axis."""

    def __init__(self, layer: Any, form: Form) -> None:
        super().__init__()
        self.eps = layer.norm.eps
        self.rnn = Recurrent(layer.rnn, layer.norm, layer.fc, form)

    def forward(self, x: Tensor) -> Tensor:
        """x: (steps, items, sequences, features) -> the same."""
        return x + self.rnn(staged_norm(x, 3, eps=self.eps).flatten(1, 2)).view(x.shape)


class _Masker(nn.Module):
    """One stem's mask: a perceptron per band, bands put back on the bins with their weights."""

    def __init__(self, masker: Any, form: Form) -> None:
        super().__init__()
        perceptrons = list(masker.norm_mlp)
        self.hidden = StackedLinear([_folded(mlp.hidden[0], mlp.norm) for mlp in perceptrons], form)
        last = [mlp.output[0] for mlp in perceptrons]
        self.outputs = MaskOutputs(masker.bands, last, _gains(masker), 2 * masker.bins, form)

    def forward(self, x: Tensor) -> Tensor:
        """x: (1, bands, frames, width), normed -> mask (1, frames, features), float32."""
        mask: Tensor = self.outputs(self.hidden(x).tanh())
        return mask


def _gains(masker: Any) -> Sequence[Tensor]:
    """The weights of every band's features, real and imaginary part alike."""
    if not masker.weighted:
        return [torch.ones(2 * bins) for _, bins in masker.bands]
    return [masker.weights(i).repeat_interleave(2) for i in range(len(masker.bands))]


def _folded(linear: nn.Linear, norm: nn.LayerNorm) -> nn.Linear:
    """The linear layer behind a norm that scales and shifts no more."""
    made = nn.Linear(linear.in_features, linear.out_features)
    weight, bias = folded(linear.weight, linear.bias, norm.weight, norm.bias)
    made.weight, made.bias = frozen(weight), frozen(bias)
    return made
