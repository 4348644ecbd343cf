"""Hybrid Demucs (v3, arXiv 2111.03600) and Hybrid Transformer Demucs (v4, arXiv 2211.08553).

Two U-nets side by side, one over the bins of a spectrogram whose complex numbers are channels, one over the
samples of the waveform. In v3 the two become one at the level where a single bin is left, below which layers
shorten the frames; in v4 a transformer sees the innermost level of both. x is (batch, channels, bins, frames)
in the spectrogram's branch, (batch, channels, samples) in the waveform's and where the branches are one.
"""

import math
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rofo.export.families.demucs.bands import DecoderBands, EncoderBands
from rofo.export.families.demucs.sizes import Level, Sizes

LSTM_WINDOW = 200  # steps; longer sequences are cut into windows that begin every half of it
LOCAL_HEADS = DECAYS = 4
QUIETEST = 1e-5


@dataclass(frozen=True)
class _Kept:
    """What the levels of one branch of the encoder put out, and how long they found it."""

    outputs: list[Tensor] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)


class Demucs(nn.Module):
    """Either network. `sizes` say which."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.levelled = Levelled()
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        self.tencoder, self.tdecoder = nn.ModuleList(), nn.ModuleList()
        wave = sizes.audio_channels
        outer = 2 * wave if sizes.cac else wave  # of the spectrogram
        stems = sizes.num_stems
        for i, level in enumerate(sizes.levels):
            inputs = sizes.levels[i - 1].outputs if i else outer
            given = inputs if i else outer * stems
            inputs_t, given_t = (inputs, given) if i else (wave, wave * stems)
            self.encoder.append(_encoder(sizes, level, inputs))
            self.decoder.insert(0, _decoder(sizes, level, given, last=i == 0))
            if level.spectral:
                self.tencoder.append(Encoder(sizes, level, inputs_t, waveform=True))
                self.tdecoder.insert(0, Decoder(sizes, level, given_t, last=i == 0, waveform=True))
        self.freq_emb = ScaledEmbedding(sizes) if sizes.freq_emb else None
        if sizes.t_layers is not None:
            self._add_transformer(sizes, sizes.t_layers)

    def _add_transformer(self, sizes: Sizes, layers: int) -> None:
        inner, bottom = sizes.levels[-1].outputs, sizes.bottom_channels
        if bottom:
            self.channel_upsampler, self.channel_upsampler_t = (nn.Conv1d(inner, bottom, 1) for _ in "xt")
            self.channel_downsampler, self.channel_downsampler_t = (nn.Conv1d(bottom, inner, 1) for _ in "xt")
        self.crosstransformer = CrossTransformer(sizes, bottom or inner, layers)

    def forward(self, mix: Tensor, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Both parts of the stems, whose sum is the result once the first is transformed back.

        mix (batch, channels, frames, bins, 2), waveform (batch, channels, samples) ->
        stems (batch, stems, channels, frames, bins, 2), waveforms (batch, stems, channels, samples).
        """
        x, mean, deviation = self.levelled(self._channels(mix))
        wave, wave_mean, wave_deviation = self.levelled(waveform)
        x, wave = self._u_net(x, wave)
        stems = self._spectra(x * deviation + mean, mix)
        waveforms = (wave * wave_deviation + wave_mean).unflatten(1, (self.sizes.num_stems, -1))
        return stems, waveforms

    def _channels(self, mix: Tensor) -> Tensor:
        """The spectrogram as channels (batch, channels [x 2], bins, frames)."""
        if self.sizes.cac:
            return mix.permute(0, 1, 4, 3, 2).flatten(1, 2)
        return magnitude(mix).squeeze(-1).transpose(2, 3)

    def _spectra(self, x: Tensor, mix: Tensor) -> Tensor:
        """Channels as stems; magnitudes have the angles of the mix, or 0 where it is 0."""
        if self.sizes.cac:
            return x.unflatten(1, (self.sizes.num_stems, -1, 2)).permute(0, 1, 2, 5, 4, 3)
        size = magnitude(mix)
        one = torch.tensor((1.0, 0.0), dtype=mix.dtype, device=mix.device)
        angles = torch.where(size > 0, mix / torch.where(size > 0, size, 1), one)
        return x.unflatten(1, (self.sizes.num_stems, -1)).transpose(3, 4)[..., None] * angles[:, None]

    def _u_net(self, x: Tensor, wave: Tensor) -> tuple[Tensor, Tensor]:
        kept, kept_waves = _Kept(), _Kept()
        for i, encode in enumerate(self.encoder):
            kept.lengths.append(x.shape[-1])
            merged = None
            if i < len(self.tencoder):
                kept_waves.lengths.append(wave.shape[-1])
                wave = self.tencoder[i](wave)
                if self.tencoder[i].merges:
                    merged = wave
                else:
                    kept_waves.outputs.append(wave)
            x = encode(x, merged)
            if i == 0 and self.freq_emb is not None:
                x = x + self.freq_emb()
            kept.outputs.append(x)
        if self.sizes.t_layers is not None:
            return self._decoded(*self._transformed(x, wave), kept, kept_waves)
        # Without a transformer the decoder has nothing but what the levels of the encoder put out.
        return self._decoded(None, None, kept, kept_waves)

    def _decoded(
        self, x: Tensor | None, wave: Tensor | None, kept: "_Kept", kept_waves: "_Kept"
    ) -> tuple[Tensor, Tensor]:
        offset = len(self.decoder) - len(self.tdecoder)
        for i, decode in enumerate(self.decoder):
            x, before = decode(x, kept.outputs.pop(), kept.lengths.pop())
            if i >= offset:
                decode_wave = self.tdecoder[i - offset]
                if decode_wave.merges:
                    wave, _ = decode_wave(before.squeeze(2), None, kept_waves.lengths.pop())
                else:
                    wave, _ = decode_wave(wave, kept_waves.outputs.pop(), kept_waves.lengths.pop())
        assert x is not None
        assert wave is not None
        return x, wave

    def _transformed(self, x: Tensor, wave: Tensor) -> tuple[Tensor, Tensor]:
        bins = x.shape[2]
        if self.sizes.bottom_channels:
            x = self.channel_upsampler(x.flatten(2)).unflatten(2, (bins, -1))
            wave = self.channel_upsampler_t(wave)
        x, wave = self.crosstransformer(x, wave)
        if self.sizes.bottom_channels:
            x = self.channel_downsampler(x.flatten(2)).unflatten(2, (bins, -1))
            wave = self.channel_downsampler_t(wave)
        return x, wave


