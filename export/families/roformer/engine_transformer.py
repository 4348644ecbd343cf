"""The layers of a Roformer for an engine: attention over frames and over bands in turn."""

from typing import Any

import torch
from torch import Tensor, nn

from rofo.export.families.roformer import network as plain
from rofo.export.families.roformer.conformer import Conformer
from rofo.export.families.roformer.engine_layers import (
    Attention,
    Convolution,
    FeedForward,
    LinearAttention,
    Polar,
    Rotated,
    Turned,
    norm_of,
)
from rofo.export.graph.types import Form, cast


class Positions:
    """The position embeddings of one network; attentions with equal values share one module."""

    def __init__(self, frames: int, bands: int, form: Form) -> None:
        self.frames = frames
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


class Layer(nn.Module):
    """Attention over everything (linear, rarely used), then over frames, then over bands."""

    def __init__(self, layer: Any, positions: Positions, form: Form) -> None:
        super().__init__()
        *linear, over_frames, over_bands = layer
        self.linear = TransformerEngine(linear[0], "everything", positions, form) if linear else None
        stack = ConformerEngine if isinstance(over_frames, Conformer) else TransformerEngine
        self.over_frames = stack(over_frames, "frames", positions, form)
        self.over_bands = stack(over_bands, "bands", positions, form)
        self.still_stream = form.engine == "tensorrt"

    def forward(self, x: Tensor, skipped: list[Tensor]) -> Tensor:
        """x: (batch, bands, frames, dim), plus the outputs of earlier layers -> the same shape."""
        if self.linear is not None:
            x = self.linear(x.flatten(1, 2)).view_as(x)
        for output in skipped:
            x = x + output
        if self.still_stream:
            return self.over_bands(self.over_frames(x))
        x = along_rows(self.over_frames, x).transpose(1, 2)
        return along_rows(self.over_bands, x).transpose(1, 2)


class ConformerEngine(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, each added to its input; a norm."""

    def __init__(self, conformer: Conformer, axis: str, positions: Positions, form: Form) -> None:
        super().__init__()
        self.blocks, self.norms = nn.ModuleList(), nn.ModuleList()
        block: Any
        for block in conformer.layers:
            attention = Attention(block.attn, positions.get(block.attn.positions, axis), form)
            convolution = Convolution(block.conv, form)
            self.blocks.extend(
                (
                    FeedForward(block.ff1.ff, form, share=0.5),
                    turned(attention, axis, form),
                    turned(convolution, axis, form),
                    FeedForward(block.ff2.ff, form, share=0.5),
                )
            )
            self.norms.append(norm_of(block.out_norm))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, positions, dim) -> the same shape."""
        parts = len(self.blocks) // len(self.norms)
        for i, norm in enumerate(self.norms):
            for block in self.blocks[parts * i : parts * (i + 1)]:
                x = x + block(x)
            x = norm(x)
        return x


class TransformerEngine(nn.Module):
    """Attention and feed-forward in turn, each added to its input; then a norm if there is one."""

    def __init__(self, transformer: Any, axis: str, positions: Positions, form: Form) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for attention, feed_forward in transformer.layers:
            if axis == "everything":
                block: nn.Module = LinearAttention(attention, form)
            else:
                block = Attention(attention, positions.get(attention.positions, axis), form)
                block = turned(block, axis, form)
            self.blocks.extend((block, FeedForward(feed_forward, form)))
        self.norm, self.residual = norm_of(transformer.norm), transformer.residual

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, positions, dim) -> the same shape."""
        for block in self.blocks:
            x = joined(x, block(x), residual=self.residual)
        return self.norm(x)


def joined(x: Tensor, out: Tensor, *, residual: bool) -> Tensor:
    """What goes on after a layer that gives `out` for x: float32, as the stream is in every form."""
    return x + out if residual else cast(out, torch.float32)


def turned(module: nn.Module, axis: str, form: Form) -> nn.Module:
    """A module of rows of positions, for the stream of this form."""
    return Turned(module, over_bands=axis == "bands") if form.engine == "tensorrt" else module


def along_rows(module: nn.Module, x: Tensor) -> Tensor:
    """Run a module on (batch, rows, positions, dim), each row a sequence of its own."""
    out: Tensor = module(x.flatten(0, 1))
    return out.unflatten(0, x.shape[:2])
