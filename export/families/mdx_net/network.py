"""MDX-Net's TFC-TDF U-net v2 (arXiv 2111.12203): the spectrum of a stem from that of the mix, without a mask.

Keys are those of kuielab's ConvTDFNet. The order of axes is (batch, channels, frames, bins) throughout.
"""

from itertools import pairwise

from torch import Tensor, nn

from rofo.export.graph.packing import pack, unpack

EPSILON = 1e-5  # of every norm: torch's default, which its authors left


class ConvTdfNet(nn.Module):
    """`n` scales, each with half the frames and bins and `g` channels more; streams that skip are multiplied.

    The lowest `dim_f` bins are seen, the first `zero_bins` of them silenced. Blocks have `l` convolutions of
    `k` by `k`; `bn` and `bias` are explained at `tdf`. `groups` None is BatchNorm, else GroupNorm. Stems are
    multiplied by `compensate`.
    """

    def __init__(
        self, *, channels: int, num_stems: int, dim_f: int, g: int, n: int, k: int, l: int,  # noqa: E741
        bn: int | None, bias: bool, groups: int | None, zero_bins: int, compensate: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dim_f, self.zero_bins, self.compensate = dim_f, zero_bins, compensate

        def normed(layer: nn.Module, width: int) -> list[nn.Module]:
            norm = nn.GroupNorm(groups, width, EPSILON) if groups else nn.BatchNorm2d(width, EPSILON)
            return [layer, norm, nn.ReLU()]

        def tfc(c: int) -> nn.ModuleList:
            return nn.ModuleList(
                nn.Sequential(*normed(nn.Conv2d(c, c, k, padding=k // 2), c)) for _ in range(l)
            )

        def tdf(c: int, f: int) -> nn.Sequential | None:
            """Linear layers along `f` bins: to f / bn and back; one that keeps them for 0, none for None."""
            if bn is None:
                return None
            sizes = pairwise([f, f // bn, f] if bn else [f, f])
            layers = (normed(nn.Linear(a, b, bias=bias), c) for a, b in sizes)
            return nn.Sequential(*(module for layer in layers for module in layer))

        widths, bins = [g * (1 + i) for i in range(n + 1)], [dim_f >> i for i in range(n + 1)]
        blocks = [TfcTdf(tfc(c), tdf(c, f)) for c, f in zip(widths, bins, strict=True)]
        again = [TfcTdf(tfc(c), tdf(c, f)) for c, f in zip(widths[:-1], bins[:-1], strict=True)]
        steps = list(pairwise(widths))
        self.first_conv = nn.Sequential(*normed(nn.Conv2d(2 * channels, g, 1), g))
        self.encoding_blocks = nn.ModuleList(blocks[:-1])
        self.ds = nn.ModuleList(nn.Sequential(*normed(nn.Conv2d(a, b, 2, 2), b)) for a, b in steps)
        self.bottleneck_block = blocks[-1]
        self.us = nn.ModuleList(
            nn.Sequential(*normed(nn.ConvTranspose2d(b, a, 2, 2), a)) for a, b in reversed(steps)
        )
        self.decoding_blocks = nn.ModuleList(reversed(again))
        self.final_conv = nn.Sequential(nn.Conv2d(g, num_stems * 2 * channels, 1))

    def forward(self, mix: Tensor) -> Tensor:
        """mix: (batch, channels, frames, bins, 2) -> (batch, stems, channels, frames, bins, 2)."""
        x = self.first_conv(pack(mix, self.dim_f, zero_bins=self.zero_bins))
        kept: list[Tensor] = []
        for block, down in zip(self.encoding_blocks, self.ds, strict=True):
            kept.append(block(x))
            x = down(kept[-1])
        x = self.bottleneck_block(x)
        for up, block in zip(self.us, self.decoding_blocks, strict=True):
            x = block(up(x) * kept.pop())
        x = self.final_conv(x)
        x = x if self.compensate == 1 else x * self.compensate
        return unpack(x, channels=mix.shape[1], bins=mix.shape[3])


class TfcTdf(nn.Module):
    """Time-frequency convolutions `tfc`, and time-distributed linear layers `tdf` along their bins."""

    def __init__(self, convolutions: nn.ModuleList, tdf: nn.Sequential | None) -> None:
        super().__init__()
        self.tfc, self.tdf = Tfc(convolutions), tdf

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, frames, bins) -> the same shape."""
        x = self.tfc(x)
        return x if self.tdf is None else x + self.tdf(x)


class Tfc(nn.Module):
    """One convolution after the other."""

    def __init__(self, convolutions: nn.ModuleList) -> None:
        super().__init__()
        self.H = nn.Sequential(*convolutions)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, frames, bins) -> the same shape."""
        out: Tensor = self.H(x)
        return out
