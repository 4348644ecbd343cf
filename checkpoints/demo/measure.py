"""How well voices are separated: whole songs in, signal-to-distortion ratios out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from rofo.benchmarks.metrics import sdr
from rofo.checkpoints.demo.data import DataError, Role, Samples
from rofo.checkpoints.demo.mixing import held_out
from rofo.checkpoints.demo.network import CHUNK, SHAPE, istft, masked, stft

# The mix, [2, frames] -> the voice in it.
Separate = Callable[[Samples], Samples]


def separate(network: torch.nn.Module, mix: Samples) -> Samples:
    """Return the voice of a mix, [2, frames]: chunks that overlap by half, joined with triangular weights.

    The mix, longer than a chunk and a half, is reflected at its ends, as by MSST: silence there cost networks
    that had never seen any 2 dB of a 10 s mix. For validation during training; what is trained is measured
    through its engine.
    """
    frames, step = mix.shape[1], CHUNK // 2
    padded = np.pad(mix, ((0, 0), (step, CHUNK + step)), mode="reflect")
    ramp = 1 - (torch.arange(CHUNK) - (CHUNK - 1) / 2).abs() / step
    out = torch.zeros(2, padded.shape[1])
    with torch.inference_mode():
        for start in range(0, frames + step, step):
            chunk = torch.from_numpy(padded[None, :, start : start + CHUNK].copy())
            voice = istft(masked(network, stft(chunk, SHAPE)), SHAPE, CHUNK)[0]
            out[:, start : start + CHUNK] += voice * ramp
    # The two triangles over any sample sum to 1.
    result: Samples = out[:, step : step + frames].numpy()
    return result


def decibels_of(wanted: Samples, got: Samples) -> float:
    """The harness's SDR in dB. Raises DataError for a silent stem, which has none."""
    value = sdr(wanted, got)
    if value is None:
        raise DataError("a held-out stem is silent; cache its files again")
    return value


def measured(separate: Separate, voice: Samples, music: Samples) -> dict[str, float]:
    """SDRs in dB of the estimates, and of the mix as it is."""
    mix = voice + music
    estimate = separate(mix)
    return {
        "voice": decibels_of(voice, estimate),
        "music": decibels_of(music, mix - estimate),
        "mix_as_voice": decibels_of(voice, mix),
        "mix_as_music": decibels_of(music, mix),
    }


def measured_mixes(separate: Separate, cache: Path, role: Role) -> dict[str, dict[str, float]]:
    """The same for every held-out mix of a role."""
    mixes = held_out(cache, role)
    return {name: measured(separate, voice, music) for name, voice, music in mixes}


def mean_of(results: dict[str, dict[str, float]]) -> dict[str, float]:
    """Means over mixes, key by key."""
    rows = list(results.values())
    return {key: round(float(np.mean([row[key] for row in rows])), 2) for key in rows[0]}
