"""What a hybrid Demucs is made of, and what follows from that for each of its levels."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Level:
    """One level of the U-net: `outputs` channels.

    A `spectral` level shortens the bins of the spectrogram, and beside them the samples of the waveform, by
    `stride`; the level that `merges` leaves one bin, and joins the two branches; deeper ones shorten the
    frames. `kernel` and `padding` are those of the spectrogram's branch.
    """

    outputs: int
    spectral: bool
    merges: bool
    kernel: int
    stride: int
    padding: int
    norm: bool
    lstm: bool
    attention: bool


@dataclass(frozen=True)
class Sizes:
    """Arguments of the published classes, by their names there; but `width` is their `channels`.

    `cac`, complex as channels, is False for networks of magnitudes. Defaults are those of HDemucs (v3);
    `t_layers` is None for it. `audio_channels` and `num_stems` are those of the sound.
    """

    audio_channels: int = 2
    num_stems: int = 4
    n_fft: int = 4096
    cac: bool = True
    width: int = 48
    growth: int = 2
    depth: int = 6
    kernel_size: int = 8
    stride: int = 4
    time_stride: int = 2
    context: int = 1
    context_enc: int = 0
    freq_emb: float = 0.2
    emb_scale: float = 10
    norm_starts: int = 4
    norm_groups: int = 4
    dconv_mode: int = 1
    dconv_depth: int = 2
    dconv_comp: int = 4
    dconv_attn: int = 4
    dconv_lstm: int = 4
    bottom_channels: int = 0
    t_layers: int | None = None
    t_hidden_scale: float = 4.0
    t_heads: int = 8
    t_max_period: float = 10000.0
    t_weight_pos_embed: float = 1.0

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Sizes":
        """From the facts of a network."""
        known = {field.name for field in fields(cls)}
        return cls(audio_channels=facts["channels"], **{k: v for k, v in facts.items() if k in known})

    @property
    def levels(self) -> tuple[Level, ...]:
        """From the outermost inwards."""
        levels, bins = [], self.n_fft // 2
        for i in range(self.depth):
            spectral, merges = bins > 1, 1 < bins <= self.kernel_size
            kernel = bins if merges else self.kernel_size if spectral else 2 * self.time_stride
            levels.append(
                Level(
                    outputs=self.width * self.growth**i,
                    spectral=spectral,
                    merges=merges,
                    kernel=kernel,
                    stride=self.stride if spectral else self.time_stride,
                    padding=0 if merges else kernel // 4,
                    norm=i >= self.norm_starts,
                    lstm=self.t_layers is None and i >= self.dconv_lstm,
                    attention=self.t_layers is None and i >= self.dconv_attn,
                )
            )
            bins = 1 if merges or not spectral else bins // self.stride
        return tuple(levels)
