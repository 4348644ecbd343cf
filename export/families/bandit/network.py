"""Bandit (arXiv 2309.02539) and Bandit v2 (2407.07275): overlapping bands, layers along time and bands.

Every channel is separated by itself. Names of weights are those of the first version without its `bsrnn.`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from rofo.export.families.band_groups import Bands


@dataclass(frozen=True)
class Sizes:
    """What a network is made of, under the names of the original's arguments.

    `parts_first` tells how a band's features are ordered before its product: all real parts, then all
    imaginary ones, as in the first version; else bin by bin. `use_freq_weights` tells whether the bands'
    masks are weighted where they are added.
    """

    n_fft: int
    bands: Bands
    stems: Sequence[str]
    emb_dim: int
    rnn_dim: int
    mlp_dim: int
    n_sqm_modules: int
    rnn_type: Literal["GRU", "LSTM"]
    parts_first: bool
    use_freq_weights: bool

    @property
    def bins(self) -> int:
        """Of a frame; the last ones may be in no band."""
        return self.n_fft // 2 + 1


class Bandit(nn.Module):
    """Band split, `n_sqm_modules` pairs of recurrent layers along time and bands, masks for each stem."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.band_split = BandSplit(sizes)
        self.tf_model = SeqBand(sizes)
        self.mask_estim = nn.ModuleDict({stem: MaskEstimation(sizes) for stem in sizes.stems})

    def forward(self, mix: Tensor) -> Tensor:
        """mix: (batch, channels, frames, bins, 2) -> (batch, stems, channels, frames, bins, 2)."""
        x = self.tf_model(self.band_split(mix.flatten(0, 1)))
        masks = torch.stack([estimate(x) for estimate in self.mask_estim.values()], dim=1)
        masks = masks.unflatten(0, mix.shape[:2]).transpose(1, 2)
        return torch.view_as_real(
            torch.view_as_complex(mix)[:, None] * torch.view_as_complex(masks.contiguous())
        )


class BandSplit(nn.Module):
    """Each band's bins, normalised, through its own linear layer."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.bands, self.parts_first = sizes.bands, sizes.parts_first
        self.norm_fc_modules = nn.ModuleList(NormFc(bins, sizes.emb_dim) for _, bins in sizes.bands)

    def forward(self, x: Tensor) -> Tensor:
        """x: (items, frames, bins, 2) -> (items, bands, frames, features)."""
        split = []
        for (first, bins), norm_fc in zip(self.bands, self.norm_fc_modules, strict=True):
            band = x[:, :, first : first + bins]
            split.append(norm_fc((band.transpose(2, 3) if self.parts_first else band).flatten(2)))
        return torch.stack(split, dim=1)


class NormFc(nn.Module):
    """A norm over a band and a linear layer."""

    def __init__(self, bins: int, width: int) -> None:
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(2 * bins), nn.Linear(2 * bins, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (items, frames, 2 x bins) -> (items, frames, features)."""
        found: Tensor = self.fc(self.norm(x))
        return found


class SeqBand(nn.Module):
    """Recurrent layers along time for every band, then along bands for every frame, and so on."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.seqband = nn.ModuleList(ResidualRnn(sizes) for _ in range(2 * sizes.n_sqm_modules))

    def forward(self, x: Tensor) -> Tensor:
        """x: (items, bands, frames, features) -> the same."""
        for layer in self.seqband:
            x = layer(x).transpose(1, 2)
        return x


class ResidualRnn(nn.Module):
    """Norm, recurrent layer, linear layer, around them a shortcut."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        kind = {"GRU": nn.GRU, "LSTM": nn.LSTM}[sizes.rnn_type]
        self.norm = nn.LayerNorm(sizes.emb_dim)
        self.rnn = kind(sizes.emb_dim, sizes.rnn_dim, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(2 * sizes.rnn_dim, sizes.emb_dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: (items, sequences, steps, features) -> the same."""
        found, _ = self.rnn(self.norm(x).flatten(0, 1))
        return x + self.fc(found).view(x.shape)


class MaskEstimation(nn.Module):
    """A stem's mask of every band, weighted and added where bands overlap."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.bands, self.bins, self.weighted = sizes.bands, sizes.bins, sizes.use_freq_weights
        self.norm_mlp = nn.ModuleList(NormMlp(sizes, bins) for _, bins in sizes.bands)
        if self.weighted:
            for i, (_, bins) in enumerate(sizes.bands):
                self.register_buffer(f"freq_weights/{i}", torch.ones(bins))

    def forward(self, x: Tensor) -> Tensor:
        """x: (items, bands, frames, features) -> mask (items, frames, bins, 2)."""
        mask = x.new_zeros(x.shape[0], x.shape[2], self.bins, 2)
        for i, ((first, bins), mlp) in enumerate(zip(self.bands, self.norm_mlp, strict=True)):
            own = mlp(x[:, i])
            mask[:, :, first : first + bins] += own * self.weights(i)[:, None] if self.weighted else own
        return mask

    def weights(self, band: int) -> Tensor:
        """What a band counts for in each of its bins."""
        return self.get_buffer(f"freq_weights/{band}")


class NormMlp(nn.Module):
    """The mask of a band: a perceptron with one hidden layer and a gated output."""

    def __init__(self, sizes: Sizes, bins: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(sizes.emb_dim)
        self.hidden = nn.Sequential(nn.Linear(sizes.emb_dim, sizes.mlp_dim), nn.Tanh())
        self.output = nn.Sequential(nn.Linear(sizes.mlp_dim, 4 * bins), nn.GLU(dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        """x: (items, frames, features) -> mask (items, frames, bins, 2)."""
        found: Tensor = self.output(self.hidden(self.norm(x)))
        return found.unflatten(2, (-1, 2))
