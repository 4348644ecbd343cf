"""The two ragged ends of a Roformer: bands in (BandSplit) and masks out (MaskEstimator).

Bands have 2 to 516 features. Sixty-two small products keep no processor busy, so neighbouring bands are
padded to a common width and run as one batched product per group.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rofo.export.families.roformer.layers import NORM_EPSILON, _parameter
from rofo.export.graph.form import Form, cast, product
from rofo.export.graph.weights import Weights


@dataclass(frozen=True)
class Group:
    """Bands [start, stop), each padded to `width` features."""

    start: int
    stop: int
    width: int

    @property
    def bands(self) -> range:
        """Indices of the bands."""
        return range(self.start, self.stop)


def group_bands(widths: Sequence[int], group_cost: int) -> tuple[Group, ...]:
    """Cut the list of bands into runs so that padding plus `group_cost` per run is least."""
    best: list[tuple[int, tuple[Group, ...]]] = [(0, ())]
    for stop in range(1, len(widths) + 1):
        candidates = []
        for start in range(stop):
            run = widths[start:stop]
            cost = best[start][0] + max(run) * len(run) - sum(run) + group_cost
            candidates.append((cost, start, max(run)))
        cost, start, width = min(candidates)
        best.append((cost, (*best[start][1], Group(start, stop, width))))
    return best[-1][1]


class BandLayout:
    """Which features belong to which band.

    A frame's features are (bin, channel, real or imaginary) flattened, 2 * channels per bin; a band is a
    run of bins, and Mel bands overlap. `widths` counts features per band.
    """

    def __init__(self, bands: Sequence[tuple[int, int]], bins: int, channels: int) -> None:
        per_bin = 2 * channels
        self.bins, self.channels = bins, channels
        self.features = bins * per_bin
        self.first = [start * per_bin for start, _ in bands]
        self.widths = [count * per_bin for _, count in bands]

    def input_index(self, group: Group) -> Tensor | None:
        """Features to gather for a group, (bands * width); padding points one past the last feature.

        None where the group's bands lie one after the other without padding, so that a slice will do.
        """
        if self._is_slice(group):
            return None
        rows = torch.full((len(group.bands), group.width), self.features)
        for row, band in zip(rows, group.bands, strict=True):
            row[: self.widths[band]] = self.first[band] + torch.arange(self.widths[band])
        return rows.reshape(-1)

    def output_indices(self, groups: Sequence[Group]) -> list[Tensor]:
        """For every feature its places in the groups' concatenated outputs, one tensor per cover.

        Features that fewer bands cover point one past the end, where a zero stands. Empty where the
        outputs are the features already.
        """
        offsets = accumulate((len(g.bands) * g.width for g in groups), initial=0)
        places: list[list[int]] = [[] for _ in range(self.features)]
        end = 0
        for group, offset in zip(groups, offsets, strict=False):
            for i, band in enumerate(group.bands):
                for feature in range(self.widths[band]):
                    places[self.first[band] + feature].append(offset + i * group.width + feature)
            end = offset + len(group.bands) * group.width
        if [p[0] for p in places] == list(range(end)) and all(len(p) == 1 for p in places):
            return []
        covers = max(map(len, places))
        return [torch.tensor([p[c] if c < len(p) else end for p in places]) for c in range(covers)]

    def coverage(self) -> Tensor:
        """How many bands cover each feature, (features)."""
        count = torch.zeros(self.features)
        for first, width in zip(self.first, self.widths, strict=True):
            count[first : first + width] += 1
        return count

    def _is_slice(self, group: Group) -> bool:
        ends = [self.first[b] + group.width for b in group.bands]
        follows = all(self.first[b] == end for b, end in zip(group.bands[1:], ends, strict=False))
        return follows and all(self.widths[b] == group.width for b in group.bands)


class BandSplit(nn.Module):
    """Each band's features, normalised, through its own linear layer."""

    def __init__(self, weights: Weights, layout: BandLayout, dim: int, form: Form) -> None:
        super().__init__()
        groups = group_bands(layout.widths, form.split_cost)
        self.groups = nn.ModuleList(_BandGroup(weights, layout, group, dim, form) for group in groups)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, frames, features) -> (batch, bands, frames, dim), float32."""
        padded = F.pad(x, (0, 1))
        return _joined([cast(group(x, padded), torch.float32) for group in self.groups], 1)


class _BandGroup(nn.Module):
    index: Tensor | None
    gamma: Tensor

    def __init__(self, weights: Weights, layout: BandLayout, group: Group, dim: int, form: Form) -> None:
        super().__init__()
        self.count, self.width = len(group.bands), group.width
        self.first = layout.first[group.start]
        self.register_buffer("index", layout.input_index(group))
        gamma = torch.zeros(self.count, 1, self.width)
        weight = torch.zeros(self.count, self.width, dim)
        bias = torch.zeros(self.count, 1, dim)
        for i, band in enumerate(group.bands):
            width, key = layout.widths[band], f"band_split.to_features.{band}"
            # The norm runs over the padded width; the zeros add nothing to |x|, only to the mean.
            gamma[i, 0, :width] = weights.take(f"{key}.0.gamma", width) * (width / self.width) ** 0.5
            weight[i, :width] = weights.take(f"{key}.1.weight", dim, width).T
            bias[i, 0] = weights.take(f"{key}.1.bias", dim)
        self.gamma = _parameter(gamma)
        self.weight, self.bias = (_parameter(tensor.to(form.product)) for tensor in (weight, bias))

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:
        if self.index is None:
            x = x[..., self.first : self.first + self.count * self.width]
        else:
            x = padded.index_select(-1, self.index)
        x = x.unflatten(-1, (self.count, self.width)).transpose(1, 2)
        x = F.rms_norm(x, (self.width,), eps=NORM_EPSILON) * self.gamma
        return product(x, self.weight) + self.bias


class MaskEstimator(nn.Module):
    """One stem's mask: a perceptron with tanh per band, gated linear output, bands put back on the bins.

    Where Mel bands overlap the masks are averaged; with `zero_dc` bin 0 of the mask is zero. Both are a
    factor of 1, 1/2 or 0 on the linear half of the gated output, so they are folded into its weights exactly.
    """

    def __init__(
        self, weights: Weights, prefix: str, layout: BandLayout, *,
        dim: int, expansion: int, layers: int, zero_dc: bool, form: Form,
    ) -> None:  # fmt: skip
        super().__init__()
        groups = group_bands(layout.widths, form.mask_cost)
        sizes = [dim] + [dim * expansion] * (layers - 1)
        keys = [
            [f"{prefix}.to_freqs.{band}.0.{2 * i}" for band in range(len(layout.widths))]
            for i in range(layers)
        ]
        self.hidden = nn.ModuleList(
            _StackedLinear(weights, keys[i], sizes[i], sizes[i + 1], form) for i in range(layers - 1)
        )
        gain = 1 / layout.coverage()
        gain[: 2 * layout.channels] *= 0.0 if zero_dc else 1.0
        self.outputs = nn.ModuleList(
            _MaskGroup(weights, keys[-1], layout, group, sizes[-1], gain, form) for group in groups
        )
        indices = layout.output_indices(groups)
        for i, index in enumerate(indices):
            self.register_buffer(f"cover_{i}", index)
        self.covers = len(indices)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, bands, frames, dim) -> mask (batch, frames, features), float32."""
        for layer in self.hidden:
            x = layer(x).tanh()
        mask = _joined([group(x) for group in self.outputs], -1)
        if not self.covers:
            return mask
        mask = F.pad(mask, (0, 1))
        covers = [mask.index_select(-1, self.get_buffer(f"cover_{i}")) for i in range(self.covers)]
        return torch.stack(covers).sum(0) if len(covers) > 2 else sum(covers[1:], covers[0])


