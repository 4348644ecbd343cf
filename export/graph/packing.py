"""Between the engine contract's spectra and the real channels of convolutional networks."""

import torch
import torch.nn.functional as F
from torch import Tensor


def pack(mix: Tensor, dim_f: int, *, subbands: int = 1, zero_bins: int = 0) -> Tensor:
    """(batch, channels, frames, bins, 2) -> (batch, channels * 2 * subbands, frames, dim_f / subbands).

    Keeps the lowest `dim_f` bins, of which the first `zero_bins` are silenced. The new channels count the
    audio channel slowest, then real and imaginary part, then the sub-band: L.re, L.im, R.re, R.im with one
    band. Frames and bins stay in the contract's order.
    """
    kept = mix[..., zero_bins:dim_f, :]
    if zero_bins:
        kept = F.pad(kept, (0, 0, zero_bins, 0))
    return kept.unflatten(3, (subbands, -1)).permute(0, 1, 5, 3, 2, 4).flatten(1, 3)


def unpack(x: Tensor, *, channels: int, bins: int, subbands: int = 1) -> Tensor:
    """(batch, stems * channels * 2 * subbands, frames, width) -> (batch, stems, channels, frames, bins, 2).

    The inverse of `pack` for every stem; the bins that the network does not know are zero.
    """
    split = x.unflatten(1, (-1, channels, 2, subbands))
    stems = split.permute(0, 1, 2, 5, 4, 6, 3).flatten(4, 5)
    return F.pad(stems, (0, 0, 0, bins - stems.shape[4]))


def masked(mix: Tensor, mask: Tensor) -> Tensor:
    """The complex product of two (..., 2)."""
    (re, im), (mask_re, mask_im) = mix.unbind(-1), mask.unbind(-1)
    return torch.stack((re * mask_re - im * mask_im, re * mask_im + im * mask_re), dim=-1)
