"""What the keys and shapes of an MDX-Net's or a TFC-TDF v3's state dict say about the network."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from rofo.export.families.mdx_net.config import KeyLayout
from rofo.export.families.roformer.shapes import Keys


@dataclass(frozen=True)
class ConvTdfShapes:
    """Everything about an MDX-Net that its weights decide; the names are explained at ConvTdfConfig.

    Not every file has the window and padding of its STFT: without these `n_fft` and `dim_t` (the frames it
    was trained on) are None. `dim_f` is None where it has no linear layers either. `norm` is "BatchNorm", or
    None for one that keeps no statistics.
    """

    channels: int
    num_stems: int
    n_fft: int | None
    dim_f: int | None
    dim_t: int | None
    growth: int
    kernel: int
    layers: int
    num_scales: int
    bottleneck: int | None
    tdf_bias: bool
    norm: str | None
    key_layout: KeyLayout


@dataclass(frozen=True)
class TfcTdfShapes:
    """Everything about a TFC-TDF v3 that its weights decide; the names are explained at TfcTdfConfig.

    `inputs` are 2 x channels x sub-bands, `sub_bins` the bins of a sub-band. `norm` is "BatchNorm", or None
    for one that keeps no statistics.
    """

    inputs: int
    sub_bins: int
    num_stems: int
    num_channels: int
    growth: int
    num_scales: int
    num_blocks_per_scale: int
    bottleneck_factor: int
    scale: tuple[int, int]
    norm: str | None


def is_conv_tdf(keys: Iterable[str]) -> bool:
    """Whether state-dict keys are an MDX-Net's."""
    return any(re.match(r"(encoding_blocks\.\d+\.tfc|ds_dense\.\d+)\.H\.", key) for key in keys)


def is_tfc_tdf(keys: Iterable[str]) -> bool:
    """Whether state-dict keys are a TFC-TDF v3's."""
    return any(re.match(r"encoder_blocks\.\d+\.tfc_tdf\.blocks\.", key) for key in keys)


def conv_tdf_shapes(path: Path, state: Mapping[str, torch.Tensor]) -> ConvTdfShapes:
    """Read the hyper-parameters off a state dict, which is left as it is.

    Raises CheckpointError where a key that the network cannot be without is missing or has an impossible
    shape, and where the checkpoint's STFT is not the one that rofo computes.
    """
    keys = _MdxKeys(path, state, "MDX-Net or MDX23C")
    layout: KeyLayout = "old" if "mid_dense.H.0.0.weight" in state else "new"
    blocks, convolutions = ("ds_dense", "H") if layout == "old" else ("encoding_blocks", "tfc.H")
    first, tdf = f"{blocks}.0.{convolutions}", f"{blocks}.0.tdf"
    packed = keys.size("first_conv.0.weight", 1)
    n_fft = _window(keys)
    dim_t, padded_dim_f = _padding(keys, n_fft)
    has_tdf = f"{tdf}.0.weight" in state
    return ConvTdfShapes(
        channels=keys.half("first_conv.0.weight", 1),
        num_stems=keys.ratio("final_conv.0.weight", packed),
        n_fft=n_fft,
        dim_f=keys.size(f"{tdf}.0.weight", 1) if has_tdf else padded_dim_f,
        dim_t=dim_t,
        growth=keys.size("first_conv.0.weight", 0),
        kernel=keys.odd(f"{first}.0.0.weight", 2),
        layers=keys.count(rf"{re.escape(first)}\.(\d+)\."),
        num_scales=keys.count(rf"{blocks}\.(\d+)\."),
        bottleneck=_bottleneck(keys, tdf) if has_tdf else None,
        tdf_bias=f"{tdf}.0.bias" in state,
        norm=_norm(state),
        key_layout=layout,
    )


def tfc_tdf_shapes(path: Path, state: Mapping[str, torch.Tensor]) -> TfcTdfShapes:
    """Read the hyper-parameters off a state dict, which is left as it is.

    Raises CheckpointError where a key that the network cannot be without is missing or has an impossible
    shape.
    """
    keys = _MdxKeys(path, state, "MDX-Net or MDX23C")
    down, tdf = "encoder_blocks.0.downscale.conv.2.weight", "encoder_blocks.0.tfc_tdf.blocks.0.tdf.2.weight"
    inputs, width = keys.size("first_conv.weight", 1), keys.size("first_conv.weight", 0)
    return TfcTdfShapes(
        inputs=inputs,
        sub_bins=keys.size(tdf, 1),
        num_stems=keys.ratio("final_conv.2.weight", inputs),
        num_channels=width,
        growth=keys.size(down, 0) - width,
        num_scales=keys.count(r"encoder_blocks\.(\d+)\."),
        num_blocks_per_scale=keys.count(r"encoder_blocks\.0\.tfc_tdf\.blocks\.(\d+)\."),
        bottleneck_factor=keys.narrowing(tdf),
        scale=(keys.size(down, 2), keys.size(down, 3)),
        norm=_norm(state),
    )


class _MdxKeys(Keys):
    """More look-ups."""

    def half(self, key: str, axis: int) -> int:
        size = self.size(key, axis)
        if size % 2:
            raise self.error(f"{key} is for {size} channels, not for pairs of real and imaginary part")
        return size // 2

    def odd(self, key: str, axis: int) -> int:
        size = self.size(key, axis)
        if size % 2 == 0:
            raise self.error(f"{key} is a convolution over {size}, an even number")
        return size

    def narrowing(self, key: str) -> int:
        """How many times more inputs than outputs a linear layer has."""
        inputs, outputs = self.size(key, 1), self.size(key, 0)
        if outputs > inputs:
            raise self.error(f"{key} has {inputs} inputs for {outputs} outputs")
        return inputs // outputs


def _window(keys: _MdxKeys) -> int | None:
    """n_fft, where the checkpoint brings the window of its STFT along; the runtime's must be the same."""
    window = keys.state.get("window")
    if window is None:
        return None
    hann = torch.hann_window(window.numel())
    if window.shape != hann.shape or not torch.allclose(window.float(), hann, atol=1e-3):
        raise keys.error("window is not a Hann window")
    return len(hann)


def _padding(keys: _MdxKeys, n_fft: int | None) -> tuple[int | None, int | None]:
    """Frames and dim_f, by the zeros that a checkpoint may bring along for the bins above dim_f."""
    padding = keys.state.get("freq_pad")
    if padding is None:
        return None, None
    if padding.ndim != 4 or padding.any():
        raise keys.error("freq_pad is not a spectrogram of zeros")
    above, frames = padding.shape[2:]
    # kuielab's later code keeps one frame, for any number of them.
    return frames if frames > 1 else None, n_fft // 2 + 1 - above if n_fft else None


def _bottleneck(keys: _MdxKeys, tdf: str) -> int:
    return keys.narrowing(f"{tdf}.0.weight") if f"{tdf}.3.weight" in keys.state else 0


def _norm(state: Mapping[str, torch.Tensor]) -> str | None:
    return "BatchNorm" if any(key.endswith(".running_mean") for key in state) else None
