"""MDX-Net's TFC-TDF U-net v2 (arXiv 2111.12203), spectrogram in, spectrogram out, without a mask."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rofo.export.families.mdx_net.config import ConvTdfConfig
from rofo.export.families.mdx_net.conv_layers import (
    Conv,
    TransposedConv,
    check_sizes,
    read_batch_norm,
    read_norm,
)
from rofo.export.families.mdx_net.packing import pack, unpack
from rofo.export.families.roformer.layers import Linear
from rofo.export.graph.weights import Weights

_HALF = (2, 2)  # every scale has half the frames and half the bins of the one before

# Encoder, bottom and decoder blocks, and the convolutions of one.
_NAMES = {
    "new": ("encoding_blocks", "bottleneck_block", "decoding_blocks", "tfc.H"),
    "old": ("ds_dense", "mid_dense", "us_dense", "H"),
}


class ConvTdf(nn.Module):
    """The network of one checkpoint, for a fixed number of frames.

    `state` is a public state dict and is emptied. Raises CheckpointError listing every key that is missing,
    misshapen or not used, and where the sizes cannot be halved `num_scales` times.
    """

    def __init__(self, config: ConvTdfConfig, state: dict[str, Tensor], frames: int) -> None:
        super().__init__()
        self.config = config
        check_sizes(config, frames, config.dim_f, 1 << config.num_scales)
        weights = Weights(state)
        for constant in ("window", "freq_pad"):  # of the STFT, which is the runtime's
            weights.discard(constant)
        encoder, bottom, decoder, _ = _NAMES[config.key_layout]
        scales, packed = range(config.num_scales), 2 * config.channels
        self.first = _NormedConv(weights, "first_conv", config.norm, (config.growth, packed, 1, 1))
        self.encoder = nn.ModuleList(_Block(weights, f"{encoder}.{i}", config, i) for i in scales)
        self.down = nn.ModuleList(_halving(weights, config, i) for i in scales)
        self.bottom = _Block(weights, bottom, config, config.num_scales)
        self.up = nn.ModuleList(_doubling(weights, config, i) for i in scales)
        self.decoder = nn.ModuleList(
            _Block(weights, f"{decoder}.{i}", config, config.num_scales - 1 - i) for i in scales
        )
        self.final = _final(weights, config)
        weights.finish()

    def forward(self, mix: Tensor) -> Tensor:
        """mix: (batch, channels, frames, bins, 2) -> (batch, stems, channels, frames, bins, 2)."""
        x = self.first(pack(mix, self.config.dim_f, zero_bins=self.config.zero_bins))
        kept: list[Tensor] = []
        for block, down in zip(self.encoder, self.down, strict=True):
            kept.append(block(x))
            x = down(kept[-1])
        x = self.bottom(x)
        for up, block in zip(self.up, self.decoder, strict=True):
            x = block(up(x) * kept.pop())
        return unpack(self.final(x), channels=mix.shape[1], bins=mix.shape[3])


class _NormedConv(nn.Module):
    """relu(norm(convolution)); a BatchNorm is folded into the weights, which is exact."""

    def __init__(
        self, weights: Weights, prefix: str, norm: str, shape: tuple[int, int, int, int],
        *, step: tuple[int, int] = (1, 1), transposed: bool = False,
    ) -> None:  # fmt: skip
        """`shape` is that of the stored weight: (outputs, inputs, ...), or the reverse if `transposed`."""
        super().__init__()
        axis = int(transposed)
        weight = weights.take(f"{prefix}.0.weight", *shape)
        bias = weights.take(f"{prefix}.0.bias", shape[axis])
        if norm == "BatchNorm":
            scale, shift = read_batch_norm(weights, f"{prefix}.1", shape[axis])
            weight = (weight.double().transpose(0, axis) * scale[:, None, None, None]).transpose(0, axis)
            weight, bias = weight.float().contiguous(), (bias * scale + shift).float()
            self.norm: nn.Module = nn.Identity()
        else:
            self.norm = read_norm(weights, f"{prefix}.1", norm, shape[axis])
        self.conv = TransposedConv(weight, bias) if transposed else Conv(weight, bias, step=step)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, inputs, frames, bins) -> (batch, outputs, ...)."""
        return F.relu(self.norm(self.conv(x)))


class _Block(nn.Module):
    """TFC-TDF: convolutions, plus linear layers along the bins of their output."""

    def __init__(self, weights: Weights, prefix: str, config: ConvTdfConfig, scale: int) -> None:
        super().__init__()
        width, convolutions = _width(config, scale), _NAMES[config.key_layout][3]
        shape = (width, width, config.kernel, config.kernel)
        self.tfc = nn.Sequential(
            *(
                _NormedConv(weights, f"{prefix}.{convolutions}.{j}", config.norm, shape)
                for j in range(config.layers)
            )
        )
        self.tdf = _tdf(weights, f"{prefix}.tdf", config, scale)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, frames, bins) -> the same shape."""
        x = self.tfc(x)
        return x if self.tdf is None else x + self.tdf(x)


def _tdf(weights: Weights, prefix: str, config: ConvTdfConfig, scale: int) -> nn.Sequential | None:
    """Linear layers along the bins, each with norm and ReLU; one where nothing is narrowed.

    Their norm acts on the channels, an axis the linear layer does not mix, so it stays on its own.
    """
    if config.bottleneck is None:
        return None
    bins = config.dim_f >> scale
    narrow = bins // config.bottleneck if config.bottleneck else bins
    sizes = [(bins, narrow), (narrow, bins)] if config.bottleneck else [(bins, bins)]
    modules: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(sizes):
        linear, norm = f"{prefix}.{3 * i}", f"{prefix}.{3 * i + 1}"
        weight = weights.take(f"{linear}.weight", outputs, inputs)
        bias = weights.take(f"{linear}.bias", outputs) if config.tdf_bias else None
        modules += [
            Linear(weight, bias, torch.float32),
            read_norm(weights, norm, config.norm, _width(config, scale)),
            nn.ReLU(),
        ]
    return nn.Sequential(*modules)


def _halving(weights: Weights, config: ConvTdfConfig, scale: int) -> _NormedConv:
    shape = (_width(config, scale + 1), _width(config, scale), *_HALF)
    return _NormedConv(weights, f"ds.{scale}", config.norm, shape, step=_HALF)


def _doubling(weights: Weights, config: ConvTdfConfig, index: int) -> _NormedConv:
    scale = config.num_scales - index
    shape = (_width(config, scale), _width(config, scale - 1), *_HALF)
    return _NormedConv(weights, f"us.{index}", config.norm, shape, transposed=True)


def _final(weights: Weights, config: ConvTdfConfig) -> Conv:
    """The last convolution, with the factor that UVR applies to the separated audio."""
    outputs = config.num_stems * config.channels * 2
    weight = weights.take("final_conv.0.weight", outputs, config.growth, 1, 1)
    bias = weights.take("final_conv.0.bias", outputs)
    return Conv(weight * config.compensate, bias * config.compensate)


def _width(config: ConvTdfConfig, scale: int) -> int:
    return config.growth * (1 + scale)
