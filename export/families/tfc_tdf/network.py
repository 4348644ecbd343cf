"""TFC-TDF U-net v3 of kuielab's SDX23 entry (arXiv 2306.09382), known as MDX23C: spectrograms, no mask."""

import torch
from torch import Tensor, nn

from rofo.export.families.mdx_net.config import TfcTdfConfig, elu_alpha
from rofo.export.families.mdx_net.conv_layers import Conv, TransposedConv, check_sizes, read_norm
from rofo.export.families.mdx_net.packing import pack, unpack
from rofo.export.families.roformer.layers import Linear
from rofo.export.graph.weights import Weights


class TfcTdf(nn.Module):
    """The network of one checkpoint, for a fixed number of frames.

    `state` is a public state dict and is emptied. Raises CheckpointError listing every key that is missing,
    misshapen or not used, and where the sizes do not divide by `scale` `num_scales` times.
    """

    def __init__(self, config: TfcTdfConfig, state: dict[str, Tensor], frames: int) -> None:
        super().__init__()
        self.config = config
        check_sizes(config, frames, _sub_bins(config, 0), config.scale[1] ** config.num_scales)
        weights = Weights(state)
        scales, bottom = range(config.num_scales), config.num_scales
        packed, width = 2 * config.channels * config.num_subbands, config.num_channels
        self.first = Conv(weights.take("first_conv.weight", width, packed, 1, 1))
        self.encoder = nn.ModuleList(
            _Blocks(weights, f"encoder_blocks.{i}.tfc_tdf", config, i) for i in scales
        )
        self.down = nn.ModuleList(_downscale(weights, config, i) for i in scales)
        self.bottom = _Blocks(weights, "bottleneck_block", config, bottom)
        self.up = nn.ModuleList(_upscale(weights, config, i) for i in scales)
        self.decoder = nn.ModuleList(
            _Blocks(weights, f"decoder_blocks.{i}.tfc_tdf", config, bottom - 1 - i, joined=True)
            for i in scales
        )
        self.final = nn.Sequential(
            Conv(weights.take("final_conv.0.weight", width, width + packed, 1, 1)),
            _activation(config.act),
            Conv(weights.take("final_conv.2.weight", config.num_stems * packed, width, 1, 1)),
        )
        weights.finish()

    def forward(self, mix: Tensor) -> Tensor:
        """mix: (batch, channels, frames, bins, 2) -> (batch, stems, channels, frames, bins, 2)."""
        subbands = self.config.num_subbands
        packed = pack(mix, self.config.dim_f, subbands=subbands)
        first = self.first(packed)
        x = torch.cat((packed, self._u_net(first) * first), dim=1)
        return unpack(self.final(x), channels=mix.shape[1], bins=mix.shape[3], subbands=subbands)

    def _u_net(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for blocks, down in zip(self.encoder, self.down, strict=True):
            kept.append(blocks(x))
            x = down(kept[-1])
        x = self.bottom(x)
        for up, blocks in zip(self.up, self.decoder, strict=True):
            x = blocks(torch.cat((up(x), kept.pop()), dim=1))
        return x


class _Blocks(nn.Sequential):
    """The TFC-TDF blocks of one scale; the first one takes twice the channels where two streams `joined`."""

    def __init__(
        self, weights: Weights, prefix: str, config: TfcTdfConfig, scale: int, *, joined: bool = False
    ) -> None:
        super().__init__(
            *(
                _Block(weights, f"{prefix}.blocks.{j}", config, scale, doubled=joined and j == 0)
                for j in range(config.num_blocks_per_scale)
            )
        )


class _Block(nn.Module):
    """Convolution, linear layers along the bins of its output, convolution, around them a shortcut."""

    def __init__(
        self, weights: Weights, prefix: str, config: TfcTdfConfig, scale: int, *, doubled: bool
    ) -> None:
        super().__init__()
        outputs = _width(config, scale)
        inputs = 2 * outputs if doubled else outputs
        self.shortcut = Conv(weights.take(f"{prefix}.shortcut.weight", outputs, inputs, 1, 1))
        self.before = nn.Sequential(
            *_pre(weights, f"{prefix}.tfc1", config, inputs),
            Conv(weights.take(f"{prefix}.tfc1.2.weight", outputs, inputs, 3, 3)),
        )
        self.tdf = _tdf(weights, f"{prefix}.tdf", config, scale)
        self.after = nn.Sequential(
            *_pre(weights, f"{prefix}.tfc2", config, outputs),
            Conv(weights.take(f"{prefix}.tfc2.2.weight", outputs, outputs, 3, 3)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, inputs, frames, bins) -> (batch, outputs, frames, bins)."""
        inner = self.before(x)
        return self.after(inner + self.tdf(inner)) + self.shortcut(x)


def _tdf(weights: Weights, prefix: str, config: TfcTdfConfig, scale: int) -> nn.Sequential:
    """Two linear layers along the bins, the first one to 1 / bottleneck_factor of them."""
    bins, width = _sub_bins(config, scale), _width(config, scale)
    narrow = bins // config.bottleneck_factor
    return nn.Sequential(
        *_pre(weights, prefix, config, width),
        Linear(weights.take(f"{prefix}.2.weight", narrow, bins), None, torch.float32),
        *_pre(weights, prefix, config, width, at=3),
        Linear(weights.take(f"{prefix}.5.weight", bins, narrow), None, torch.float32),
    )


def _downscale(weights: Weights, config: TfcTdfConfig, scale: int) -> nn.Sequential:
    prefix = f"encoder_blocks.{scale}.downscale.conv"
    inputs, outputs = _width(config, scale), _width(config, scale + 1)
    weight = weights.take(f"{prefix}.2.weight", outputs, inputs, *config.scale)
    return nn.Sequential(*_pre(weights, prefix, config, inputs), Conv(weight, step=config.scale))


def _upscale(weights: Weights, config: TfcTdfConfig, index: int) -> nn.Sequential:
    prefix, scale = f"decoder_blocks.{index}.upscale.conv", config.num_scales - index
    inputs, outputs = _width(config, scale), _width(config, scale - 1)
    weight = weights.take(f"{prefix}.2.weight", inputs, outputs, *config.scale)
    return nn.Sequential(*_pre(weights, prefix, config, inputs), TransposedConv(weight))


def _pre(
    weights: Weights, prefix: str, config: TfcTdfConfig, channels: int, at: int = 0
) -> tuple[nn.Module, nn.Module]:
    """Norm and activation, which stand before every convolution and linear layer."""
    return read_norm(weights, f"{prefix}.{at}", config.norm, channels), _activation(config.act)


def _activation(act: str) -> nn.Module:
    alpha = elu_alpha(act)
    if alpha is not None:
        return nn.ELU(alpha)
    return {"gelu": nn.GELU(), "relu": nn.ReLU()}[act]


def _width(config: TfcTdfConfig, scale: int) -> int:
    return config.num_channels + config.growth * scale


def _sub_bins(config: TfcTdfConfig, scale: int) -> int:
    """Bins of a sub-band at a scale."""
    return int(config.dim_f // config.num_subbands // config.scale[1] ** scale)
