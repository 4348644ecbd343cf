"""A Roformer in the arrangement that engines run best, derived from the plain network."""

from typing import Any

import torch
from torch import Tensor, nn

from rofo.export.families.roformer import network as plain
from rofo.export.families.roformer.engine_bands import BandSplit, MaskEstimator
from rofo.export.families.roformer.engine_layers import (
    Attention,
    FeedForward,
    LinearAttention,
    Polar,
    RMSNorm,
    Rotated,
)
from rofo.export.graph.types import Form


class RoformerEngine(nn.Module):
    """The network of one checkpoint for a fixed number of frames, in the form that one kind of engine needs.

    For TensorRT the residual stream stays as it is, (batch, bands, frames, dim), and attention over bands
    turns what it reads and writes: turning a float32 stream twice per layer is 5 % of what the largest
    public network moves, and inside a kernel that reads or writes 16 bits it is free.
    """

    def __init__(self, network: plain.Roformer, frames: int, form: Form) -> None:
        super().__init__()
        self.skip_connection = network.skip_connection
        self.band_split = BandSplit(network.band_split, form)
        positions = _Positions(frames, len(network.bands), form)
        self.layers = nn.ModuleList(_Layer(layer, positions, form) for layer in network.layers)
        self.final_norm = _norm(network.final_norm)
        self.mask_estimators = nn.ModuleList(
            MaskEstimator(estimator, zero_dc=network.zero_dc, form=form)
            for estimator in network.mask_estimators
        )

    def forward(self, mix: Tensor) -> Tensor:
        """mix: (batch, channels, frames, bins, 2) -> (batch, stems, channels, frames, bins, 2)."""
        x = self.band_split(mix.permute(0, 2, 3, 1, 4).flatten(2))
        outputs: list[Tensor] = []
        for layer in self.layers:
            x = layer(x, outputs)
            if self.skip_connection:
                outputs.append(x)
        x = self.final_norm(x)
        return torch.stack([_masked(mix, estimator(x)) for estimator in self.mask_estimators], dim=1)


class _Positions:
    """The position embeddings of one network; attentions with equal values share one module."""

    def __init__(self, frames: int, bands: int, form: Form) -> None:
        self._lengths = {"frames": frames, "bands": bands}
        self._heads_first = form.engine == "tensorrt"
        self._made: dict[tuple[object, ...], Rotated | Polar] = {}

    def get(self, embedding: plain.Rotation | plain.PoPE, axis: str) -> Rotated | Polar:
        """The embedding for the positions along an axis."""
        key = (axis, *(tensor.numpy().tobytes() for tensor in embedding.state_dict().values()))
        if key not in self._made:
            length = self._lengths[axis]
            self._made[key] = (
                Polar(*embedding.tables(length))
                if isinstance(embedding, plain.PoPE)
                else Rotated(*embedding.table(length), heads_first=self._heads_first)
            )
        return self._made[key]


class _Layer(nn.Module):
    """Attention over everything (linear, rarely used), then over frames, then over bands."""

    def __init__(self, layer: Any, positions: _Positions, form: Form) -> None:
        super().__init__()
        *linear, over_frames, over_bands = layer
        self.linear = _Transformer(linear[0], "everything", positions, form) if linear else None
        self.over_frames = _Transformer(over_frames, "frames", positions, form)
        self.over_bands = _Transformer(over_bands, "bands", positions, form)
        self.still_stream = form.engine == "tensorrt"

    def forward(self, x: Tensor, skipped: list[Tensor]) -> Tensor:
        """x: (batch, bands, frames, dim), plus the outputs of earlier layers -> the same shape."""
        if self.linear is not None:
            x = self.linear(x.flatten(1, 2)).view_as(x)
        for output in skipped:
            x = x + output
        if self.still_stream:
            return self.over_bands(self.over_frames(x))
        x = _along_rows(self.over_frames, x).transpose(1, 2)
        return _along_rows(self.over_bands, x).transpose(1, 2)


class _Transformer(nn.Module):
    """Attention and feed-forward in turn, each added to its input; then a norm if there is one."""

    def __init__(self, transformer: Any, axis: str, positions: _Positions, form: Form) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for attention, feed_forward in transformer.layers:
            if axis == "everything":
                block: nn.Module = LinearAttention(attention, form)
            else:
                block = Attention(attention, positions.get(attention.positions, axis), form)
                if form.engine == "tensorrt":
                    block = _Turned(block, over_bands=axis == "bands")
            self.blocks.extend((block, FeedForward(feed_forward, form)))
        self.norm = _norm(transformer.norm)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, positions, dim) -> the same shape."""
        for block in self.blocks:
            x = x + block(x)
        return self.norm(x)


class _Turned(nn.Module):
    """Attention along one axis of a stream that stays as it is, (batch, bands, frames, dim)."""

    def __init__(self, attention: nn.Module, *, over_bands: bool) -> None:
        super().__init__()
        self.attention, self.over_bands = attention, over_bands

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, bands, frames, dim) -> the same shape, the residual not yet added."""
        x = x.transpose(1, 2) if self.over_bands else x
        out = _along_rows(self.attention, x)
        return out.transpose(1, 2) if self.over_bands else out


def _norm(norm: nn.Module) -> nn.Module:
    return RMSNorm(norm) if isinstance(norm, plain.RMSNorm) else nn.Identity()


def _along_rows(module: nn.Module, x: Tensor) -> Tensor:
    """Run a module on (batch, rows, positions, dim), each row a sequence of its own."""
    out: Tensor = module(x.flatten(0, 1))
    return out.unflatten(0, x.shape[:2])


def _masked(mix: Tensor, mask: Tensor) -> Tensor:
    """Complex product of mix (batch, channels, frames, bins, 2) and mask (batch, frames, features)."""
    _, channels, _, bins, _ = mix.shape
    mask = mask.unflatten(-1, (bins, channels, 2)).permute(0, 3, 1, 2, 4)
    (a, b), (c, d) = mix.unbind(-1), mask.unbind(-1)
    return torch.stack((a * c - b * d, a * d + b * c), dim=-1)
