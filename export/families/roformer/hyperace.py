"""unwa's HyperACE: a mask of the perceptrons plus one that a convolutional network draws.

The network (after YOLOv13, arXiv 2506.17733) sees what the layers give as an image of frames by bands. Its
two versions differ in the strides of the encoder, in the size of the hypergraphs, and in the head. Norms,
means and maxima run over the whole chunk: its length changes every sample.

The strides of version 1 cannot be told from weights. Halving frames only is what stands in whole copies of
the author's own file (noblebarkrr/mvsepless, engdahlz/StemSep) and in undef13/splifft, and what makes the
head's four doublings lead from 62 bands to 992 of 1025 bins, as in version 2. SUC-DriverOld/MSST-WebUI halves
bands too, openmirlab/bs-roformer-infer has the strides of version 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rofo.export.families.band_groups import Bands
from rofo.export.families.roformer.network import MaskEstimator

EPSILON = 1e-8
HEADS = 8
STEM, WIDTHS = 64, (256, 384, 512, 768)
DEPTHS = (2, 4, 4, 2)
FRAMES_ONLY, BOTH = (2, 1), (2, 2)


@dataclass(frozen=True)
class Version:
    """What one version has: strides over (frames, bands) of the encoder's scales, then counts."""

    strides: tuple[tuple[int, int], ...]
    hyperedges: int
    hypergraphs: int
    local_blocks: int


VERSIONS = {
    1: Version((FRAMES_ONLY,) * 4, hyperedges=16, hypergraphs=3, local_blocks=2),
    2: Version((FRAMES_ONLY, FRAMES_ONLY, BOTH, BOTH), hyperedges=32, hypergraphs=2, local_blocks=1),
}


class HyperAceMaskEstimator(MaskEstimator):
    """The perceptrons' mask plus that of the convolutional network."""

    def __init__(self, bands: Bands, channels: int, widths: Sequence[int], version: int) -> None:
        super().__init__(bands, channels, widths)
        bins = sum(count for _, count in bands)
        self.segm = Segmentation(widths[0], len(bands), bins, 2 * channels, version)

    def forward(self, x: Tensor, bins: int) -> Tensor:
        """x: (batch, frames, bands, dim) -> mask (batch, frames, bins, channels, 2)."""
        drawn = self.segm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return super().forward(x, bins) + drawn.unflatten(-1, (self.channels, 2))


