"""Bands of many widths as few batched products, for the families that split a spectrum into bands.

Bands have 2 to 516 features. Sixty-two small products keep no processor busy, so neighbouring bands are
padded to a common width and run as one batched product per group.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rofo.export.graph.types import Form, cast, frozen, product

Bands = tuple[tuple[int, int], ...]  # (first bin, bins) each

# What one more group costs, in features of padding: the overhead of one more product on one side, wasted
# multiplications on the other. 64 puts the 62 standard bands into 6 groups with 0.1 % padding and the 60 Mel
# bands into 13 with 7 %. For TensorRT a group is a kernel or two, of some microseconds, in which it
# multiplies hundreds of features of padding; the band split is then one group whatever the widths.
SPLIT_COST = {"onnx": 64, "tensorrt": 1 << 40}
_MASK_COST = {"onnx": 64, "tensorrt": 512}


@dataclass(frozen=True)
class Band:
    """A run of a frame's features (bin, channel, real or imaginary)."""

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

    @property
    def numbers(self) -> range:
        """Which bands of the network they are."""
        return range(self.bands[0].number, self.bands[-1].number + 1)


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


class GatheredBands(nn.Module):
    """The features of a group's bands, side by side and padded with zeros."""

    index: Tensor | None

    def __init__(self, group: Group, features: int) -> None:
        super().__init__()
        self.count, self.width, self.first = len(group.bands), group.width, group.bands[0].first
        rows = torch.full((self.count, self.width), features)
        for row, band in zip(rows, group.bands, strict=True):
            row[: band.width] = torch.arange(features)[band.features]
        index = rows.flatten()
        lies_so = torch.equal(index, index[0] + torch.arange(len(index)))
        self.register_buffer("index", None if lies_so else index)

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:
        """x: (batch, frames, features), and with a zero after each frame -> (batch, bands, frames, width)."""
        if self.index is None:
            x = x[..., self.first : self.first + self.count * self.width]
        else:
            x = padded.index_select(-1, self.index)
        return x.unflatten(-1, (self.count, self.width)).transpose(1, 2)


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


class MaskOutputs(nn.Module):
    """The last, gated linear layer of every band, and the bands put back on the bins.

    Where bands overlap their masks are added, each by its own `gains`, a tensor of features for every band: a
    factor on the linear half of the gated output, folded into its weights exactly. Features without a band
    are 0.
    """

    def __init__(
        self, bands: Bands, layers: Sequence[nn.Module], gains: Sequence[Tensor], features: int, form: Form
    ) -> None:
        """`layers` and `gains` are in the order of the bands; a frame has `features`, 2 x channels a bin."""
        super().__init__()
        channels = len(gains[0]) // (2 * bands[0][1])
        groups = group_bands(bands, channels, _MASK_COST[form.engine])
        self.groups = nn.ModuleList(
            _MaskGroup([layers[i] for i in group.numbers], group, [gains[i] for i in group.numbers], form)
            for group in groups
        )
        covers = _covers(groups, features)
        for i, index in enumerate(covers):
            self.register_buffer(f"cover_{i}", index)
        self.covers = len(covers)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, bands, frames, inputs) -> mask (batch, frames, features), float32."""
        mask = joined([group(x) for group in self.groups], -1)
        if not self.covers:
            return mask
        mask = F.pad(mask, (0, 1))
        covers = [mask.index_select(-1, self.get_buffer(f"cover_{i}")) for i in range(self.covers)]
        return sum(covers[1:], covers[0])


class _MaskGroup(nn.Module):
    def __init__(self, layers: Sequence[Any], group: Group, gains: Sequence[Tensor], form: Form) -> None:
        super().__init__()
        self.start, self.stop = group.numbers.start, group.numbers.stop
        weight = torch.zeros(len(layers), layers[0].weight.shape[1], 2, group.width)
        bias = torch.zeros(len(layers), 1, 2, group.width)
        for i, (band, layer, gain) in enumerate(zip(group.bands, layers, gains, strict=True)):
            factor = torch.stack((gain, torch.ones(band.width)))
            rows = layer.weight.flatten(1).unflatten(0, factor.shape)
            weight[i, :, :, : band.width] = (rows * factor[..., None]).permute(2, 0, 1)
            bias[i, 0, :, : band.width] = layer.bias.view_as(factor) * factor
        self.weight, self.bias = (frozen(tensor.flatten(2), form.product) for tensor in (weight, bias))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, bands, frames, inputs) -> (batch, frames, bands of this group * width)."""
        out = product(x[:, self.start : self.stop], self.weight) + self.bias
        value, gate = cast(out, torch.float32).chunk(2, dim=-1)
        return (value * gate.sigmoid()).transpose(1, 2).flatten(2)


def _covers(groups: Sequence[Group], features: int) -> list[Tensor]:
    """For every feature its places in the groups' concatenated outputs, one tensor per cover.

    Features that fewer bands cover point one past the end, where a zero stands. Empty where the outputs are
    the features already.
    """
    bands = [band for group in groups for band in group.bands]
    coverage = torch.zeros(features, dtype=torch.int64)
    for band in bands:
        coverage[band.features] += 1
    end = sum(len(group.bands) * group.width for group in groups)
    covers = torch.full((int(coverage.max()), features), end)
    filled, place = torch.zeros(features, dtype=torch.int64), 0
    for group in groups:
        for band in group.bands:
            own = torch.arange(features)[band.features]
            covers[filled[own], own] = place + torch.arange(band.width)
            filled[own] += 1
            place += group.width
    return [] if torch.equal(covers[0], torch.arange(end)) else list(covers)


def joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    """Parts along an axis."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=axis)
