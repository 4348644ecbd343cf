"""BS-Roformer (arXiv 2309.02612) and Mel-Band Roformer (arXiv 2310.01809) under the public names of weights.

Where the papers leave something open this is what the public weights were trained with. The two differ in
their bands, and in where the output is normalised: after all layers (BS) or after each transformer (Mel).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rofo.export.families.band_groups import Bands
from rofo.export.families.transformers import FeedForward, RMSNorm

LINEAR_ATTENTION_SCALE = 8.0
LINEAR_FF_MULT = 4  # of the transformers of linear attention, whatever the others have

RotaryPrecision = Literal["exact", "amp-0.3.5"]


class Roformer(nn.Module):
    """Spectrogram in, one spectrogram per stem out: the mix times a complex mask.

    Arguments go by the names of the public yaml; `bands` are (first bin, bins). `mask_layers` are the linear
    layers of a mask's perceptron, which BS and Mel count differently; `norm_each` is Mel's place of the norm,
    `norm_last` BS's.
    `table_frames` is how many frames the tables of angles cover that come with some weights, None where
    angles are computed; `bias` is that of attention's products. Variants have another `stack` of blocks over
    frames and over bands, called as Transformer is, or another `estimator` of masks.
    """

    def __init__(
        self, *, bands: Bands, channels: int, num_stems: int, dim: int, depth: int, heads: int, dim_head: int,
        time_transformer_depth: int, freq_transformer_depth: int, linear_transformer_depth: int, ff_mult: int,
        mask_layers: int, mlp_expansion_factor: int, norm_each: bool, norm_last: bool,
        skip_connection: bool, zero_dc: bool, use_pope: bool, rotary: RotaryPrecision,
        table_frames: int | None, bias: bool,
        stack: Callable[..., nn.Module] | None = None, estimator: Callable[[], nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        stack = stack or Transformer

        def attention(rows: int | None) -> Attention:
            positions: Rotation | PoPE = Rotary(dim_head, rotary)
            if use_pope:
                positions = PoPE(heads, dim_head)
            elif rows is not None:
                positions = StoredRotary(rows, dim_head)
            return Attention(dim, heads, positions, dim_head=dim_head, bias=bias)

        def mask_estimator() -> MaskEstimator:
            widths = [dim] + [dim * mlp_expansion_factor] * (mask_layers - 1)
            return MaskEstimator(bands, channels, widths)

        table_bands = None if table_frames is None else len(bands)
        self.bands, self.skip_connection, self.zero_dc = bands, skip_connection, zero_dc
        self.band_split = BandSplit(bands, channels, dim)
        self.layers = nn.ModuleList()
        for _ in range(depth):
            layer = nn.ModuleList()
            if linear_transformer_depth:
                layer.append(
                    Transformer(dim, linear_transformer_depth, LINEAR_FF_MULT,
                                lambda: LinearAttention(dim, heads, dim_head), norm_output=norm_each)
                )  # fmt: skip
            for blocks, rows in (
                (time_transformer_depth, table_frames), (freq_transformer_depth, table_bands),
            ):  # fmt: skip
                layer.append(stack(dim, blocks, ff_mult, partial(attention, rows), norm_output=norm_each))
            self.layers.append(layer)
        self.final_norm = RMSNorm(dim) if norm_last else nn.Identity()
        self.mask_estimators = nn.ModuleList((estimator or mask_estimator)() for _ in range(num_stems))

    def forward(self, mix: Tensor) -> Tensor:
        """mix: (batch, channels, frames, bins, 2) -> stems (batch, stems, channels, frames, bins, 2)."""
        x = self.transformed(self.band_split(mix.permute(0, 2, 3, 1, 4)))
        masks = torch.stack([estimator(x, mix.shape[3]) for estimator in self.mask_estimators], dim=1)
        masks = masks.permute(0, 1, 4, 2, 3, 5).contiguous()
        stems = torch.view_as_real(torch.view_as_complex(mix)[:, None] * torch.view_as_complex(masks))
        if self.zero_dc:
            stems[..., 0, :] = 0
        return stems

    def transformed(self, x: Tensor) -> Tensor:
        """x: (batch, frames, bands, dim) through all layers and the norm after them -> the same shape."""
        outputs: list[Tensor] = []
        layer: Any
        for layer in self.layers:
            *linear, over_frames, over_bands = layer
            for transformer in linear:  # over frames and bands at once
                x = transformer(x.flatten(1, 2)).view_as(x)
            x = sum(outputs, x)
            x = along_axes(over_frames, over_bands, x)
            if self.skip_connection:
                outputs.append(x)
        return self.final_norm(x)


class BandSplit(nn.Module):
    """Each band's bins, normalised, through its own linear layer."""

    def __init__(self, bands: Bands, channels: int, dim: int) -> None:
        super().__init__()
        self.bands, self.channels = bands, channels
        widths = [2 * channels * count for _, count in bands]
        self.to_features = nn.ModuleList(
            nn.Sequential(RMSNorm(width), nn.Linear(width, dim)) for width in widths
        )

    def forward(self, mix: Tensor) -> Tensor:
        """mix: (batch, frames, bins, channels, 2) -> (batch, frames, bands, dim)."""
        parts = [mix[:, :, first : first + count].flatten(2) for first, count in self.bands]
        return torch.stack([f(part) for f, part in zip(self.to_features, parts, strict=True)], dim=2)