class Segmentation(nn.Module):
    """Encoder of four scales, hypergraphs over all of them, decoder, head."""

    def __init__(self, dim: int, bands: int, bins: int, outputs: int, version: int) -> None:
        super().__init__()
        facts = VERSIONS[version]
        self.backbone = Encoder(dim, facts.strides)
        self.hyperace = HyperAce(facts)
        self.decoder = Decoder()
        head = HeadOfVersion1 if version == 1 else HeadOfVersion2
        self.upsample_head = head(bands, bins, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, dim, frames, bands) -> (batch, outputs, frames, bins)."""
        scales = self.backbone(x)
        decoded = self.decoder(scales, self.hyperace(scales))
        return self.upsample_head(resized(decoded, (x.shape[2], decoded.shape[3])))


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """x: (batch, channels, rows, columns), by bilinear interpolation of pixels' centres."""
    return x if x.shape[2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class Conv(nn.Module):
    """A pointwise convolution, InstanceNorm, SiLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = nn.InstanceNorm2d(outputs, affine=True, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, inputs, frames, bands) -> (batch, outputs, frames, bands)."""
        return F.silu(self.bn(self.conv(x)))


class SeparableConv(nn.Module):
    """A 3 x 3 convolution of each channel, a pointwise one, InstanceNorm, SiLU."""

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.pwconv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = nn.InstanceNorm2d(outputs, affine=True, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, inputs, frames, bands) -> (batch, outputs, frames and bands by the stride)."""
        return F.silu(self.bn(self.pwconv(self.dwconv(x))))


class Bottleneck(nn.Module):
    """Two such convolutions, added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dsconv1, self.dsconv2 = SeparableConv(width, width), SeparableConv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, width, frames, bands) -> the same shape."""
        return x + self.dsconv2(self.dsconv1(x))


class Split(nn.Module):
    """Bottlenecks on one copy of the channels, joined with another."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.cv1, self.cv2, self.cv3 = Conv(width, width), Conv(width, width), Conv(2 * width, width)
        self.m = nn.Sequential(*(Bottleneck(width) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, width, frames, bands) -> the same shape."""
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), dim=1))


class Block(nn.Module):
    """A `Split` of half as many channels as come out."""

    def __init__(self, inputs: int, outputs: int, depth: int = 1) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(inputs, outputs // 2), Conv(outputs // 2, outputs)
        self.m = Split(outputs // 2, depth)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, inputs, frames, bands) -> (batch, outputs, frames, bands)."""
        return self.cv2(self.m(self.cv1(x)))


class Encoder(nn.Module):
    """Four scales of ever fewer frames and ever more channels."""

    def __init__(self, dim: int, strides: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.stem = SeparableConv(dim, STEM, FRAMES_ONLY)
        steps = zip(pairwise((STEM, *WIDTHS)), strides, DEPTHS, strict=True)
        self.p2, self.p3, self.p4, self.p5 = (
            nn.Sequential(SeparableConv(inputs, outputs, stride), Block(outputs, outputs, depth))
            for (inputs, outputs), stride, depth in steps
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: (batch, dim, frames, bands) -> each scale, the finest first."""
        x = self.stem(x)
        scales = []
        for step in (self.p2, self.p3, self.p4, self.p5):
            x = step(x)
            scales.append(x)
        return scales


class HyperAce(nn.Module):
    """All scales at the size of the third: half of the channels through hypergraphs, a quarter convolved."""

    def __init__(self, version: Version) -> None:
        super().__init__()
        width = WIDTHS[2]
        self.parts = (width // 2, width // 4, width // 4)
        high, low, _ = self.parts
        self.fuse_conv = Conv(sum(WIDTHS), width)
        self.high_order_branch = nn.ModuleList(
            HypergraphBlock(high, version.hyperedges) for _ in range(version.hypergraphs)
        )
        self.high_order_fuse = Conv(high * version.hypergraphs, high)
        self.low_order_branch = nn.Sequential(*(Split(low, 1) for _ in range(version.local_blocks)))
        self.final_fuse = Conv(width, width)

    def forward(self, scales: Sequence[Tensor]) -> Tensor:
        """scales as Encoder gives them -> (batch, channels, frames, bands) as the third."""
        _, _, third, _ = scales
        size = (third.shape[2], third.shape[3])
        fused = self.fuse_conv(torch.cat([resized(scale, size) for scale in scales], dim=1))
        high, low, kept = fused.split(self.parts, dim=1)
        high = self.high_order_fuse(torch.cat([block(high) for block in self.high_order_branch], dim=1))
        return self.final_fuse(torch.cat((high, self.low_order_branch(low), kept), dim=1))


class HypergraphBlock(nn.Module):
    """A hypergraph on one copy of the channels, joined with another."""

    def __init__(self, width: int, hyperedges: int) -> None:
        super().__init__()
        self.cv1, self.cv2, self.cv3 = Conv(width, width), Conv(width, width), Conv(2 * width, width)
        self.ahc = nn.Module()
        self.ahc.adaptive_hyperedge_gen = Hyperedges(width, hyperedges)
        self.ahc.hypergraph_conv = HypergraphConv(width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, width, frames, bands) -> the same shape."""
        ahc: Any = self.ahc
        points = self.cv2(x).flatten(2).transpose(1, 2)
        points = ahc.hypergraph_conv(points, ahc.adaptive_hyperedge_gen(points))
        drawn = points.transpose(1, 2).unflatten(2, x.shape[2:])
        return self.cv3(torch.cat((drawn, self.cv1(x)), dim=1))


class Hyperedges(nn.Module):
    """How much each point belongs to each edge, by its likeness to the edge's prototype."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.global_proto = nn.Parameter(torch.zeros(count, width))
        self.context_mapper = nn.Linear(2 * width, count * width, bias=False)
        self.query_proj = nn.Linear(width, width, bias=False)

    def forward(self, points: Tensor) -> Tensor:
        """points: (batch, points, width) -> (batch, edges, points); an edge's shares add up to 1.

        The likeness is the mean of what HEADS parts of the channels say, as a scaled product each: the sum
        over all channels, scaled.
        """
        width = points.shape[2]
        context = torch.cat((points.mean(dim=1), points.amax(dim=1)), dim=1)
        prototypes = self.global_proto + self.context_mapper(context).unflatten(1, self.global_proto.shape)
        likeness = prototypes @ self.query_proj(points).transpose(1, 2)
        return (likeness * (width // HEADS) ** -0.5 / HEADS).softmax(dim=-1)


class HypergraphConv(nn.Module):
    """Points tell their edges, edges tell their points."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W_e = nn.Linear(width, width, bias=False)
        self.W_v = nn.Linear(width, width, bias=False)

    def forward(self, points: Tensor, shares: Tensor) -> Tensor:
        """points: (batch, points, width), shares: (batch, edges, points) -> the shape of points."""
        edges = F.silu(self.W_e(shares @ points))
        return points + F.silu(self.W_v(shares.transpose(1, 2) @ edges))


class Decoder(nn.Module):
    """From the coarsest scale to the finest; the hypergraphs' result is added to each."""

    def __init__(self) -> None:
        super().__init__()
        second, third, fourth, fifth = WIDTHS
        for number, width in zip((2, 3, 4, 5), WIDTHS, strict=True):
            self.add_module(f"h_to_d{number}", Conv(WIDTHS[2], width))
            self.add_module(f"fusion_d{number}", Gain(width))
            self.add_module(f"skip_p{number}", Conv(width, width))
        self.up_d5, self.up_d4, self.up_d3 = Block(fifth, fourth), Block(fourth, third), Block(third, second)
        self.final_d2 = Block(second, second)

    def forward(self, scales: Sequence[Tensor], high: Tensor) -> Tensor:
        """The encoder's scales and what HyperAce made of them -> (batch, WIDTHS[0], frames, bands)."""
        x, up = None, None
        for number, scale in zip((5, 4, 3, 2), reversed(scales), strict=True):
            size = (scale.shape[2], scale.shape[3])
            skipped = self.get_submodule(f"skip_p{number}")(scale)
            x = skipped if x is None or up is None else up(resized(x, size)) + skipped
            added = self.get_submodule(f"h_to_d{number}")(resized(high, size))
            x = x + self.get_submodule(f"fusion_d{number}")(added)
            up = self.get_submodule(f"up_d{number}") if number > 2 else None
        return self.final_d2(x)


class Gain(nn.Module):
    """A factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, width, frames, bands) -> the same shape."""
        return x * self.gamma


class Doubling(nn.Module):
    """Twice as many columns: a convolution makes both, side by side."""

    def __init__(self, inputs: int, outputs: int, out_conv: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = SeparableConv(inputs, 2 * outputs)
        self.out_conv = out_conv or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, inputs, frames, columns) -> (batch, outputs, frames, 2 * columns)."""
        pairs = self.conv(x).unflatten(1, (-1, 2))
        return self.out_conv(pairs.permute(0, 1, 3, 4, 2).flatten(3))


class Head(nn.Module):
    """Four doublings of the bands, then as many bins as there are."""

    bins: int
    final_conv: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, WIDTHS[0], frames, bands) -> (batch, outputs, frames, bins)."""
        for number in (1, 2, 3, 4):
            x = self.get_submodule(f"block{number}")(x)
        return self.final_conv(resized(x, (x.shape[2], self.bins)))


class HeadOfVersion1(Head):
    """Half of the channels are left out with the second and the fourth doubling."""

    def __init__(self, bands: int, bins: int, outputs: int) -> None:
        super().__init__()
        self.bins, width = bins, WIDTHS[0]
        self.block1, self.block2 = Doubling(width, width), Doubling(width, width // 2)
        self.block3, self.block4 = Doubling(width // 2, width // 2), Doubling(width // 2, width // 4)
        self.final_conv = nn.Conv2d(width // 4, outputs, 1, bias=False)


class HeadOfVersion2(Head):
    """Half of the channels are left out with every doubling; each ends in TFC-TDF blocks."""

    def __init__(self, bands: int, bins: int, outputs: int) -> None:
        super().__init__()
        self.bins, width = bins, WIDTHS[0]
        for number in (1, 2, 3, 4):
            columns = bands * 2**number
            doubling = Doubling(width, width // 2, TfcTdf(width // 2, columns))
            self.add_module(f"block{number}", doubling)
            width //= 2
        self.final_conv = nn.Conv2d(width, outputs, 3, padding=1, bias=False)


class TfcTdf(nn.Module):
    """Two blocks of convolutions with a bottleneck over the columns between them (arXiv 2306.09382)."""

    def __init__(self, width: int, columns: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TfcTdfBlock(width, columns) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, width, frames, columns) -> the same shape."""
        for block in self.blocks:
            x = block(x)
        return x


class TfcTdfBlock(nn.Module):
    """A convolution, the bottleneck added to its input, a convolution; a pointwise one around them all."""

    def __init__(self, width: int, columns: int) -> None:
        super().__init__()

        def normed(layer: nn.Module) -> tuple[nn.Module, ...]:
            return nn.InstanceNorm2d(width, affine=True, eps=EPSILON), nn.SiLU(), layer

        def conv() -> nn.Sequential:
            return nn.Sequential(*normed(nn.Conv2d(width, width, 3, padding=1, bias=False)))

        narrow = nn.Linear(columns, columns // 4, bias=False)
        wide = nn.Linear(columns // 4, columns, bias=False)
        self.tfc1, self.tfc2 = conv(), conv()
        self.tdf = nn.Sequential(*normed(narrow), *normed(wide))
        self.shortcut = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, width, frames, columns) -> the same shape."""
        shortcut, x = self.shortcut(x), self.tfc1(x)
        return self.tfc2(x + self.tdf(x)) + shortcut
