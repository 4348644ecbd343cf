"""MDX-Net's ConvTDFNet in plain PyTorch: the oracle of its tests, because nobody packages it.

Its definition is written out as kuielab's code and UVR's have it, and shares nothing with the network that is
exported: spectrograms as (batch, 4, bins, frames), turned before and after the U-net, every layer on its own.
"""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float32]

_NAMES = {
    "new": ("encoding_blocks", "bottleneck_block", "decoding_blocks"),
    "old": ("ds_dense", "mid_dense", "us_dense"),
}


class ConvTdfNet(nn.Module):
    """ConvTDFNet with its public keys. `hyper` are its constructor's arguments, as Lightning saves them."""

    def __init__(self, hyper: dict[str, Any], *, layout: str = "new", num_stems: int = 1) -> None:
        super().__init__()
        self.names, scales = _NAMES[layout], range(hyper["num_blocks"] // 2 + 1)
        norm = nn.BatchNorm2d if hyper["optimizer"] == "rmsprop" else lambda c: nn.GroupNorm(2, c)
        make = SimpleNamespace(**hyper, norm=norm, flat=layout == "old")
        dim_c, g = hyper["dim_c"], hyper["g"]
        widths, sizes = [g * (1 + i) for i in scales], [hyper["dim_f"] >> i for i in scales]
        blocks = [_tfc_tdf(make, c, bins) for c, bins in zip(widths, sizes, strict=True)]
        again = [_tfc_tdf(make, c, bins) for c, bins in zip(widths[-2::-1], sizes[-2::-1], strict=True)]
        steps = list(pairwise(widths))
        down = [nn.Sequential(nn.Conv2d(a, b, 2, 2), norm(b), nn.ReLU()) for a, b in steps]
        up = [nn.Sequential(nn.ConvTranspose2d(b, a, 2, 2), norm(a), nn.ReLU()) for a, b in reversed(steps)]
        self.first_conv = nn.Sequential(nn.Conv2d(dim_c, g, 1), norm(g), nn.ReLU())
        self.add_module(self.names[0], nn.ModuleList(blocks[:-1]))
        self.ds, self.us = nn.ModuleList(down), nn.ModuleList(up)
        self.add_module(self.names[1], blocks[-1])
        self.add_module(self.names[2], nn.ModuleList(again))
        self.final_conv = nn.Sequential(nn.Conv2d(g, num_stems * dim_c, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim_c, dim_f, dim_t) -> (batch, stems * dim_c, dim_f, dim_t)."""
        encoder, bottom, decoder = (self.get_submodule(name) for name in self.names)
        x = self.first_conv(x).transpose(-1, -2)
        kept: list[Tensor] = []
        for block, down in zip(encoder.children(), self.ds, strict=True):
            kept.append(block(x))
            x = down(kept[-1])
        x = bottom(x)
        for up, block in zip(self.us, decoder.children(), strict=True):
            x = block(up(x) * kept.pop())
        out: Tensor = self.final_conv(x.transpose(-1, -2))
        return out


class _TfcTdfBlock(nn.Module):
    """The convolutions lie under `tfc` in the new layout and directly in the block in the `old` one."""

    def __init__(self, convolutions: nn.ModuleList, tdf: nn.Sequential | None, *, flat: bool) -> None:
        super().__init__()
        self.convolutions = "H" if flat else "tfc.H"
        if not flat:
            self.add_module("tfc", nn.Module())
        self.get_submodule("" if flat else "tfc").add_module("H", convolutions)
        self.tdf = tdf

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, frames, bins) -> the same shape."""
        for convolution in self.get_submodule(self.convolutions).children():
            x = convolution(x)
        return x if self.tdf is None else x + self.tdf(x)


def _tfc_tdf(make: SimpleNamespace, c: int, f: int) -> _TfcTdfBlock:
    """A block of `c` channels and `f` bins."""
    convolutions = nn.ModuleList(
        nn.Sequential(nn.Conv2d(c, c, make.k, padding=make.k // 2), make.norm(c), nn.ReLU())
        for _ in range(make.l)
    )
    if make.bn is None:
        return _TfcTdfBlock(convolutions, None, flat=make.flat)
    widths = [f, f // make.bn, f] if make.bn else [f, f]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs, bias=make.bias), make.norm(c), nn.ReLU()]
    return _TfcTdfBlock(convolutions, nn.Sequential(*layers), flat=make.flat)


class AsEngine(nn.Module):
    """The network between the shapes of an engine, used as UVR uses it."""

    def __init__(self, network: ConvTdfNet, dim_f: int, zero_bins: int, compensate: float) -> None:
        super().__init__()
        self.network, self.dim_f, self.zero_bins, self.compensate = network, dim_f, zero_bins, compensate

    def forward(self, mix: Tensor) -> Tensor:
        """(batch, channels, frames, bins, 2) -> (batch, stems, channels, frames, bins, 2)."""
        batch, channels, frames, bins, _ = mix.shape
        packed = (
            mix.permute(0, 1, 4, 3, 2).reshape(batch, 2 * channels, bins, frames)[:, :, : self.dim_f].clone()
        )
        packed[:, :, : self.zero_bins] = 0
        out = self.network(packed) * self.compensate
        full = nn.functional.pad(out, (0, 0, 0, bins - self.dim_f))
        return full.reshape(batch, -1, channels, 2, bins, frames).permute(0, 1, 2, 5, 4, 3)
