"""Demucs of one branch, the waveform's: v1 and v2 (arXiv 1911.13254), and that of v3 (arXiv 2111.03600).

A U-net of strided convolutions over the samples, upsampled by 2 but in v1. v1 and v2 have an LSTM over the
innermost level, and convolutions in the decoder that leave out what lies beyond the ends, so that less comes
out than went in; v3 has the residual branches of its hybrid sibling and keeps its length.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rofo.export.families.demucs.network import QUIETEST, DConv
from rofo.export.families.demucs.sizes import CommonSizes

# Of the filter that resamples (`resample_frac` of julius 0.2.8): zeros of the sinc to either side,
# and the part of the lower rate's band that it lets through.
_ZEROS, _ROLLOFF = 24, 0.945


@dataclass(frozen=True)
class WaveSizes(CommonSizes):
    """Those of one branch. `generation` is 1, 2 or 3; `levelled` is the published classes' `normalize`."""

    generation: int = 3
    width: int = 64
    growth: float = 2
    lstm_layers: int = 0
    gelu: bool = True
    levelled: bool = True
    resample: bool = True

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every level, from the outermost inwards."""
        widths = [self.width]
        while len(widths) < self.depth:
            widths.append(int(self.growth * widths[-1]))
        return tuple(widths)

    def valid_length(self, samples: int) -> int:
        """The least length, `samples` or more, that leaves nothing over in any convolution."""
        length = samples * (2 if self.resample else 1)
        for _ in range(self.depth):
            length = max(1, math.ceil((length - self.kernel_size) / self.stride) + 1)
            length += 0 if self.generation == 3 else self.context - 1
        for _ in range(self.depth):
            length = (length - 1) * self.stride + self.kernel_size
        return math.ceil(length / 2) if self.resample else length


class WaveDemucs(nn.Module):
    """Any of them. `sizes` say which.

    Where `widened` its input has a length that suits it, and what comes out shorter has zeros at both ends;
    else zeros are put around the input.
    """

    def __init__(self, sizes: WaveSizes, *, widened: bool) -> None:
        super().__init__()
        self.sizes, self.widened = sizes, widened
        self.levelled = MonoLevelled()
        self.up, self.down = Resample(1, 2), Resample(2, 1)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        outer = sizes.audio_channels
        for i, width in enumerate(sizes.widths):
            self.encoder.append(nn.Sequential(*_encoder(sizes, i, outer, width)))
            outputs = outer if i else outer * sizes.num_stems
            self.decoder.insert(0, nn.Sequential(*_decoder(sizes, i, width, outputs)))
            outer = width
        self.lstm = Lstm(outer, sizes.lstm_layers) if sizes.lstm_layers else None

    def forward(self, waveform: Tensor) -> Tensor:
        """waveform (batch, channels, samples) -> waveforms (batch, stems, channels, samples)."""
        samples = waveform.shape[-1]
        x, mean, deviation = waveform, 0.0, 1.0
        if self.sizes.levelled:
            x, mean, deviation = self.levelled(waveform)
        elif self.sizes.generation == 2:
            x = x / (1 + QUIETEST)
        room = 0 if self.widened else self.sizes.valid_length(samples) - samples
        x = F.pad(x, (room // 2, room - room // 2))
        y = self._u_net(self.up(x) if self.sizes.resample else x)
        y = self.down(y) if self.sizes.resample else y
        y = trimmed(y * deviation + mean, samples)
        return y.unflatten(1, (self.sizes.num_stems, -1))

    def _u_net(self, x: Tensor) -> Tensor:
        kept = []
        for encode in self.encoder:
            x = encode(x)
            kept.append(x)
        if self.lstm is not None:
            x = self.lstm(x)
        for decode in self.decoder:
            x = decode(x + trimmed(kept.pop(), x.shape[-1]))
        return x


def _encoder(sizes: WaveSizes, level: int, inputs: int, width: int) -> list[nn.Module]:
    """A convolution that shortens, a residual branch, and a gated convolution."""
    conv = nn.Conv1d(inputs, width, sizes.kernel_size, sizes.stride)
    rewrite = nn.Conv1d(width, 2 * width, 1)
    if sizes.generation < 3:
        return [conv, nn.ReLU(), rewrite, nn.GLU(1)]
    branch = [_dconv(sizes, level, width)] if sizes.dconv_mode & 1 else []
    norm, activation = _norm(sizes, level, width), _activation(sizes)
    return [conv, norm, activation, *branch, rewrite, _norm(sizes, level, 2 * width), nn.GLU(1)]


def _decoder(sizes: WaveSizes, level: int, width: int, outputs: int) -> list[nn.Module]:
    """The way back: a gated convolution, and one that lengthens."""
    last = nn.ConvTranspose1d(width, outputs, sizes.kernel_size, sizes.stride)
    if sizes.generation < 3:
        ending: list[nn.Module] = [nn.ReLU()] if level else []
        return [nn.Conv1d(width, 2 * width, sizes.context), nn.GLU(1), last, *ending]
    rewrite = nn.Conv1d(width, 2 * width, 1 + 2 * sizes.context, padding=sizes.context)
    branch = [_dconv(sizes, level, width)] if sizes.dconv_mode & 2 else []
    ending = [_norm(sizes, level, outputs), _activation(sizes)] if level else []
    return [rewrite, _norm(sizes, level, 2 * width), nn.GLU(1), *branch, last, *ending]


def _dconv(sizes: WaveSizes, level: int, width: int) -> DConv:
    lstm, attention = level >= sizes.dconv_lstm, level >= sizes.dconv_attn
    return DConv(width, width // sizes.dconv_comp, sizes.dconv_depth, lstm=lstm, attention=attention)


def _norm(sizes: WaveSizes, level: int, channels: int) -> nn.Module:
    return nn.GroupNorm(sizes.norm_groups, channels) if level >= sizes.norm_starts else nn.Identity()


def _activation(sizes: WaveSizes) -> nn.Module:
    return nn.GELU() if sizes.gelu else nn.ReLU()


def trimmed(x: Tensor, samples: int) -> Tensor:
    """The middle of x (..., n), or x in the middle of zeros, where it is too short."""
    excess = x.shape[-1] - samples
    return F.pad(x, (-(excess // 2), -(excess - excess // 2))) if excess else x


class MonoLevelled(nn.Module):
    """Each item of a batch by mean and deviation of its channel mean, and these two, broadcastable."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, channels, samples)."""
        mono = x.mean(1, keepdim=True)
        mean, deviation = mono.mean(-1, keepdim=True), mono.std(-1, keepdim=True)
        return (x - mean) / (deviation + QUIETEST), mean, deviation


