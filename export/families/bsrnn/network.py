"""BSRNN (arXiv 2209.15174) as magronp/bsrnn has it, with the full-band attention of TF-GridNet (2209.03952).

Every channel is separated by itself, but for transform-average-concatenate (arXiv 1910.14104), which lets the
channels of a song see each other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = Literal["lstm", "gru", "conv"]


@dataclass(frozen=True)
class Sizes:
    """What the network of one target is made of, under the names of the original's arguments.

    `attn_enc_dim` is the width of a band's query and key in each of `n_att_head` heads, 0 without attention.
    `fac_sep`, `fac_mask` and `fac_tac` are how many times `feature_dim` the hidden layers are wide.
    `act_tac` is None without transform-average-concatenate. `eps` is that of the group norms.
    """

    feature_dim: int
    num_repeat: int
    time_layer: Layer
    band_layer: Layer
    n_att_head: int = 0
    attn_enc_dim: int = 0
    fac_sep: int = 2
    fac_mask: int = 4
    fac_tac: int = 0
    act_tac: Literal["tanh", "prelu"] | None = None
    eps: float = 1e-7


class Separator(nn.Module):
    """A network for each target."""

    def __init__(self, sizes: Sizes, bands: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.source_models = nn.ModuleDict({target: Bsrnn(sizes, own, 1) for target, own in bands.items()})

    def forward(self, mix: Tensor) -> Tensor:
        """mix: (batch, channels, frames, bins, 2) -> (batch, targets, channels, frames, bins, 2)."""
        return torch.cat([network(mix) for network in self.source_models.values()], dim=1)


class Bsrnn(nn.Module):
    """Band split, `num_repeat` pairs of layers along time and bands, a mask for each of `targets`.

    `bands` are the widths of the bands in bins, which together are all bins.
    """

    def __init__(self, sizes: Sizes, bands: Sequence[int], targets: int) -> None:
        super().__init__()
        self.bands = tuple(bands)
        width = sizes.feature_dim
        self.BN = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(1, 2 * band, sizes.eps), nn.Conv1d(2 * band, width, 1))
            for band in bands
        )
        self.separator = nn.Sequential(*(BSNet(sizes, len(bands)) for _ in range(sizes.num_repeat)))
        self.maskers = nn.ModuleList(Masker(sizes, bands) for _ in range(targets))

    def forward(self, mix: Tensor) -> Tensor:
        """mix: (batch, channels, frames, bins, 2) -> (batch, targets, channels, frames, bins, 2)."""
        batch, channels, frames, bins, _ = mix.shape
        # (batch x channels, 2, bins, frames): from here on a channel is an item of the batch.
        spectrum = mix.flatten(0, 1).permute(0, 3, 2, 1)
        split = spectrum.split(self.bands, dim=2)
        features = [
            norm_and_project(band.flatten(1, 2))
            for norm_and_project, band in zip(self.BN, split, strict=True)
        ]
        x = torch.stack(features, dim=1).unflatten(0, (batch, channels))
        x = self.separator(x).flatten(0, 1)
        stems = [
            torch.cat([_masked(*pair) for pair in zip(split, masker(x), strict=True)], dim=2)
            for masker in self.maskers
        ]
        return (
            torch.stack(stems, dim=1)
            .view(batch, channels, len(stems), 2, bins, frames)
            .permute(0, 2, 1, 5, 4, 3)
        )


class BSNet(nn.Module):
    """One layer along time and one along the bands, and what joins frames and channels after them."""

    def __init__(self, sizes: Sizes, bands: int) -> None:
        super().__init__()
        self.time_net = ResNet(sizes, sizes.time_layer)
        self.band_net = ResNet(sizes, sizes.band_layer)
        self.tac_module = Tac(sizes) if sizes.act_tac else None
        self.attn_block = AttentionBlock(sizes, bands) if sizes.n_att_head else None

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, bands, features, frames) -> the same."""
        batch, channels, bands, width, frames = x.shape
        x = self.time_net(x.reshape(-1, width, frames))
        x = x.view(batch, channels, bands, width, frames).permute(0, 1, 4, 3, 2)
        x = self.band_net(x.reshape(-1, width, bands))
        x = x.view(batch, channels, frames, width, bands)
        if self.tac_module is not None:
            x = self.tac_module(x.transpose(3, 4)).transpose(3, 4)
        if self.attn_block is not None:
            x = self.attn_block(x.flatten(0, 1).transpose(1, 2)).transpose(1, 2).view(x.shape)
        return x.permute(0, 1, 4, 3, 2)


