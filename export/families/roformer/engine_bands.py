"""The two ragged ends of a Roformer for an engine: bands in (BandSplit) and masks out (MaskEstimator).

Bands have 2 to 516 features. Sixty-two small products keep no processor busy, so neighbouring bands are
padded to a common width and run as one batched product per group.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rofo.export.families.roformer import network as plain
from rofo.export.families.roformer.bands import Bands
from rofo.export.families.roformer.engine_layers import NORM_EPSILON
from rofo.export.graph.types import Form, cast, frozen, product

# What one more group costs, in features of padding: the overhead of one more product on one side, wasted
# multiplications on the other. 64 puts the 62 standard bands into 6 groups with 0.1 % padding and the 60 Mel
# bands into 13 with 7 %. For TensorRT a group is a kernel or two, of some microseconds, in which it
# multiplies hundreds of features of padding; the band split is then one group whatever the widths.
_SPLIT_COST = {"onnx": 64, "tensorrt": 1 << 40}
_MASK_COST = {"onnx": 64, "tensorrt": 512}


@dataclass(frozen=True)
class Band:
    """A run of a frame's features (bin, channel, real or imaginary); Mel bands overlap."""

    number: int
    first: int
    width: int

    @property
    def features(self) -> slice:
        """Where its features are in a frame."""
        return slice(self.first, self.first + self.width)


@dataclass(frozen=True)
class Group:
    """Neighbouring bands, each padded to `width` features."""

    bands: tuple[Band, ...]
    width: int


def group_bands(bands: Bands, channels: int, group_cost: int) -> tuple[Group, ...]:
    """Cut the list of bands into runs so that padding plus `group_cost` per run is least."""
    each = [Band(k, 2 * channels * first, 2 * channels * n) for k, (first, n) in enumerate(bands)]
    best: list[tuple[int, tuple[Group, ...]]] = [(0, ())]
    for stop in range(1, len(each) + 1):
        candidates = []
        for start in range(stop):
            widths = [band.width for band in each[start:stop]]
            cost = best[start][0] + max(widths) * len(widths) - sum(widths) + group_cost
            candidates.append((cost, start, max(widths)))
        cost, start, width = min(candidates)
        best.append((cost, (*best[start][1], Group(tuple(each[start:stop]), width))))
    return best[-1][1]


class BandSplit(nn.Module):
    """Each band's features, normalised, through its own linear layer."""

    def __init__(self, split: plain.BandSplit, form: Form) -> None:
        super().__init__()
        groups = group_bands(split.bands, split.channels, _SPLIT_COST[form.engine])
        features = groups[-1].bands[-1].features.stop
        self.groups = nn.ModuleList(_SplitGroup(split, group, features, form) for group in groups)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, frames, features) -> (batch, bands, frames, dim), float32."""
        padded = F.pad(x, (0, 1))
        return _joined([cast(group(x, padded), torch.float32) for group in self.groups], 1)


class _SplitGroup(nn.Module):
    index: Tensor | None

    def __init__(self, split: plain.BandSplit, group: Group, features: int, form: Form) -> None:
        super().__init__()
        self.count, self.width, self.first = len(group.bands), group.width, group.bands[0].first
        layers: list[Any] = [split.to_features[band.number] for band in group.bands]
        gamma = torch.zeros(self.count, 1, self.width)
        weight = torch.zeros(self.count, self.width, layers[0][1].out_features)
        for i, (band, (norm, linear)) in enumerate(zip(group.bands, layers, strict=True)):
            # The norm runs over the padded width; the zeros add nothing to |x|, only to the mean.
            gamma[i, 0, : band.width] = norm.gamma * (band.width / self.width) ** 0.5
            weight[i, : band.width] = linear.weight.T
        self.gamma, self.weight = frozen(gamma), frozen(weight, form.product)
        self.bias = frozen(torch.stack([linear.bias[None] for _, linear in layers]), form.product)
        self.register_buffer("index", _gathered(group, features))

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:
        if self.index is None:
            x = x[..., self.first : self.first + self.count * self.width]
        else:
            x = padded.index_select(-1, self.index)
        x = x.unflatten(-1, (self.count, self.width)).transpose(1, 2)
        x = F.rms_norm(x, (self.width,), eps=NORM_EPSILON) * self.gamma
        return product(x, self.weight) + self.bias


class MaskEstimator(nn.Module):
    """One stem's mask: a perceptron with tanh per band, gated linear output, bands put back on the bins."""

    def __init__(self, estimator: Any, *, zero_dc: bool, form: Form) -> None:
        super().__init__()
        # Linear layers of every band, tanh between them left out.
        *hidden, last = zip(*(perceptron[::2] for perceptron, _ in estimator.to_freqs), strict=True)
        self.hidden = nn.ModuleList(StackedLinear(same, form) for same in hidden)
        self.outputs = MaskOutputs(estimator, last, zero_dc=zero_dc, form=form)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, bands, frames, dim) -> mask (batch, frames, features), float32."""
        for layer in self.hidden:
            x = layer(x).tanh()
        return self.outputs(x)


class MaskOutputs(nn.Module):
    """The last, gated linear layer of every band, and the bands put back on the bins.

    Where Mel bands overlap the masks are averaged; with `zero_dc` bin 0 of the mask is zero. Both are a
    factor of 1, 1/2 or 0 on the linear half of the gated output, so they are folded into its weights exactly.
    """

    def __init__(self, estimator: Any, layers: Sequence[nn.Module], *, zero_dc: bool, form: Form) -> None:
        super().__init__()
        channels = estimator.channels
        groups = group_bands(estimator.bands, channels, _MASK_COST[form.engine])
        bands = [band for group in groups for band in group.bands]
        coverage = torch.zeros(bands[-1].features.stop)
        for band in bands:
            coverage[band.features] += 1
        gain = 1 / coverage
        gain[: 2 * channels] *= 0.0 if zero_dc else 1.0
        self.groups = nn.ModuleList(
            _MaskGroup([layers[band.number] for band in group.bands], group, gain, form) for group in groups
        )
        covers = _covers(groups, coverage)
        for i, index in enumerate(covers):
            self.register_buffer(f"cover_{i}", index)
        self.covers = len(covers)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, bands, frames, inputs) -> mask (batch, frames, features), float32."""
        mask = _joined([group(x) for group in self.groups], -1)
        if not self.covers:
            return mask
        mask = F.pad(mask, (0, 1))
        covers = [mask.index_select(-1, self.get_buffer(f"cover_{i}")) for i in range(self.covers)]
        return sum(covers[1:], covers[0])


