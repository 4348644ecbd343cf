"""What a hybrid Demucs is made of, and what follows from that for each of its levels."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Self


@dataclass(frozen=True)
class CommonSizes:
    """Arguments that all published classes share, by their names there; but `width` is their `channels`.

    Defaults are those of v3. `audio_channels` and `num_stems` are those of the sound. `context` is what a
    convolution of the decoder sees to either side, before v3 in all.
    """

    audio_channels: int = 2
    num_stems: int = 4
    depth: int = 6
    kernel_size: int = 8
    stride: int = 4
    context: int = 1
    norm_starts: int = 4
    norm_groups: int = 4
    dconv_mode: int = 1
    dconv_depth: int = 2
    dconv_comp: int = 4
    dconv_attn: int = 4
    dconv_lstm: int = 4

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """From the facts of a network."""
        known = {field.name for field in fields(cls)}
        return cls(audio_channels=facts["channels"], **{k: v for k, v in facts.items() if k in known})


@dataclass(frozen=True)
class Level:
    """One level of the U-net: `outputs` channels.

    A `spectral` level shortens the bins of the spectrogram, and beside them the samples of the waveform, by
    `stride`; the level that `merges` leaves one bin, and joins the two branches; deeper ones shorten the
    frames. `kernel` and `padding` are those of the spectrogram's branch. Where bands of bins have weights of
    their own, `bands_down` and `bands_up` are (begin, end) of each among the inner bins, of the encoder and
    of the decoder; else they are empty.
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
    bands_down: tuple[tuple[int, int], ...] = ()
    bands_up: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Sizes(CommonSizes):
    """Those of a hybrid; defaults are those of HDemucs (v3), which has None for `t_layers`.

    `cac`, complex as channels, is False for networks of magnitudes. The outermost `multi_freqs_depth` levels
    are cut into bands at the parts `multi_freqs` of their bins.
    """

    n_fft: int = 4096
    cac: bool = True
    width: int = 48
    growth: int = 2
    time_stride: int = 2
    context_enc: int = 0
    multi_freqs: tuple[float, ...] = ()
    multi_freqs_depth: int = 0
    freq_emb: float = 0.2
    emb_scale: float = 10
    bottom_channels: int = 0
    t_layers: int | None = None
    t_hidden_scale: float = 4.0
    t_heads: int = 8
    t_max_period: float = 10000.0
    t_weight_pos_embed: float = 1.0

    @property
    def levels(self) -> tuple[Level, ...]:
        """From the outermost inwards."""
        levels, bins = [], self.n_fft // 2
        for i in range(self.depth):
            spectral, merges = bins > 1, 1 < bins <= self.kernel_size
            kernel = bins if merges else self.kernel_size if spectral else 2 * self.time_stride
            banded = bool(self.multi_freqs) and i < self.multi_freqs_depth
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
                    bands_down=self._bands_down(bins) if banded else (),
                    bands_up=self._bands_up(bins) if banded else (),
                )
            )
            bins = 1 if merges or not spectral else bins // self.stride
        return tuple(levels)

    def _bands_down(self, bins: int) -> tuple[tuple[int, int], ...]:
        """As MultiWrap (demucs/hdemucs.py) finds them: a band ends with the last whole step of its kernel."""
        edges = [0]
        for ratio in self.multi_freqs:
            seen = round(bins * ratio) + self.kernel_size // 4 - edges[-1] * self.stride
            edges.append(edges[-1] + round((seen - self.kernel_size) / self.stride + 1))
        return tuple(pairwise((*edges, bins // self.stride)))

    def _bands_up(self, bins: int) -> tuple[tuple[int, int], ...]:
        inner = bins // self.stride
        return tuple(pairwise((0, *(round(inner * ratio) for ratio in self.multi_freqs), inner)))
