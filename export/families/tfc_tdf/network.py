"""TFC-TDF U-net v3 of kuielab's SDX23 entry (arXiv 2306.09382), known as MDX23C: spectra without a mask.

Keys are those of its authors' TFC_TDF_net. The order of axes is (batch, channels, frames, bins) throughout.
"""

import re
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from rofo.export.families.u_nets import norm_groups
from rofo.export.graph.packing import pack, unpack

EPSILON = 1e-5  # of every norm: torch's default, which its authors left

Act = Callable[[], nn.Module]
Norm = Callable[[int], nn.Module]


class TfcTdfNet(nn.Module):
    """`num_scales` scales, each `scale` times coarser in (frames, bins) and `growth` channels wider.

    The lowest `dim_f` bins are cut into `num_subbands`, which are channels of their own. `norm` and `act` are
    those of `norms` and `activations`; other names are those of its yaml.
    """

    def __init__(
        self, *, channels: int, num_stems: int, dim_f: int, num_subbands: int, num_channels: int, growth: int,
        num_scales: int, num_blocks_per_scale: int, bottleneck_factor: int, scale: tuple[int, int],
        norm: str, act: str,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dim_f, self.num_subbands = dim_f, num_subbands
        pre = Pre(norms(norm), activations(act))
        widths = [num_channels + growth * i for i in range(num_scales + 1)]
        bins = [dim_f // num_subbands // scale[1] ** i for i in range(num_scales + 1)]

        def blocks(i: int, inputs: int) -> TfcTdf:
            narrow = bins[i] // bottleneck_factor
            return TfcTdf(pre, inputs, widths[i], bins[i], narrow, num_blocks_per_scale)

        packed, width, steps = 2 * channels * num_subbands, num_channels, list(pairwise(widths))
        self.first_conv = nn.Conv2d(packed, width, 1, bias=False)
        self.encoder_blocks = nn.ModuleList(
            _named(
                tfc_tdf=blocks(i, a), downscale=_named(conv=pre(a, nn.Conv2d(a, b, scale, scale, bias=False)))
            )
            for i, (a, b) in enumerate(steps)
        )
        self.bottleneck_block = blocks(num_scales, widths[-1])
        self.decoder_blocks = nn.ModuleList(
            _named(
                upscale=_named(conv=pre(b, nn.ConvTranspose2d(b, a, scale, scale, bias=False))),
                tfc_tdf=blocks(i, 2 * a),
            )
            for i, (a, b) in reversed(list(enumerate(steps)))
        )
        self.join: nn.Module = Join()
        self.final_conv = nn.Sequential(
            nn.Conv2d(width + packed, width, 1, bias=False),
            activations(act)(),
            nn.Conv2d(width, num_stems * packed, 1, bias=False),
        )

    def forward(self, mix: Tensor) -> Tensor:
        """mix: (batch, channels, frames, bins, 2) -> (batch, stems, channels, frames, bins, 2)."""
        packed = pack(mix, self.dim_f, subbands=self.num_subbands)
        first = self.first_conv(packed)
        x = self.final_conv(self.join(packed, first, self.u_net(first)))
        return unpack(x, channels=mix.shape[1], bins=mix.shape[3], subbands=self.num_subbands)

    def u_net(self, x: Tensor) -> Tensor:
        """x: (batch, num_channels, frames, bins) -> the same shape."""
        kept: list[Tensor] = []
        for block in self.encoder_blocks:
            kept.append(block.get_submodule("tfc_tdf")(x))
            x = block.get_submodule("downscale.conv")(kept[-1])
        x = self.bottleneck_block(x)
        for block in self.decoder_blocks:
            x = torch.cat((block.get_submodule("upscale.conv")(x), kept.pop()), dim=1)
            x = block.get_submodule("tfc_tdf")(x)
        return x


class Pre:
    """Norm and activation, which stand before every layer but the first and the shortcuts."""

    def __init__(self, norm: Norm, act: Act) -> None:
        self.norm, self.act = norm, act

    def __call__(self, channels: int, layer: nn.Module) -> nn.Sequential:
        """`layer` behind its norm, for so many channels, and activation."""
        return nn.Sequential(self.norm(channels), self.act(), layer)


class TfcTdf(nn.Module):
    """Some blocks at one scale, the first of them for `inputs` channels."""

    def __init__(self, pre: Pre, inputs: int, width: int, bins: int, narrow: int, count: int) -> None:
        super().__init__()
        sizes = [inputs] + (count - 1) * [width]
        self.blocks = nn.Sequential(*(Block(pre, size, width, bins, narrow) for size in sizes))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, inputs, frames, bins) -> (batch, width, frames, bins)."""
        out: Tensor = self.blocks(x)
        return out


class Block(nn.Module):
    """Convolution, linear layers along the `bins` of its output, convolution, around them a shortcut."""

    def __init__(self, pre: Pre, inputs: int, width: int, bins: int, narrow: int) -> None:
        super().__init__()
        self.tfc1 = pre(inputs, nn.Conv2d(inputs, width, 3, padding=1, bias=False))
        self.tdf = nn.Sequential(
            *pre(width, nn.Linear(bins, narrow, bias=False)),
            *pre(width, nn.Linear(narrow, bins, bias=False)),
        )
        self.tfc2 = pre(width, nn.Conv2d(width, width, 3, padding=1, bias=False))
        self.shortcut = nn.Conv2d(inputs, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, inputs, frames, bins) -> (batch, width, frames, bins)."""
        inner = self.tfc1(x)
        out: Tensor = self.tfc2(inner + self.tdf(inner)) + self.shortcut(x)
        return out


class Join(nn.Module):
    """What the last layers see: the packed mix, and the U-net's output times its input."""

    def forward(self, packed: Tensor, first: Tensor, x: Tensor) -> Tensor:
        """(batch, ..., frames, bins), joined along the channels."""
        return torch.cat((packed, x * first), dim=1)


def norms(norm: str) -> Norm:
    """InstanceNorm (of the whole chunk), BatchNorm or GroupNormN with N groups."""
    groups = norm_groups(norm)
    if groups is not None:
        return lambda channels: nn.GroupNorm(groups, channels, EPSILON)
    layer = {"InstanceNorm": nn.InstanceNorm2d, "BatchNorm": nn.BatchNorm2d}[norm]
    return lambda channels: layer(channels, EPSILON, affine=True)


def activations(act: str) -> Act:
    """gelu (exact), relu, or eluA with alpha A."""
    alpha = elu_alpha(act)
    return (lambda: nn.ELU(alpha)) if alpha is not None else {"gelu": nn.GELU, "relu": nn.ReLU}[act]


def elu_alpha(act: str) -> float | None:
    """A of "eluA", None for every other activation."""
    found = re.fullmatch(r"elu(\d+(\.\d*)?|\.\d+)", act)
    return float(found[1]) if found else None


def _named(**modules: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict(modules)