class Lstm(nn.Module):
    """Bidirectional LSTM layers over the whole sequence, without a shortcut."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, num_layers=layers, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, steps)."""
        y: Tensor = self.linear(self.lstm(x.transpose(1, 2))[0])
        return y.transpose(1, 2)


class Resample(nn.Module):
    """From rate `old` to `new`, one of them 1, by a windowed sinc; ends are taken to go on as they are."""

    def __init__(self, old: int, new: int) -> None:
        super().__init__()
        self.old, self.new = old, new

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, samples) -> (batch, channels, samples * new // old)."""
        return resampled(x, self.kernel(), self.old)

    def kernel(self) -> Tensor:
        """(new, 1, taps)."""
        return _kernel(self.old, self.new)


def resampled(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """x (batch, channels, n) filtered by each of `kernel` (phases, 1, taps) at every `stride`-th sample, the
    phases in turn."""
    reach = (kernel.shape[-1] - stride) // 2
    padded = F.pad(x.flatten(0, 1)[:, None], (reach, reach), mode="replicate")
    found = F.conv1d(padded, kernel, stride=stride)[..., : x.shape[-1] // stride]
    return found.transpose(1, 2).flatten(1).unflatten(0, x.shape[:2])


@cache
def _kernel(old: int, new: int) -> Tensor:
    """The filter from rate `old` to `new` (new, 1, 2 reach + old); computed in float64.

    y[j] = sum over i of x[i] h(i / old - j / new), h(t) = sinc(rate t) cos(pi rate t / 2 zeros)^2, rate = the
    lower of both times the roll-off, divided by its sum.
    """
    rate = min(old, new) * _ROLLOFF
    reach = math.ceil(_ZEROS * old / rate)
    place = np.arange(-reach, reach + old) / old - np.arange(new)[:, None] / new
    turns = np.clip(place * rate, -_ZEROS, _ZEROS)
    kernel = np.sinc(turns) * np.cos(np.pi * turns / _ZEROS / 2) ** 2
    kernel /= kernel.sum(axis=1, keepdims=True)
    return torch.from_numpy(kernel[:, None].astype(np.float32))