class _StackedLinear(nn.Module):
    """One linear layer per band, all of one shape, as a batched product."""

    def __init__(self, weights: Weights, keys: Sequence[str], inputs: int, outputs: int, form: Form) -> None:
        super().__init__()
        weight, bias = torch.empty(len(keys), inputs, outputs), torch.empty(len(keys), 1, outputs)
        for i, key in enumerate(keys):
            weight[i] = weights.take(f"{key}.weight", outputs, inputs).T
            bias[i, 0] = weights.take(f"{key}.bias", outputs)
        self.weight, self.bias = (_parameter(tensor.to(form.product)) for tensor in (weight, bias))

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight) + self.bias


class _MaskGroup(nn.Module):
    def __init__(
        self,
        weights: Weights,
        keys: Sequence[str],
        layout: BandLayout,
        group: Group,
        inputs: int,
        gain: Tensor,
        form: Form,
    ) -> None:
        super().__init__()
        self.start, self.stop, self.width = group.start, group.stop, group.width
        weight = torch.zeros(len(group.bands), inputs, 2, self.width)
        bias = torch.zeros(len(group.bands), 1, 2, self.width)
        for i, band in enumerate(group.bands):
            width, first = layout.widths[band], layout.first[band]
            factor = torch.stack((gain[first : first + width], torch.ones(width)))
            rows = weights.take(f"{keys[band]}.weight", 2 * width, inputs).view(2, width, inputs)
            weight[i, :, :, :width] = (rows * factor[..., None]).permute(2, 0, 1)
            bias[i, 0, :, :width] = weights.take(f"{keys[band]}.bias", 2 * width).view(2, width) * factor
        self.weight, self.bias = (_parameter(t.flatten(2).to(form.product)) for t in (weight, bias))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, bands, frames, inputs) -> (batch, frames, bands of this group * width)."""
        out = product(x[:, self.start : self.stop], self.weight) + self.bias
        value, gate = cast(out, torch.float32).chunk(2, dim=-1)
        return (value * gate.sigmoid()).transpose(1, 2).flatten(2)


def _joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=axis)