class StackedLinear(nn.Module):
    """One linear layer per band, all of one shape, as a batched product; pointwise convolutions are such."""

    def __init__(self, layers: Sequence[Any], form: Form) -> None:
        super().__init__()
        self.weight = frozen(torch.stack([layer.weight.flatten(1).T for layer in layers]), form.product)
        self.bias = None
        if layers[0].bias is not None:
            self.bias = frozen(torch.stack([layer.bias[None] for layer in layers]), form.product)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, bands, frames, inputs) -> (batch, bands, frames, outputs)."""
        x = product(x, self.weight)
        return x if self.bias is None else x + self.bias


class _MaskGroup(nn.Module):
    def __init__(self, layers: Sequence[Any], group: Group, gain: Tensor, form: Form) -> None:
        super().__init__()
        self.start, self.stop = group.bands[0].number, group.bands[-1].number + 1
        weight = torch.zeros(len(layers), layers[0].weight.shape[1], 2, group.width)
        bias = torch.zeros(len(layers), 1, 2, group.width)
        for i, (band, layer) in enumerate(zip(group.bands, layers, strict=True)):
            factor = torch.stack((gain[band.features], torch.ones(band.width)))
            rows = layer.weight.flatten(1).unflatten(0, factor.shape)
            weight[i, :, :, : band.width] = (rows * factor[..., None]).permute(2, 0, 1)
            bias[i, 0, :, : band.width] = layer.bias.view_as(factor) * factor
        self.weight, self.bias = (frozen(tensor.flatten(2), form.product) for tensor in (weight, bias))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, bands, frames, inputs) -> (batch, frames, bands of this group * width)."""
        out = product(x[:, self.start : self.stop], self.weight) + self.bias
        value, gate = cast(out, torch.float32).chunk(2, dim=-1)
        return (value * gate.sigmoid()).transpose(1, 2).flatten(2)


def _gathered(group: Group, features: int) -> Tensor | None:
    """Features to gather for a group, (bands * width); padding points one past the last feature.

    None where the group's bands lie one after the other without padding, so that a slice will do.
    """
    rows = torch.full((len(group.bands), group.width), features)
    for row, band in zip(rows, group.bands, strict=True):
        row[: band.width] = torch.arange(features)[band.features]
    index = rows.flatten()
    return None if torch.equal(index, index[0] + torch.arange(len(index))) else index


def _covers(groups: Sequence[Group], coverage: Tensor) -> list[Tensor]:
    """For every feature its places in the groups' concatenated outputs, one tensor per cover.

    Features that fewer bands cover point one past the end, where a zero stands. Empty where the outputs are
    the features already.
    """
    end = sum(len(group.bands) * group.width for group in groups)
    covers = torch.full((int(coverage.max()), len(coverage)), end)
    filled, place = torch.zeros(len(coverage), dtype=torch.int64), 0
    for group in groups:
        for band in group.bands:
            features = torch.arange(len(coverage))[band.features]
            covers[filled[features], features] = place + torch.arange(band.width)
            filled[features] += 1
            place += group.width
    return [] if torch.equal(covers[0], torch.arange(end)) else list(covers)


def _joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=axis)
