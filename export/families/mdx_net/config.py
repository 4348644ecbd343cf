"""Hyper-parameters of the convolutional families: MDX-Net (ConvTDFNet) and TFC-TDF v3 (MDX23C)."""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

KeyLayout = Literal["new", "old"]

UVR_ZERO_BINS = 3  # Ultimate Vocal Remover silences so many; kuielab's code, which trained the networks, none


@dataclass(frozen=True)
class ConvTdfConfig:
    """Hyper-parameters of an MDX-Net (kuielab's ConvTDFNet, arXiv 2111.12203).

    `channels` of audio; `n_fft` and `hop_length` in samples. The network sees the lowest `dim_f` bins, the
    first `zero_bins` of them silenced, and multiplies its output by `compensate`. `growth` is g, the channels
    a scale adds; `kernel` k and `layers` l the size and number of convolutions in a block; `num_scales` is
    num_blocks // 2. `bottleneck` is bn, by which the linear layers along frequency narrow: 0 for one layer
    that does not, None for none; `tdf_bias` whether these layers have one. `key_layout` is "old" for
    mdx-net-submission's names. `norm` is "BatchNorm" or "GroupNormN" with N groups.
    """

    family: ClassVar[Literal["mdx_net"]] = "mdx_net"
    stft_normalized: ClassVar[bool] = False

    channels: int
    num_stems: int
    sample_rate: int
    n_fft: int
    hop_length: int
    dim_f: int
    zero_bins: int
    compensate: float
    growth: int
    kernel: int
    layers: int
    num_scales: int
    bottleneck: int | None
    tdf_bias: bool
    norm: str
    key_layout: KeyLayout

    @property
    def frame_step(self) -> int:
        """The number of frames must be a multiple of this."""
        return 1 << self.num_scales


@dataclass(frozen=True)
class MdxOnnxConfig:
    """How an MDX-Net published as an .onnx file is used, as in ConvTdfConfig; its graph knows the rest."""

    family: ClassVar[Literal["mdx_net"]] = "mdx_net"
    stft_normalized: ClassVar[bool] = False
    channels: ClassVar[int] = 2
    num_stems: ClassVar[int] = 1

    sample_rate: int
    n_fft: int
    hop_length: int
    dim_f: int
    zero_bins: int
    compensate: float


@dataclass(frozen=True)
class TfcTdfConfig:
    """Hyper-parameters of a TFC-TDF v3 (kuielab's SDX23 networks, MDX23C), named as in their yaml.

    `channels` of audio, where `num_channels` is the network's first width; `n_fft` and `hop_length` in
    samples. The lowest `dim_f` bins are cut into `num_subbands`. `scale` is the step between scales, (frames,
    bins). `norm` is "InstanceNorm", "BatchNorm" or "GroupNormN" with N groups; `act` is "gelu" (exact),
    "relu" or "eluA" with alpha A.
    """

    family: ClassVar[Literal["tfc_tdf_v3"]] = "tfc_tdf_v3"
    stft_normalized: ClassVar[bool] = False

    channels: int
    num_stems: int
    sample_rate: int
    n_fft: int
    hop_length: int
    dim_f: int
    num_subbands: int
    num_channels: int
    growth: int
    num_scales: int
    num_blocks_per_scale: int
    bottleneck_factor: int
    scale: tuple[int, int]
    norm: str
    act: str

    @property
    def frame_step(self) -> int:
        """The number of frames must be a multiple of this."""
        return int(self.scale[0] ** self.num_scales)


def norm_groups(norm: str) -> int | None:
    """N of "GroupNormN", None for every other norm."""
    found = re.fullmatch(r"GroupNorm([1-9]\d{0,5})", norm)
    return int(found[1]) if found else None


def elu_alpha(act: str) -> float | None:
    """A of "eluA", None for every other activation."""
    found = re.fullmatch(r"elu(\d+(\.\d*)?|\.\d+)", act)
    return float(found[1]) if found else None
