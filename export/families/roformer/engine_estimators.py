"""The mask estimators of variants for an engine."""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rofo.export.families.band_groups import StackedLinear
from rofo.export.families.roformer.engine_bands import MaskEstimator, mask_outputs
from rofo.export.families.roformer.engine_layers import norm_of
from rofo.export.families.roformer.engine_transformer import Layer, Positions
from rofo.export.families.roformer.fno import FnoMaskEstimator
from rofo.export.families.roformer.hyperace import HyperAceMaskEstimator
from rofo.export.families.roformer.large_inst import RefinedMaskEstimator
from rofo.export.graph.layers import arranged, copied
from rofo.export.graph.types import Form, cast, frozen


def estimator_engine(estimator: nn.Module, positions: Positions, *, zero_dc: bool, form: Form) -> nn.Module:
    """A mask estimator's form: (batch, bands, frames, dim) -> mask (batch, frames, features), float32."""
    match estimator:
        case HyperAceMaskEstimator():
            return HyperAceEngine(estimator, zero_dc=zero_dc, form=form)
        case RefinedMaskEstimator():
            return RefinedEngine(estimator, positions, zero_dc=zero_dc, form=form)
        case FnoMaskEstimator():
            return FnoEngine(estimator, positions.frames, zero_dc=zero_dc, form=form)
    return MaskEstimator(estimator, zero_dc=zero_dc, form=form)


class RefinedEngine(MaskEstimator):
    """Layers as the network's own, a norm, then the perceptrons."""

    def __init__(
        self, estimator: RefinedMaskEstimator, positions: Positions, *, zero_dc: bool, form: Form
    ) -> None:
        super().__init__(estimator, zero_dc=zero_dc, form=form)
        self.layers = nn.ModuleList(Layer(layer, positions, form) for layer in estimator.layers)
        self.norm = norm_of(estimator.norm)

    def forward(self, x: Tensor) -> Tensor:
        """As in MaskEstimator."""
        for layer in self.layers:
            x = layer(x, [])
        return super().forward(self.norm(x))


class HyperAceEngine(MaskEstimator):
    """The perceptrons' mask plus what the convolutional network draws, in its number types."""

    def __init__(self, estimator: HyperAceMaskEstimator, *, zero_dc: bool, form: Form) -> None:
        super().__init__(estimator, zero_dc=zero_dc, form=form)
        self.segm = arranged(copied(estimator.segm), replace(form, attention=None))
        self.silent = 2 * estimator.channels if zero_dc else 0

    def forward(self, x: Tensor) -> Tensor:
        """As in MaskEstimator."""
        drawn = cast(self.segm(x.permute(0, 3, 2, 1)), torch.float32).permute(0, 2, 3, 1).flatten(2)
        if self.silent:
            drawn = F.pad(drawn[..., self.silent :], (self.silent, 0))
        return super().forward(x) + drawn


class FnoEngine(nn.Module):
    """Fourier operators of all bands at once; transforms over the frames are products with a few cosines.

    These sums run over all frames and are float32 in every form.
    """

    def __init__(self, estimator: FnoMaskEstimator, frames: int, *, zero_dc: bool, form: Form) -> None:
        super().__init__()
        bands: Any = estimator.to_freqs
        operators: list[Any] = [operator for operator, _ in bands]
        first, second = zip(*(operator.lifting.fcs for operator in operators), strict=True)
        lift = StackedLinear(first, form)
        # The last input is the place in the chunk.
        self.place = frozen(torch.arange(frames, dtype=torch.float64)[:, None] / frames)
        self.slope = frozen(lift.weight[:, -1:].float())
        lift.weight = frozen(lift.weight[:, :-1], form.product)
        self.lifting = nn.ModuleList((lift, StackedLinear(second, form)))
        depth = len(operators[0].fno_blocks.convs)
        self.blocks = nn.ModuleList(
            _FnoBlock([operator.fno_blocks for operator in operators], i, frames, form, last=i == depth - 1)
            for i in range(depth)
        )
        hidden, last = zip(*(operator.projection.fcs for operator in operators), strict=True)
        self.projection = StackedLinear(hidden, form)
        self.outputs = mask_outputs(estimator, last, zero_dc=zero_dc, form=form)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, bands, frames, dim) -> mask (batch, frames, features), float32."""
        first, second = self.lifting
        x = cast(first(x), torch.float32) + self.place * self.slope
        x = cast(second(F.gelu(x)), torch.float32)
        for block in self.blocks:
            x = block(x)
        return self.outputs(F.gelu(self.projection(x)))


class _FnoBlock(nn.Module):
    """One block of every band's operator."""

    def __init__(self, blocks: list[Any], i: int, frames: int, form: Form, *, last: bool) -> None:
        super().__init__()
        filters = torch.stack([block.convs[i].weight.tensor.T for block in blocks])  # (bands, modes, width)
        modes = min(filters.shape[1], frames // 2 + 1)
        self.real, self.imaginary = frozen(filters.real[:, :modes]), frozen(filters.imag[:, :modes])
        self.bias = frozen(torch.stack([block.convs[i].bias.T for block in blocks]))
        angle = torch.arange(modes, dtype=torch.float64)[:, None] * torch.arange(frames, dtype=torch.float64)
        angle = 2 * torch.pi * (angle % frames) / frames
        self.forwards = frozen(torch.cat((angle.cos(), -angle.sin())) / frames)
        twice = torch.full((modes, 1), 2.0, dtype=torch.float64)
        twice[0] = 1
        if frames % 2 == 0 and modes == frames // 2 + 1:
            twice[-1] = 1
        self.backwards = frozen(torch.cat((twice * angle.cos(), -twice * angle.sin())).T.contiguous())
        self.skip = StackedLinear([block.fno_skips[i].conv for block in blocks], form)
        self.gain = frozen(
            torch.stack([block.channel_mlp_skips[i].weight.flatten()[None] for block in blocks])
        )
        layers = zip(*(block.channel_mlp[i].fcs for block in blocks), strict=True)
        self.mix = nn.ModuleList(StackedLinear(same, form) for same in layers)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, bands, frames, width) -> the same shape, float32."""
        real, imaginary = (self.forwards @ x).chunk(2, dim=2)
        filtered = torch.cat(
            (
                real * self.real - imaginary * self.imaginary,
                real * self.imaginary + imaginary * self.real,
            ),
            dim=2,
        )
        skipped = x * self.gain
        x = self.backwards @ filtered + self.bias + cast(self.skip(x), torch.float32)
        x = x if self.last else F.gelu(x)
        first, second = self.mix
        x = cast(second(F.gelu(first(x))), torch.float32) + skipped
        return x if self.last else F.gelu(x)
