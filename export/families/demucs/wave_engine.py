"""A Demucs of one branch in the arrangement that engines run best: as its hybrid sibling's, see engine.py.

The two filters that resample stay float32 in every form: what they are given and what they make is the sound.
"""

from typing import Any

import torch
from torch import Tensor, nn

from rofo.export.families.demucs import wave_network as plain
from rofo.export.families.demucs.engine import arrangements, mean, replaced
from rofo.export.families.demucs.network import QUIETEST
from rofo.export.graph.types import Form, frozen


def arranged(network: plain.WaveDemucs, form: Form) -> nn.Module:
    """The network; it shares what weights it can."""
    own: dict[type[nn.Module], Any] = {
        plain.MonoLevelled: lambda _: MonoLevelled(form),
        plain.Resample: lambda resample: Resampled(resample.kernel(), resample.old),
    }
    return replaced(network, arrangements(form) | own)


class MonoLevelled(nn.Module):
    """As the plain network's."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, channels, samples)."""
        mono, count = x.mean(1, keepdim=True), x.shape[-1]
        level = mean(mono, (2,), self.form)
        mono = mono - level
        deviation = torch.sqrt(mean(mono * mono, (2,), self.form) * (count / (count - 1)))
        return (x - level) / (deviation + QUIETEST), level, deviation


class Resampled(nn.Module):
    """As the plain network's, the filter a table."""

    def __init__(self, kernel: Tensor, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = frozen(kernel), stride

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, samples)."""
        return plain.resampled(x, self.kernel, self.stride)