class ResNet(nn.Module):
    """Norm over a whole sequence, a layer along it, a product, around them a shortcut."""

    def __init__(self, sizes: Sizes, layer: Layer) -> None:
        super().__init__()
        width, hidden = sizes.feature_dim, sizes.feature_dim * sizes.fac_sep
        self.norm = nn.GroupNorm(1, width, sizes.eps)
        self.main_layer: nn.Module
        if layer == "conv":
            self.main_layer = nn.Sequential(nn.Conv1d(width, 2 * hidden, 3, padding=1), nn.ReLU())
        else:
            recurrent = nn.LSTM if layer == "lstm" else nn.GRU
            self.main_layer = recurrent(width, hidden, batch_first=True, bidirectional=True)
        self.proj = nn.Linear(2 * hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (sequences, features, steps) -> the same."""
        normed = self.norm(x)
        if isinstance(self.main_layer, nn.RNNBase):
            found, _ = self.main_layer(normed.transpose(1, 2))
        else:
            found = self.main_layer(normed).transpose(1, 2)
        return x + self.proj(found).transpose(1, 2)


class Tac(nn.Module):
    """Transform, average, concatenate: a channel's features meet the mean of all channels'."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, hidden = sizes.feature_dim, sizes.feature_dim * sizes.fac_tac
        activation = nn.PReLU() if sizes.act_tac == "prelu" else nn.Tanh()  # one for all three
        self.transform = nn.Sequential(nn.Linear(width, hidden), activation)
        self.average = nn.Sequential(nn.Linear(hidden, hidden), activation)
        self.concat = nn.Sequential(nn.Linear(2 * hidden, width), activation)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, ..., features) -> the same."""
        own = self.transform(x)
        mean = self.average(own.mean(dim=1, keepdim=True))
        return x + self.concat(torch.cat((own, mean.expand_as(own)), dim=-1))


class AttentionBlock(nn.Module):
    """Attention of frames to frames: a frame's query is that of all its bands together."""

    def __init__(self, sizes: Sizes, bands: int) -> None:
        super().__init__()
        self.heads = sizes.n_att_head
        width = sizes.feature_dim
        outputs = {"Q": sizes.attn_enc_dim, "K": sizes.attn_enc_dim, "V": width // self.heads}
        for head in range(self.heads):
            for name, output in outputs.items():
                self.add_module(f"attn_conv_{name}_{head}", _projection(width, output, bands))
        self.attn_concat_proj = _projection(width, width, bands)

    def forward(self, x: Tensor) -> Tensor:
        """x: (items, features, frames, bands) -> the same."""
        q, k, v = (
            torch.stack(
                [self.get_submodule(f"attn_conv_{name}_{head}")(x) for head in range(self.heads)], dim=1
            )
            for name in "QKV"
        )  # (items, heads, features of a head, frames, bands)
        q, k, values = (part.transpose(2, 3).flatten(3) for part in (q, k, v))
        weights = F.softmax(q @ k.transpose(2, 3) / q.shape[3] ** 0.5, dim=3)
        found = (weights @ values).unflatten(3, (v.shape[2], v.shape[4])).transpose(2, 3)
        return x + self.attn_concat_proj(found.flatten(1, 2))


class FrameNorm(nn.Module):
    """Norm over the features of all bands of a frame, with a scale and a shift for each."""

    def __init__(self, features: int, bands: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, features, 1, bands))
        self.beta = nn.Parameter(torch.zeros(1, features, 1, bands))

    def forward(self, x: Tensor) -> Tensor:
        """x: (items, features, frames, bands) -> the same."""
        variance, mean = torch.var_mean(x, dim=(1, 3), correction=0, keepdim=True)
        return (x - mean) / torch.sqrt(variance + FRAME_EPS) * self.gamma + self.beta


FRAME_EPS = 1e-7  # whatever the group norms have


class Masker(nn.Module):
    """A complex mask for each band."""

    def __init__(self, sizes: Sizes, bands: Iterable[int]) -> None:
        super().__init__()
        width, hidden = sizes.feature_dim, sizes.feature_dim * sizes.fac_mask
        self.mask = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(1, width, sizes.eps),
                nn.Conv1d(width, hidden, 1),
                nn.Tanh(),
                nn.Conv1d(hidden, hidden, 1),
                nn.Tanh(),
                nn.Conv1d(hidden, 4 * band, 1),
            )
            for band in bands
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: (items, bands, features, frames) -> of each band (items, 2, bins, frames)."""
        masks = []
        for band, estimate in enumerate(self.mask):
            value, gate = estimate(x[:, band]).chunk(2, dim=1)
            masks.append((value * torch.sigmoid(gate)).unflatten(1, (2, -1)))
        return masks


def _projection(inputs: int, outputs: int, bands: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.PReLU(), FrameNorm(outputs, bands))


def _masked(band: Tensor, mask: Tensor) -> Tensor:
    """The complex product of two (items, 2, bins, frames)."""
    (re, im), (mask_re, mask_im) = band.unbind(1), mask.unbind(1)
    return torch.stack((re * mask_re - im * mask_im, re * mask_im + im * mask_re), dim=1)