class MaskEstimator(nn.Module):
    """A gated perceptron with tanh per band; where bands overlap, their masks are averaged."""

    def __init__(self, bands: Bands, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.bands, self.channels = bands, channels
        self.to_freqs = nn.ModuleList(
            nn.Sequential(_perceptron([*widths, 4 * channels * count]), nn.GLU(dim=-1)) for _, count in bands
        )

    def forward(self, x: Tensor, bins: int) -> Tensor:
        """x: (batch, frames, bands, dim) -> mask (batch, frames, bins, channels, 2)."""
        mask = x.new_zeros(*x.shape[:2], bins, self.channels, 2)
        covers = x.new_zeros(bins, 1, 1)
        for k, (first, count) in enumerate(self.bands):
            band = slice(first, first + count)
            mask[:, :, band] += self.to_freqs[k](x[:, :, k]).unflatten(-1, (count, self.channels, 2))
            covers[band] += 1
        return mask / covers


def _perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths with tanh between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class Transformer(nn.Module):
    """`depth` times attention and feed-forward, each added to its input.

    Where `residual` is False what they give takes the place of their input (see experimental.py).
    """

    def __init__(
        self, dim: int, depth: int, ff_mult: int, attention: Callable[[], nn.Module], *, norm_output: bool
    ) -> None:
        super().__init__()
        self.residual = True
        self.layers = nn.ModuleList(
            nn.ModuleList((attention(), FeedForward(dim, dim * ff_mult))) for _ in range(depth)
        )
        self.norm = RMSNorm(dim) if norm_output else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, positions, dim) -> the same shape."""
        block: Any
        for block in self.layers:
            attention, feed_forward = block
            x = self.joined(x, attention(x))
            x = self.joined(x, feed_forward(x))
        return self.norm(x)

    def joined(self, x: Tensor, out: Tensor) -> Tensor:
        """What goes on after a layer that gives `out` for x, both of one shape."""
        return x + out if self.residual else out


class Attention(nn.Module):
    """Attention with positions, each head's output weighed by a sigmoid gate.

    `bias` is that of the products, which only Roformer-SW has, the same in all layers.
    """

    def __init__(
        self, dim: int, heads: int, positions: "Rotation | PoPE", *, dim_head: int, bias: bool
    ) -> None:
        super().__init__()
        inner = heads * dim_head
        self.heads, self.dim_head = heads, dim_head
        self.norm = RMSNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=bias)
        self.to_gates = nn.Linear(dim, heads)
        self.to_out = nn.Sequential(nn.Linear(inner, dim, bias=bias))
        if isinstance(positions, PoPE):
            self.pope_embed = positions
        else:
            self.rotary_embed = positions

    @property
    def positions(self) -> "Rotation | PoPE":
        """Its position embedding, whichever it has."""
        return self.pope_embed if hasattr(self, "pope_embed") else self.rotary_embed

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, positions, dim) -> the same shape, the residual not yet added."""
        x = self.norm(x)
        return self.attended(x, *self.projected(x))

    def projected(self, x: Tensor) -> Tensor:
        """x: (batch, positions, dim), normalised -> q, k and v, (3, batch, heads, positions, dim_head)."""
        return self.to_qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def attended(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What is left to do with q, k and v; x is normalised."""
        q, k = self.positions(q, k)
        out = F.scaled_dot_product_attention(q, k, v, scale=self.dim_head**-0.5).transpose(1, 2)
        return self.to_out((out * self.to_gates(x).sigmoid()[..., None]).flatten(2))


class LinearAttention(nn.Module):
    """Attention between channels instead of positions (arXiv 2106.09681): cost linear in the length.

    q and k are normalised over the positions; no gate and no position embedding, so the order of the
    positions does not matter.
    """

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        inner = heads * dim_head
        self.heads = heads
        self.norm = RMSNorm(dim)
        self.to_qkv = nn.Sequential(nn.Linear(dim, 3 * inner, bias=False))
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.to_out = nn.Sequential(nn.Identity(), nn.Linear(inner, dim, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, positions, dim) -> the same shape, the residual not yet added."""
        qkv = self.to_qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 4, 1)  # (batch, heads, dim_head, positions) each
        q, k = F.normalize(q, dim=-1) * self.temperature.exp(), F.normalize(k, dim=-1)
        out = (LINEAR_ATTENTION_SCALE * q @ k.transpose(-1, -2)).softmax(dim=-1) @ v
        return self.to_out(out.permute(0, 3, 1, 2).flatten(2))


