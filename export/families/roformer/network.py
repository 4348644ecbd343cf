"""BS-Roformer (arXiv 2309.02612) and Mel-Band Roformer (arXiv 2310.01809), spectrogram in, spectrograms out.

The families share everything but the bands and the place of the norms, so one network serves both.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rofo.export.errors import CheckpointError
from rofo.export.families.roformer.band_layers import BandLayout, BandSplit, MaskEstimator
from rofo.export.families.roformer.config import RoformerConfig
from rofo.export.families.roformer.layers import Attention, LinearAttention, RMSNorm, Transformer, Turned
from rofo.export.families.roformer.positions import AngleTable, Polar, Rotary, rotary_table
from rofo.export.graph.form import PLAIN, Form
from rofo.export.graph.weights import Weights


class Roformer(nn.Module):
    """The network of one checkpoint, for a fixed number of frames, in the form that one kind of engine needs.

    `state` is a public state dict and is emptied. Raises CheckpointError listing every key that is missing,
    misshapen or not used.
    """

    def __init__(
        self, config: RoformerConfig, state: dict[str, Tensor], frames: int, form: Form = PLAIN
    ) -> None:
        super().__init__()
        weights = Weights(state)
        layout = BandLayout(config.bands, config.n_fft // 2 + 1, config.channels)
        is_bs = config.family == "bs_roformer"
        self.band_split = BandSplit(weights, layout, config.dim, form)
        blocks = _Blocks(weights, config, frames, form)
        self.layers = nn.ModuleList(_Layer(blocks, i) for i in range(config.depth))
        self.skip_connection = config.skip_connection
        self.final_norm = RMSNorm(weights.take("final_norm.gamma", config.dim)) if is_bs else nn.Identity()
        self.mask_estimators = nn.ModuleList(
            MaskEstimator(
                weights,
                f"mask_estimators.{stem}",
                layout,
                dim=config.dim,
                expansion=config.mlp_expansion,
                layers=config.mask_layers,
                zero_dc=config.zero_dc,
                form=form,
            )
            for stem in range(config.num_stems)
        )
        weights.finish()

    def forward(self, mix: Tensor) -> Tensor:
        """mix: (batch, channels, frames, bins, 2) -> (batch, stems, channels, frames, bins, 2)."""
        x = self.band_split(mix.permute(0, 2, 3, 1, 4).flatten(2))
        outputs: list[Tensor] = []
        for layer in self.layers:
            x = layer(x, outputs if self.skip_connection else [])
            outputs.append(x)
        x = self.final_norm(x)
        return torch.stack([_masked(mix, estimator(x)) for estimator in self.mask_estimators], dim=1)


class _Layer(nn.Module):
    """Attention over everything (linear, rarely used), then over frames, then over bands."""

    def __init__(self, blocks: "_Blocks", index: int) -> None:
        super().__init__()
        config, prefix = blocks.config, f"layers.{index}"
        linear = int(config.linear_depth > 0)
        self.linear = blocks.transformer(f"{prefix}.0", config.linear_depth, "linear") if linear else None
        self.over_frames = blocks.transformer(f"{prefix}.{linear}", config.time_depth, "time")
        self.over_bands = blocks.transformer(f"{prefix}.{linear + 1}", config.freq_depth, "freq")
        self.still_stream = blocks.form.still_stream

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


class _Blocks:
    """Builds the transformers of one network; what they share is read once."""

    def __init__(self, weights: Weights, config: RoformerConfig, frames: int, form: Form) -> None:
        self.weights, self.config, self.form = weights, config, form
        self._lengths = {"time": frames, "freq": len(config.bands)}
        self._positions: dict[tuple[str, bytes], Rotary | Polar] = {}
        inner = 3 * config.heads * config.dim_head
        names = {"linear_62": ("linear_62_bias_0", "linear_64_bias_0")}
        names["shared_qkv"] = ("shared_qkv_bias", "shared_out_bias")
        keys = names.get(config.shared_bias)
        self._qkv_bias = weights.take(keys[0], inner) if keys else None
        self._out_bias = weights.take(keys[1], config.dim) if keys else None

    def transformer(self, prefix: str, depth: int, axis: str) -> Transformer:
        config = self.config
        return Transformer(
            self.weights,
            prefix,
            dim=config.dim,
            depth=depth,
            mult=config.ff_mult,
            attention=self._linear if axis == "linear" else lambda block: self._along(block, axis),
            norm_output=config.family == "mel_band_roformer",
            form=self.form,
        )

    def _linear(self, prefix: str) -> LinearAttention:
        config = self.config
        return LinearAttention(
            self.weights,
            prefix,
            dim=config.dim,
            heads=config.heads,
            dim_head=config.dim_head,
            form=self.form,
        )

    def _along(self, prefix: str, axis: str) -> Attention | Turned:
        attention = self._attention(prefix, axis)
        return Turned(attention, over_bands=axis == "freq") if self.form.still_stream else attention

    def _attention(self, prefix: str, axis: str) -> Attention:
        for alias in ("to_qkv.bias", "to_out.0.bias"):
            if self._qkv_bias is not None:
                self.weights.discard(f"{prefix}.{alias}")
        return Attention(
            self.weights,
            prefix,
            dim=self.config.dim,
            heads=self.config.heads,
            dim_head=self.config.dim_head,
            positions=self._position(prefix, axis),
            qkv_bias=self._qkv_bias,
            out_bias=self._out_bias,
            form=self.form,
        )

    def _position(self, prefix: str, axis: str) -> Rotary | Polar:
        """The position embedding of one attention; layers with equal values share one module."""
        heads, width, length = self.config.heads, self.config.dim_head, self._lengths[axis]
        first = self.form.heads_first
        if self.config.positions == "tables":
            return self._shared(axis, b"", lambda: Rotary(self._stored_table(axis), heads_first=first))
        if self.config.positions == "pope":
            frequencies = self.weights.take(f"{prefix}.pope_embed.inv_freqs", width)
            bias = self.weights.take(f"{prefix}.pope_embed.bias", heads, width)
            content = frequencies.numpy().tobytes() + bias.numpy().tobytes()
            return self._shared(axis, content, lambda: Polar(frequencies, bias, length))
        frequencies = self.weights.take(f"{prefix}.rotary_embed.freqs", width // 2)
        precision = self.config.rotary_precision
        return self._shared(
            axis,
            frequencies.numpy().tobytes(),
            lambda: Rotary(rotary_table(frequencies, length, precision), heads_first=first),
        )

    def _shared(self, axis: str, content: bytes, make: Callable[[], Rotary | Polar]) -> Rotary | Polar:
        if (axis, content) not in self._positions:
            self._positions[axis, content] = make()
        return self._positions[axis, content]

    def _stored_table(self, axis: str) -> AngleTable:
        """Tables of the first Roformer-SW files, (rows, dim_head) with every angle twice in a row."""
        length = self._lengths[axis]
        rows = self.weights.rows(f"cos_emb_{axis}")
        if rows < length:
            raise CheckpointError(
                f"the checkpoint stores positions for {rows} {axis} steps, the chunk needs {length}; "
                "export with a shorter --chunk"
            )
        cos, sin = (
            self.weights.take(f"{name}_emb_{axis}", rows, self.config.dim_head)[:length, ::2]
            for name in ("cos", "sin")
        )
        return AngleTable(cos, sin)


def _along_rows(transformer: nn.Module, x: Tensor) -> Tensor:
    """Run a transformer on (batch, rows, positions, dim), each row a sequence of its own."""
    out: Tensor = transformer(x.flatten(0, 1))
    return out.unflatten(0, x.shape[:2])


def _masked(mix: Tensor, mask: Tensor) -> Tensor:
    """Complex product of mix (batch, channels, frames, bins, 2) and mask (batch, frames, features)."""
    _, channels, _, bins, _ = mix.shape
    mask = mask.unflatten(-1, (bins, channels, 2)).permute(0, 3, 1, 2, 4)
    (a, b), (c, d) = mix.unbind(-1), mask.unbind(-1)
    return torch.stack((a * c - b * d, a * d + b * c), dim=-1)
