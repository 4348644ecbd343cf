"""The two ragged ends of a Roformer for an engine: bands in (BandSplit) and masks out (MaskEstimator)."""

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
from rofo.export.families.roformer import network as plain
from rofo.export.families.transformers import NORM_EPSILON
from rofo.export.graph.types import Form, cast, frozen, product


class BandSplit(nn.Module):
    """Each band's features, normalised, through its own linear layer."""

    def __init__(self, split: plain.BandSplit, form: Form) -> None:
        super().__init__()
        groups = group_bands(split.bands, split.channels, SPLIT_COST[form.engine])
        features = groups[-1].bands[-1].features.stop
        self.groups = nn.ModuleList(_SplitGroup(split, group, features, form) for group in groups)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, frames, features) -> (batch, bands, frames, dim), float32."""
        padded = F.pad(x, (0, 1))
        return joined([cast(group(x, padded), torch.float32) for group in self.groups], 1)


class _SplitGroup(nn.Module):
    def __init__(self, split: plain.BandSplit, group: Group, features: int, form: Form) -> None:
        super().__init__()
        self.bands = GatheredBands(group, features)
        count, width = len(group.bands), group.width
        layers: list[Any] = [split.to_features[band.number] for band in group.bands]
        gamma = torch.zeros(count, 1, width)
        weight = torch.zeros(count, width, layers[0][1].out_features)
        for i, (band, (norm, linear)) in enumerate(zip(group.bands, layers, strict=True)):
            # The norm runs over the padded width; the zeros add nothing to |x|, only to the mean.
            gamma[i, 0, : band.width] = norm.gamma * (band.width / width) ** 0.5
            weight[i, : band.width] = linear.weight.T
        self.gamma, self.weight = frozen(gamma), frozen(weight, form.product)
        self.bias = frozen(torch.stack([linear.bias[None] for _, linear in layers]), form.product)

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:
        x = self.bands(x, padded)
        x = F.rms_norm(x, x.shape[-1:], eps=NORM_EPSILON) * self.gamma
        return product(x, self.weight) + self.bias


class MaskEstimator(nn.Module):
    """One stem's mask: a perceptron with tanh per band, gated linear output, bands put back on the bins."""

    def __init__(self, estimator: Any, *, zero_dc: bool, form: Form) -> None:
        super().__init__()
        # Linear layers of every band, tanh between them left out.
        *hidden, last = zip(*(perceptron[::2] for perceptron, _ in estimator.to_freqs), strict=True)
        self.hidden = nn.ModuleList(StackedLinear(same, form) for same in hidden)
        self.outputs = mask_outputs(estimator, last, zero_dc=zero_dc, form=form)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, bands, frames, dim) -> mask (batch, frames, features), float32."""
        for layer in self.hidden:
            x = layer(x).tanh()
        return self.outputs(x)


def mask_outputs(estimator: Any, layers: Sequence[nn.Module], *, zero_dc: bool, form: Form) -> MaskOutputs:
    """The last layers of a mask estimator.

    Where Mel bands overlap the masks are averaged; with `zero_dc` bin 0 of the mask is zero.
    """
    width = 2 * estimator.channels
    runs = [slice(width * first, width * (first + bins)) for first, bins in estimator.bands]
    coverage = torch.zeros(runs[-1].stop)
    for run in runs:
        coverage[run] += 1
    gain = 1 / coverage
    gain[:width] *= 0.0 if zero_dc else 1.0
    return MaskOutputs(estimator.bands, layers, [gain[run] for run in runs], len(gain), form)