def magnitude(spectrum: Tensor) -> Tensor:
    """(..., 2) -> (..., 1)."""
    return spectrum.square().sum(-1, keepdim=True).sqrt()


class Levelled(nn.Module):
    """Each item of a batch at mean 0 and deviation 1, and the two that it had, broadcastable."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, ...)."""
        dims = tuple(range(1, x.ndim))
        mean, deviation = x.mean(dims, keepdim=True), x.std(dims, keepdim=True)
        return (x - mean) / (deviation + QUIETEST), mean, deviation


class Encoder(nn.Module):
    """A convolution that shortens, a residual branch, and a gated convolution.

    Of the level that merges the waveform's branch has the first alone.
    """

    def __init__(self, sizes: Sizes, level: Level, inputs: int, *, waveform: bool = False) -> None:
        super().__init__()
        outputs, context = level.outputs, sizes.context_enc
        self.rows = level.spectral and not waveform
        self.merges = waveform and level.merges
        self.stride = sizes.stride if waveform else level.stride
        kernel, padding = (
            (sizes.kernel_size, sizes.kernel_size // 4) if waveform else (level.kernel, level.padding)
        )
        self.conv = _conv(self.rows, inputs, outputs, kernel, self.stride, padding)
        if self.merges:
            return
        self.norm1 = _norm(sizes, level, outputs)
        kind = nn.Conv2d if self.rows else nn.Conv1d
        self.rewrite = kind(outputs, 2 * outputs, 1 + 2 * context, padding=context)
        self.norm2 = _norm(sizes, level, 2 * outputs)
        self.dconv = _dconv(sizes, level, rows=self.rows) if sizes.dconv_mode & 1 else nn.Identity()

    def forward(self, x: Tensor, merged: Tensor | None = None) -> Tensor:
        """`merged` is what the waveform's branch puts out at the level where the two become one."""
        if not self.rows:
            x = x.squeeze(2) if x.ndim == 4 else x
            x = F.pad(x, (0, -x.shape[-1] % self.stride))
        x = self.conv(x)
        if self.merges:
            return x
        if merged is not None:
            x = x + merged.unsqueeze(2)
        x = self.dconv(F.gelu(self.norm1(x)))
        return F.glu(self.norm2(self.rewrite(x)), dim=1)


class Decoder(nn.Module):
    """The way back: a gated convolution of what came and what the encoder kept, and one that lengthens."""

    def __init__(
        self, sizes: Sizes, level: Level, outputs: int, *, last: bool, waveform: bool = False
    ) -> None:
        super().__init__()
        inputs, context = level.outputs, sizes.context
        self.rows = level.spectral and not waveform
        self.merges, self.last = waveform and level.merges, last
        kernel, self.padding = (
            (sizes.kernel_size, sizes.kernel_size // 4) if waveform else (level.kernel, level.padding)
        )
        stride = sizes.stride if waveform else level.stride
        self.conv_tr = _transposed(self.rows, inputs, outputs, kernel, stride)
        self.norm2 = _norm(sizes, level, outputs)
        if self.merges:
            return
        kind = nn.Conv2d if self.rows else nn.Conv1d
        self.rewrite = kind(inputs, 2 * inputs, 1 + 2 * context, padding=context)
        if self.rows and level.bands_up:  # a band's end is no end of the bins: over frames alone
            self.rewrite = nn.Conv2d(inputs, 2 * inputs, (1, 1 + 2 * context), padding=(0, context))
        self.norm1 = _norm(sizes, level, 2 * inputs)
        self.dconv = _dconv(sizes, level, rows=self.rows) if sizes.dconv_mode & 2 else nn.Identity()

    def forward(self, x: Tensor | None, kept: Tensor | None, length: int) -> tuple[Tensor, Tensor]:
        """-> the output, `length` frames or samples long, and what the last convolution was given."""
        if kept is not None:
            x = self.refined(kept if x is None else x.reshape(kept.shape) + kept)
        assert x is not None
        y = self.norm2(self.conv_tr(x))
        if self.rows:
            y = y[:, :, self.padding : y.shape[2] - self.padding]
        else:
            y = y[..., self.padding : self.padding + length]
        return (y if self.last else F.gelu(y)), x

    def refined(self, x: Tensor) -> Tensor:
        """What the convolution that lengthens is given."""
        y: Tensor = self.dconv(F.glu(self.norm1(self.rewrite(x)), dim=1))
        return y


class DConv(nn.Module):
    """Residual branches over time, each narrow and dilated twice as far as the one before.

    With `rows` x has bins, each of which is by itself.
    """

    def __init__(
        self, width: int, hidden: int, depth: int, *, lstm: bool, attention: bool, rows: bool = False
    ) -> None:
        super().__init__()
        self.rows = rows
        self.layers = nn.ModuleList()
        for i in range(depth):
            over_time: list[nn.Module] = []
            if lstm:
                over_time.append(BLSTM(hidden))
            if attention:
                over_time.append(LocalState(hidden))
            self.layers.append(
                nn.Sequential(
                    nn.Conv1d(width, hidden, 3, dilation=2**i, padding=2**i),
                    nn.GroupNorm(1, hidden),
                    nn.GELU(),
                    *over_time,
                    nn.Conv1d(hidden, 2 * width, 1),
                    nn.GroupNorm(1, 2 * width),
                    nn.GLU(1),
                    LayerScale(width),
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, frames), or (batch, channels, bins, frames)."""
        y = x.transpose(1, 2).flatten(0, 1) if self.rows else x
        for layer in self.layers:
            y = y + layer(y)
        return y.unflatten(0, (x.shape[0], -1)).transpose(1, 2) if self.rows else y


class LayerScale(nn.Module):
    """A gain per channel; `scale` (channels,)."""

    def __init__(self, channels: int, *, last: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(channels))
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, frames), or where channels are `last`, (batch, tokens, channels)."""
        return self.scale * x if self.last else self.scale[:, None] * x


class BLSTM(nn.Module):
    """Two bidirectional LSTM layers with a shortcut around them, over windows of a long sequence."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, num_layers=2, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, frames)."""
        frames = x.shape[-1]
        windows = windowed(x) if frames > LSTM_WINDOW else x
        y = self.linear(self.lstm(windows.transpose(1, 2))[0]).transpose(1, 2)
        return x + (joined(y, len(x))[..., :frames] if frames > LSTM_WINDOW else y)


def windowed(x: Tensor) -> Tensor:
    """(batch, channels, frames) -> (batch x windows, channels, LSTM_WINDOW), zeros behind the last frames."""
    step = LSTM_WINDOW // 2
    count = math.ceil(x.shape[-1] / step)
    halves = F.pad(x, (0, (count + 1) * step - x.shape[-1])).unflatten(2, (count + 1, step)).transpose(1, 2)
    return torch.cat((halves[:, :-1], halves[:, 1:]), dim=-1).flatten(0, 1)


def joined(windows: Tensor, batch: int) -> Tensor:
    """Windows put end to end, a quarter cut off each end but the first and the last."""
    edge = LSTM_WINDOW // 4
    windows = windows.unflatten(0, (batch, -1))
    middle = windows[..., edge:-edge].transpose(1, 2).flatten(2)
    return torch.cat((windows[:, 0, :, :edge], middle, windows[:, -1, :, -edge:]), dim=-1)


class LocalState(nn.Module):
    """Attention over frames, never to oneself, with penalties that grow with the distance.

    Each query says how much of each of `DECAYS` penalties it takes.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.content, self.query, self.key = (nn.Conv1d(width, width, 1) for _ in range(3))
        self.query_decay = nn.Conv1d(width, LOCAL_HEADS * DECAYS, 1)
        self.proj = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, frames)."""
        query, key, content, decay = (
            conv(x).unflatten(1, (LOCAL_HEADS, -1))
            for conv in (self.query, self.key, self.content, self.query_decay)
        )
        scores = query.transpose(2, 3) @ key / key.shape[2] ** 0.5  # (batch, heads, queries, keys)
        place = torch.arange(x.shape[-1], dtype=x.dtype, device=x.device)
        distance = (place[:, None] - place).abs()
        steps = torch.arange(1, DECAYS + 1, dtype=x.dtype, device=x.device)
        penalty = (torch.sigmoid(decay) / 2 * steps[:, None]).sum(2) / DECAYS**0.5
        scores = scores - penalty.unsqueeze(3) * distance
        itself = torch.eye(x.shape[-1], dtype=torch.bool, device=x.device)
        weights = scores.masked_fill(itself, -100).softmax(-1)
        return x + self.proj((content @ weights.transpose(2, 3)).flatten(1, 2))


class ScaledEmbedding(nn.Module):
    """What is added to every bin of the first level; `embedding` holds it in a smaller scale."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embedding = nn.Embedding(sizes.n_fft // 2 // sizes.stride, sizes.width)
        self.scale = sizes.freq_emb * sizes.emb_scale

    def forward(self) -> Tensor:
        """(channels, bins, 1)."""
        return self.scale * self.embedding.weight.T[:, :, None]


class CrossTransformer(nn.Module):
    """Layers that see their own branch, in turn with layers that see the other one."""

    def __init__(self, sizes: Sizes, width: int, layers: int) -> None:
        super().__init__()
        self.gain = sizes.t_weight_pos_embed
        self.places, self.places_t = Positions2d(sizes.t_max_period), Positions(sizes.t_max_period)
        self.norm_in, self.norm_in_t = nn.LayerNorm(width), nn.LayerNorm(width)
        hidden = int(width * sizes.t_hidden_scale)
        self.layers, self.layers_t = (
            nn.ModuleList(
                (CrossLayer if i % 2 else SelfLayer)(width, sizes.t_heads, hidden) for i in range(layers)
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor, wave: Tensor) -> tuple[Tensor, Tensor]:
        """x (batch, channels, bins, frames) and wave (batch, channels, frames of it), both as they came."""
        bins, frames = x.shape[2:]
        x = self.norm_in(x.transpose(2, 3).flatten(2).transpose(1, 2))  # a token is a frame's bin
        x = x + self.gain * self.places(x.shape[2], frames, bins)
        wave = self.norm_in_t(wave.transpose(1, 2))
        wave = wave + self.gain * self.places_t(wave.shape[2], wave.shape[1])
        for layer, layer_t in zip(self.layers, self.layers_t, strict=True):
            x, wave = layer(x, wave), layer_t(wave, x)
        return x.transpose(1, 2).unflatten(2, (frames, bins)).transpose(2, 3), wave.transpose(1, 2)


class Positions(nn.Module):
    """(length, width): cosines, then sines."""

    def __init__(self, period: float) -> None:
        super().__init__()
        self.period = period

    def forward(self, width: int, length: int) -> Tensor:
        """What is added to `length` tokens."""
        half = width // 2
        angle = torch.arange(length)[:, None] / self.period ** (torch.arange(half) / (half - 1))
        return torch.cat((angle.cos(), angle.sin()), dim=1)


class Positions2d(nn.Module):
    """(frames x bins, width): half of the channels tell the frame, half the bin; sine and cosine by turns."""

    def __init__(self, period: float) -> None:
        super().__init__()
        self.period = period

    def forward(self, width: int, frames: int, bins: int) -> Tensor:
        """What is added to the tokens, which are bins of a frame after those of the frame before."""
        half = width // 2
        rate = torch.exp(torch.arange(0.0, half, 2) * (-math.log(self.period) / half))
        angles = (torch.arange(0.0, count)[:, None] * rate for count in (frames, bins))
        frame, bin_ = (torch.stack((angle.sin(), angle.cos()), dim=2).flatten(1) for angle in angles)
        both = (frame[:, None].expand(-1, bins, -1), bin_[None].expand(frames, -1, -1))
        return torch.cat(both, dim=2).flatten(0, 1)


class SelfLayer(nn.Module):
    """Attention within a branch, and two linear layers, each on a norm of what is there and added to it."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm_out = TokenNorm(width)
        self.gamma_1, self.gamma_2 = LayerScale(width, last=True), LayerScale(width, last=True)

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        """(batch, tokens, channels)."""
        y = self.norm1(x)
        x = x + self.gamma_1(self.self_attn(y, y, y, need_weights=False)[0])
        x = x + self.gamma_2(self.linear2(F.gelu(self.linear1(self.norm2(x)))))
        return self.norm_out(x)


class CrossLayer(nn.Module):
    """As SelfLayer, but it attends to the other branch."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.cross_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.norm_out = TokenNorm(width)
        self.gamma_1, self.gamma_2 = LayerScale(width, last=True), LayerScale(width, last=True)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """(batch, tokens, channels) and (batch, tokens of the other branch, channels)."""
        y = self.norm2(other)
        x = x + self.gamma_1(self.cross_attn(self.norm1(x), y, y, need_weights=False)[0])
        x = x + self.gamma_2(self.linear2(F.gelu(self.linear1(self.norm3(x)))))
        return self.norm_out(x)


class TokenNorm(nn.GroupNorm):
    """One mean and deviation of all tokens and channels."""

    def __init__(self, width: int) -> None:
        super().__init__(1, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, channels)."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def _encoder(sizes: Sizes, level: Level, inputs: int) -> nn.Module:
    """Of the spectrogram's branch."""
    if not level.bands_down:
        return Encoder(sizes, level, inputs)
    inner = replace(level, padding=0)
    return EncoderBands((Encoder(sizes, inner, inputs) for _ in level.bands_down), level)


def _decoder(sizes: Sizes, level: Level, outputs: int, *, last: bool) -> nn.Module:
    if not level.bands_up:
        return Decoder(sizes, level, outputs, last=last)
    return DecoderBands((Decoder(sizes, level, outputs, last=last) for _ in level.bands_up), level, last=last)


def _dconv(sizes: Sizes, level: Level, *, rows: bool) -> DConv:
    hidden = level.outputs // sizes.dconv_comp
    return DConv(
        level.outputs, hidden, sizes.dconv_depth, lstm=level.lstm, attention=level.attention, rows=rows
    )


def _norm(sizes: Sizes, level: Level, channels: int) -> nn.Module:
    return nn.GroupNorm(sizes.norm_groups, channels) if level.norm else nn.Identity()


def _conv(rows: bool, inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> nn.Module:
    if rows:
        return nn.Conv2d(inputs, outputs, (kernel, 1), (stride, 1), (padding, 0))
    return nn.Conv1d(inputs, outputs, kernel, stride, padding)


def _transposed(rows: bool, inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    if rows:
        return nn.ConvTranspose2d(inputs, outputs, (kernel, 1), (stride, 1))
    return nn.ConvTranspose1d(inputs, outputs, kernel, stride)
