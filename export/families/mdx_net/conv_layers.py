"""Convolutions and norms of the convolutional families, built from public weights."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rofo.export.errors import CheckpointError
from rofo.export.families.mdx_net.config import ConvTdfConfig, TfcTdfConfig, norm_groups
from rofo.export.graph.weights import Weights

_EPSILON = 1e-5  # of every norm in both families: torch's default

Step = tuple[int, int]


class Conv(nn.Module):
    """2-D convolution that keeps the size, or divides it by its kernel when that is also the step."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, step: Step = (1, 1)) -> None:
        """`weight`: (outputs, inputs, frames, bins)."""
        super().__init__()
        self.weight, self.bias = _constant(weight), None if bias is None else _constant(bias)
        self.step, self.padding = step, 0 if step == tuple(weight.shape[2:]) else weight.shape[2] // 2

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, inputs, frames, bins) -> (batch, outputs, frames / step, bins / step)."""
        return F.conv2d(x, self.weight, self.bias, stride=self.step, padding=self.padding)


class TransposedConv(nn.Module):
    """2-D transposed convolution whose kernel is also its step: every input becomes a tile."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """`weight`: (inputs, outputs, frames, bins)."""
        super().__init__()
        self.weight, self.bias = _constant(weight), None if bias is None else _constant(bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, inputs, frames, bins) -> (batch, outputs, frames * step, bins * step)."""
        step = self.weight.shape[2], self.weight.shape[3]
        return F.conv_transpose2d(x, self.weight, self.bias, stride=step)


class ScaleShift(nn.Module):
    """x * scale + shift per channel: a BatchNorm that nothing before it can absorb."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale, self.shift = (_constant(x.float()[:, None, None]) for x in (scale, shift))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, frames, bins) -> the same shape."""
        return x * self.scale + self.shift


class GroupNorm(nn.Module):
    """Norm over groups of channels and the whole chunk; with a group per channel it is InstanceNorm."""

    def __init__(self, gamma: Tensor, beta: Tensor, groups: int) -> None:
        super().__init__()
        self.gamma, self.beta, self.groups = _constant(gamma), _constant(beta), groups

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, frames, bins) -> the same shape."""
        if self.groups == len(self.gamma):
            return F.instance_norm(x, weight=self.gamma, bias=self.beta, eps=_EPSILON)
        return F.group_norm(x, self.groups, self.gamma, self.beta, _EPSILON)


def read_norm(weights: Weights, key: str, norm: str, channels: int) -> ScaleShift | GroupNorm:
    """The norm stored under `key`. Raises CheckpointError where its groups do not divide the channels."""
    if norm == "BatchNorm":
        return ScaleShift(*read_batch_norm(weights, key, channels))
    groups = norm_groups(norm) or channels
    if channels % groups:
        raise CheckpointError(
            f"{norm} cannot divide the {channels} channels of {key}; give the yaml published with the network"
        )
    return GroupNorm(weights.take(f"{key}.weight", channels), weights.take(f"{key}.bias", channels), groups)


def read_batch_norm(weights: Weights, key: str, channels: int) -> tuple[Tensor, Tensor]:
    """Scale and shift, float64, that a trained BatchNorm amounts to."""
    gamma, beta, mean, variance = (
        weights.take(f"{key}.{name}", channels).double()
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    weights.discard(f"{key}.num_batches_tracked")
    scale = gamma / torch.sqrt(variance + _EPSILON)
    return scale, beta - mean * scale


def check_sizes(config: ConvTdfConfig | TfcTdfConfig, frames: int, rows: int, row_step: int) -> None:
    """Raise CheckpointError unless `frames`, and the `rows` of a sub-band, halve down to the last scale."""
    bins = config.n_fft // 2 + 1
    if config.dim_f > bins:
        raise CheckpointError(
            f"the network sees {config.dim_f} bins, n_fft {config.n_fft} has {bins}; give its own n_fft"
        )
    if rows % row_step:
        raise CheckpointError(
            f"{rows} bins do not divide by {row_step} for {config.num_scales} scales; "
            "the checkpoint or its yaml is not that of a working network"
        )
    if frames % config.frame_step:
        nearest = max(1, round(frames / config.frame_step)) * config.frame_step
        seconds = config.hop_length * (nearest - 1) / config.sample_rate
        raise CheckpointError(
            f"a chunk of {frames} frames does not divide by {config.frame_step}; "
            f"choose --chunk {seconds:.6f}, which has {nearest} frames"
        )


def _constant(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
