"""Levels of a hybrid Demucs in which bands of bins have weights of their own (`multi_freqs`).

With the same weights in every band they are one layer over all bins: a band of the encoder sees beyond its
end what that layer's kernel would, and where two bands of the decoder reach the same bins they are added.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rofo.export.families.demucs.sizes import Level


class EncoderBands(nn.Module):
    """The encoders of a level's bands, which pad nothing: zeros are put before the first, behind the last."""

    def __init__(self, layers: Iterable[nn.Module], level: Level) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.level = level

    def forward(self, x: Tensor, _: Tensor | None = None) -> Tensor:
        """(batch, channels, bins, frames)."""
        bands = zip(self.layers, self.level.bands_down, strict=True)
        return torch.cat([layer(self._seen(x, *band)) for layer, band in bands], dim=2)

    def _seen(self, x: Tensor, begin: int, end: int) -> Tensor:
        """The bins that the inner bins from `begin` to `end` are made of."""
        level = self.level
        first = begin * level.stride - level.padding
        last = (end - 1) * level.stride + level.kernel - level.padding
        zeros = (0, 0, max(0, -first), max(0, last - x.shape[2]))
        return F.pad(x[:, :, max(0, first) : last], zeros) if any(zeros) else x[:, :, first:last]


class DecoderBands(nn.Module):
    """The decoders of a level's bands. What two of them put out overlaps by a stride."""

    def __init__(self, layers: Iterable[nn.Module], level: Level, *, last: bool) -> None:
        super().__init__()
        self.layers: Any = nn.ModuleList(layers)
        self.level, self.last = level, last

    def forward(self, x: Tensor | None, kept: Tensor, _: int) -> tuple[Tensor, None]:
        """(batch, channels, bins, frames), as a Decoder; its second result no such level gives."""
        x = kept if x is None else x.reshape(kept.shape) + kept
        stride = self.level.stride
        parts: list[Tensor] = []
        for layer, (begin, end) in zip(self.layers, self.level.bands_up, strict=True):
            y = layer.conv_tr(layer.refined(x[:, :, begin:end]))
            if parts:
                before = parts.pop()
                # Both have a bias; the sum shall have one, that of the band before.
                shared = before[:, :, -stride:] + (y[:, :, :stride] - layer.conv_tr.bias[:, None, None])
                parts += [before[:, :, :-stride], shared]
                y = y[:, :, stride:]
            parts.append(y)
        parts[0] = parts[0][:, :, stride // 2 :]
        parts[-1] = parts[-1][:, :, : stride // 2 - stride]
        y = torch.cat(parts, dim=2)
        return (y if self.last else F.gelu(y)), None