class Rotation(nn.Module):
    """Rotary position embedding (arXiv 2104.09864) of interleaved pairs: (0, 1), (2, 3), ..."""

    def table(self, positions: int) -> tuple[Tensor, Tensor]:
        """cos and sin of every position's angles, (positions, dim_head / 2) each, float32."""
        raise NotImplementedError

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """q, k: (batch, heads, positions, dim_head) -> the same shapes."""
        cos, sin = self.table(q.shape[2])
        return _rotated(q, cos, sin), _rotated(k, cos, sin)


class Rotary(Rotation):
    """Angles position * frequency.

    `exact` rounds an angle to float32 as every float32 implementation does, and takes cos and sin of that in
    float64. `amp-0.3.5` repeats what rotary_embedding_torch 0.3.5 does under CUDA autocast, which is how
    many public checkpoints were trained and are played: position and frequency in fp16, their product
    rounded to fp16, cos and sin of that rounded to fp16.
    """

    freqs: Tensor

    def __init__(self, dim_head: int, precision: RotaryPrecision) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.ones(dim_head // 2))
        self.dtype = torch.float16 if precision == "amp-0.3.5" else torch.float32

    def table(self, positions: int) -> tuple[Tensor, Tensor]:
        """As in Rotation."""
        position = torch.arange(positions).to(self.dtype).double()
        angles = (position[:, None] * self.freqs.to(self.dtype).double()).to(self.dtype).double()
        return angles.cos().to(self.dtype).float(), angles.sin().to(self.dtype).float()


class StoredRotary(Rotation):
    """Cosines and sines that come with the weights, (rows, dim_head), every angle twice in a row."""

    cos: Tensor
    sin: Tensor

    def __init__(self, rows: int, dim_head: int) -> None:
        super().__init__()
        self.register_buffer("cos", torch.ones(rows, dim_head))
        self.register_buffer("sin", torch.ones(rows, dim_head))

    def table(self, positions: int) -> tuple[Tensor, Tensor]:
        """As in Rotation."""
        return self.cos[:positions, ::2], self.sin[:positions, ::2]


class PoPE(nn.Module):
    """Polar position embedding: softplus magnitudes on angles; doubles the width of q and k.

    `bias` shifts the angles of k, clamped to [-2 pi, 0].
    """

    inv_freqs: Tensor
    bias: Tensor

    def __init__(self, heads: int, dim_head: int) -> None:
        super().__init__()
        self.register_buffer("inv_freqs", torch.ones(dim_head))
        self.register_buffer("bias", torch.zeros(heads, dim_head))

    def tables(self, positions: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """cos and sin of the angles of q, (1, positions, dim_head), and of k, (heads, positions, dim_head).

        Angles are rounded to float32, their cos and sin are taken in float64.
        """
        angles = torch.arange(positions).float()[:, None] * self.inv_freqs
        shifted = angles + self.bias.clamp(-2 * math.pi, 0)[:, None]
        q, k = angles[None].double(), shifted.double()
        return (q.cos().float(), q.sin().float()), (k.cos().float(), k.sin().float())

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """q, k: (batch, heads, positions, dim_head) -> (..., 2 * dim_head)."""
        of_q, of_k = self.tables(q.shape[2])
        return _polar(q, *of_q), _polar(k, *of_k)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)


def _polar(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.cat((F.softplus(x) * cos, F.softplus(x) * sin), dim=-1)


def along_axes(over_frames: nn.Module, over_bands: nn.Module, x: Tensor) -> Tensor:
    """Each on (batch, frames, bands, dim): every band's frames are a sequence, then every frame's bands."""
    return _along_rows(over_bands, _along_rows(over_frames, x.transpose(1, 2)).transpose(1, 2))


def _along_rows(transformer: nn.Module, x: Tensor) -> Tensor:
    return transformer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
